#include "cli/load/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace penstock::cli::load {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kGood =
    R"({"timestamp": 5, "input_length": 700, "output_length": 9, "hash_ids": [3, 4]})";

TEST(TraceTest, ReadsRequestsInOrderOfTimeFromTheFirst) {
  const auto trace = parse_trace(
      "\n"
      R"({"timestamp": 1200, "input_length": 513, "output_length": 1, "hash_ids": [0, 7], "x": {}})"
      "\r\n"
      R"({"timestamp": 1000.5, "input_length": 1, "output_length": 20, "hash_ids": []})"
      "\n  \n"
      R"({"timestamp": 1200, "input_length": 2, "output_length": 3,
          "hash_ids": [18446744073709551615]})"
      "\n");
  ASSERT_FALSE(trace) << "a request on two lines is no JSON line";
  EXPECT_THAT(trace.error().message, StartsWith("line 5: "));

  const auto good = parse_trace(
      R"({"timestamp": 1200, "input_length": 513, "output_length": 1, "hash_ids": [0, 7], "x": {}})"
      "\r\n\n"
      R"({"timestamp": 1000.5, "input_length": 1, "output_length": 20, "hash_ids": []})"
      "\n"
      R"({"timestamp": 1200, "input_length": 2, "output_length": 3, "hash_ids": [18446744073709551615]})");
  ASSERT_TRUE(good) << good.error().message;
  ASSERT_EQ(good->size(), 3U);
  EXPECT_EQ((*good)[0].at, 0ms);
  EXPECT_EQ((*good)[0].output_tokens, 20U);
  EXPECT_EQ((*good)[1].at, 199500us);
  EXPECT_EQ((*good)[1].blocks, (std::vector<std::uint64_t>{0, 7}));
  EXPECT_EQ((*good)[2].input_tokens, 2U);  // of one moment: in the order of the file
  EXPECT_EQ((*good)[2].blocks, std::vector<std::uint64_t>{~0ULL});
}

TEST(TraceTest, ABadLineIsNamedWithWhatIsWrong) {
  const struct {
    const char* line;
    const char* says;
  } cases[] = {
      {"{", "no JSON"},
      {"[1]", "expected an object"},
      {"12 13", "no JSON"},
      {R"({"input_length": 1, "output_length": 1, "hash_ids": []})", "timestamp"},
      {R"({"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": []})", "timestamp"},
      {R"({"timestamp": 1e300, "input_length": 1, "output_length": 1, "hash_ids": []})",
       "timestamp"},
      {R"({"timestamp": "1", "input_length": 1, "output_length": 1, "hash_ids": []})", "timestamp"},
      {R"({"timestamp": 1, "input_length": 0, "output_length": 1, "hash_ids": []})",
       "input_length"},
      {R"({"timestamp": 1, "input_length": 2.5, "output_length": 1, "hash_ids": []})",
       "input_length"},
      {R"({"timestamp": 1, "input_length": 99999999999, "output_length": 1, "hash_ids": []})",
       "input_length"},
      {R"({"timestamp": 1, "input_length": 1, "hash_ids": []})", "output_length"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": -4, "hash_ids": []})",
       "output_length"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": 1})", "hash_ids"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [1, "a"]})",
       "hash_ids"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [-1]})", "hash_ids"},
  };
  for (const auto& c : cases) {
    const auto trace = parse_trace(std::string(kGood) + "\n\n" + c.line + "\n" + kGood);
    ASSERT_FALSE(trace) << c.line;
    EXPECT_THAT(trace.error().message, StartsWith("line 3: ")) << c.line;
    EXPECT_THAT(trace.error().message, HasSubstr(c.says)) << c.line;
  }
}

TEST(TraceTest, NoRequestAtAllIsAnError) {
  EXPECT_FALSE(parse_trace(""));
  EXPECT_FALSE(parse_trace("\n \n"));
}

}  // namespace
}  // namespace penstock::cli::load
