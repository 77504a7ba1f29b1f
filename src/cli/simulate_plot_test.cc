#include "cli/simulate_plot.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sim/generators.h"

namespace penstock::cli {
namespace {

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) {
    ++found;
  }
  return found;
}

TEST(SimulatedPlot, HasACurveAPolicyAndLoadsNothing) {
  const auto trace = sim::generate("poisson:requests=50,rate=20", 1, SIZE_MAX);
  ASSERT_TRUE(trace.has_value());
  std::vector<SimulatedRun> runs;
  sim::Setup setup{.workers = 3, .series = true};
  for (const char* policy : {"round-robin", "random"}) {
    setup.policy = policy;
    runs.push_back({.report = *sim::simulate(*trace, setup)});
  }
  const std::string html = simulated_plot(runs, setup, "a<b>");
  EXPECT_EQ(count(html, "<polyline"), 8U);  // four charts
  EXPECT_EQ(count(html, "<svg"), 6U);       // and a strip a policy
  EXPECT_NE(html.find("a&lt;b&gt;"), std::string::npos);
  for (const char* outside : {"http:", "https:", "<script", "src=", "@import", "url("}) {
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  }
  EXPECT_EQ(html.find("nan"), std::string::npos);
  EXPECT_EQ(html.find("inf"), std::string::npos);
}

TEST(SimulatedPlot, IsAPageEvenIfNothingCompleted) {
  const std::string html =
      simulated_plot(std::vector<SimulatedRun>(1), sim::Setup{.workers = 3}, "x");
  EXPECT_TRUE(html.ends_with("</html>\n"));
}

}  // namespace
}  // namespace penstock::cli
