#include "sim/generators.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace penstock::sim {
namespace {

TEST(Generate, EachMakesTheSameTraceFromTheSameSeed) {
  for (const GeneratorEntry& entry : generators()) {
    SCOPED_TRACE(entry.name);
    ASSERT_TRUE(is_generator(entry.name));
    const Result<Trace> a = generate(entry.name, 3, 500);
    const Result<Trace> b = generate(entry.name, 3, 500);
    const Result<Trace> c = generate(entry.name, 4, 500);
    ASSERT_TRUE(a && b && c);
    ASSERT_EQ(a->requests.size(), 500U);
    EXPECT_EQ(a->chains, b->chains);
    bool differs = a->chains != c->chains;
    Nanos last(0);
    for (std::size_t i = 0; i < 500; ++i) {
      EXPECT_EQ(a->requests[i].at, b->requests[i].at);
      differs |= a->requests[i].at != c->requests[i].at;
      EXPECT_GE(a->requests[i].at, last);
      last = a->requests[i].at;
      EXPECT_GE(a->requests[i].input_tokens, 1U);
      EXPECT_GE(a->requests[i].output_tokens, 1U);
    }
    EXPECT_TRUE(differs);
  }
}

TEST(Generate, SharedPrefixesAreSharedToTheToken) {
  const Result<Trace> trace = generate(
      "shared-prefix:groups=2,users=2,system=600,question=150,output=9,requests=300", 1, SIZE_MAX);
  ASSERT_TRUE(trace);
  std::set<std::uint32_t> systems;
  std::set<std::vector<std::uint32_t>> prompts;
  for (const TraceRequest& r : trace->requests) {
    EXPECT_EQ(r.input_tokens, 750U);
    EXPECT_EQ(r.output_tokens, 9U);
    const auto chain = trace->chain(r);
    systems.insert(chain[600 / trace->block_tokens - 1]);
    prompts.emplace(chain.begin(), chain.end());
  }
  EXPECT_EQ(systems.size(), 2U);
  EXPECT_EQ(prompts.size(), 4U);
}

TEST(Generate, SaysWhatIsWrong) {
  const auto message = [](const char* spec) {
    const Result<Trace> trace = generate(spec, 1, 10);
    return trace ? std::string() : trace.error().message;
  };
  EXPECT_NE(message("poisson:rat=3").find("rate=5"), std::string::npos);
  EXPECT_FALSE(message("poisson:rate").empty());
  EXPECT_FALSE(message("poisson:rate=-1").empty());
  EXPECT_FALSE(message("poisson:rate=nan").empty());
  EXPECT_FALSE(message("poisson:rate=1x").empty());
  EXPECT_FALSE(message("nothing").empty());
  EXPECT_FALSE(is_generator("nothing:rate=1"));
}

}  // namespace
}  // namespace penstock::sim
