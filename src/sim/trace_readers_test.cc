#include "sim/trace_readers.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

namespace penstock::sim {
namespace {

Result<Trace> read(const std::string& text) {
  std::istringstream in(text);
  return read_trace(in, "t.x", {});
}

std::string failure(const std::string& text) {
  const Result<Trace> trace = read(text);
  EXPECT_FALSE(trace.has_value());
  return trace ? "" : trace.error().message;
}

TEST(ReadTrace, TakesMooncakeLines) {
  const auto trace = read(
      "{\"timestamp\": 70, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [7, 8]}\n"
      "\n"
      "{\"hash_ids\": [7, 9, 1], \"timestamp\": 20.5, \"input_length\": 9999, "
      "\"output_length\": 1, \"more\": {}}\r\n");
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  ASSERT_EQ(trace->requests.size(), 2U);
  const TraceRequest& first = trace->requests[1];  // by time, which counts from it
  EXPECT_EQ(first.at, Nanos(0));
  EXPECT_EQ(first.input_tokens, 3U * 512);  // cut to what its ids cover
  const TraceRequest& second = trace->requests[0];
  EXPECT_EQ(second.at, Nanos(49'500'000));
  EXPECT_EQ(trace->chain(first)[0], trace->chain(second)[0]);
  EXPECT_NE(trace->chain(first)[1], trace->chain(second)[1]);
}

TEST(ReadTrace, EqualIdsBehindDifferentPrefixesAreDifferentContent) {
  const auto trace = read(
      "{\"timestamp\":0,\"input_length\":1024,\"output_length\":1,\"hash_ids\":[1,3]}\n"
      "{\"timestamp\":0,\"input_length\":1024,\"output_length\":1,\"hash_ids\":[2,3]}\n");
  ASSERT_TRUE(trace.has_value());
  EXPECT_NE(trace->chain(trace->requests[0])[1], trace->chain(trace->requests[1])[1]);
}

TEST(ReadTrace, TakesAzureLines) {
  const auto trace = read(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n"
      "2023-11-16 18:17:03.9799600,4808,10\n"
      "2023-11-16 18:17:04.0319600,3180,8\n");
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  ASSERT_EQ(trace->requests.size(), 2U);
  EXPECT_EQ(trace->requests[1].at, Nanos(52'000'000));
  EXPECT_EQ(trace->requests[0].input_tokens, 4808U);
  EXPECT_EQ(trace->requests[0].output_tokens, 10U);
}

TEST(ReadTrace, AFileThatIsNotThereIsNoneWithoutRequests) {
  std::ifstream none("/no/such/trace");
  EXPECT_EQ(read_trace(none, "t.x", {}).error().message, "t.x: cannot be read");
  EXPECT_EQ(read_azure(none, "t.x", {}).error().message, "t.x: cannot be read");
  EXPECT_EQ(failure(""), "t.x: it holds no request");
}

TEST(ReadTrace, NamesFileLineAndFault) {
  const std::string good =
      "{\"timestamp\":0,\"input_length\":9,\"output_length\":1,\"hash_ids\":[1]}\n";
  EXPECT_EQ(failure(good + "{").substr(0, 6), "t.x:2:");
  EXPECT_EQ(failure(good + "\n[1]").substr(0, 6), "t.x:3:");
  const char* const bad_lines[] = {
      R"({"timestamp":"x","input_length":9,"output_length":1,"hash_ids":[1]})",
      R"({"timestamp":1e99,"input_length":9,"output_length":1,"hash_ids":[1]})",
      R"({"timestamp":0,"input_length":-9,"output_length":1,"hash_ids":[1]})",
      R"({"timestamp":0,"input_length":9,"output_length":0,"hash_ids":[1]})",
      R"({"timestamp":0,"input_length":9,"output_length":1,"hash_ids":[]})",
      R"({"timestamp":0,"input_length":9,"output_length":1,"hash_ids":[1.5]})",
      R"({"timestamp":0,"input_length":9,"output_length":1,"hash_ids":3})",
      R"({"timestamp":0,"input_length":9,"output_length":99999999999,"hash_ids":[1]})"};
  for (const std::string line : bad_lines) {
    EXPECT_EQ(failure(good + line).substr(0, 6), "t.x:2:") << line;
  }
  EXPECT_EQ(failure("TIMESTAMP,ContextTokens,GeneratedTokens\nnever,1,2\n").substr(0, 6), "t.x:2:");
  EXPECT_EQ(failure("TIMESTAMP,ContextTokens,GeneratedTokens\n1.5,1\n").substr(0, 6), "t.x:2:");
  EXPECT_EQ(failure("a,b,c\n").substr(0, 6), "t.x:1:");
  EXPECT_FALSE(failure("").empty());
  EXPECT_FALSE(failure("TIMESTAMP,ContextTokens,GeneratedTokens\n").empty());
}

}  // namespace
}  // namespace penstock::sim
