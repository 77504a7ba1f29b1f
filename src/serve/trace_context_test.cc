#include "serve/trace_context.h"

#include <gtest/gtest.h>

#include <string>

namespace penstock::serve {
namespace {

TEST(TraceContext, IsTakenIfItIsValid) {
  const std::string valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const auto taken = [](std::string value) {
    net::HttpRequest request;
    request.headers.emplace_back("traceparent", std::move(value));
    return !traceparent_of(request).empty();
  };
  EXPECT_TRUE(taken(valid));
  EXPECT_EQ(trace_id_of(valid), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(traceparent_of({}), "");
  EXPECT_EQ(trace_id_of(""), "");
  const auto with = [&](std::size_t at, std::string_view text) {
    return std::string(valid).replace(at, text.size(), text);
  };
  for (const std::string& odd :
       {std::string(), valid + "0", valid.substr(1), with(0, "ff"), with(0, "01"), with(2, "_"),
        with(3, std::string(32, '0')), with(36, std::string(16, '0')), with(5, "G"), with(5, "A"),
        with(35, "0"), with(52, "0"), with(53, "\n")}) {
    EXPECT_FALSE(taken(odd)) << odd;
  }
}

}  // namespace
}  // namespace penstock::serve
