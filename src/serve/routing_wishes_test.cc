#include "serve/routing_wishes.h"

#include <gtest/gtest.h>

namespace penstock::serve {
namespace {

Result<Labels> labels_of(const std::vector<std::string>& lines) {
  net::HttpRequest request;
  for (const std::string& line : lines) request.headers.emplace_back("x-worker-labels", line);
  const Result<RoutingWishes> wishes = read_routing_wishes(request);
  if (!wishes) return std::unexpected(wishes.error());
  return wishes->labels;
}

TEST(RoutingWishesTest, LabelsAreOneListWhateverItsLinesAndBlanks) {
  const Labels both{{"zone", "eu"}, {"gpu", "h100"}};
  EXPECT_EQ(labels_of({"zone=eu,gpu=h100"}), both);
  EXPECT_EQ(labels_of({"zone=eu, gpu=h100"}), both);
  EXPECT_EQ(labels_of({" zone=eu \t,  gpu=h100 "}), both);
  EXPECT_EQ(labels_of({"zone=eu", " ", "gpu=h100", ""}), both);
  EXPECT_EQ(labels_of({}), Labels{});
  EXPECT_EQ(labels_of({""}), Labels{});
  for (const auto& wrong : {"zone = eu", "zone=eu,,gpu=h100", "zone=eu,", "zone"}) {
    EXPECT_EQ(labels_of({wrong}).error().param, "x-worker-labels") << wrong;
  }
  EXPECT_FALSE(labels_of({"zone=eu", "zone=us"}).has_value());
}

}  // namespace
}  // namespace penstock::serve
