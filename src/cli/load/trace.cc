#include "cli/load/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "cli/load/internal/json_lines.h"

namespace penstock::cli::load {
namespace {

namespace dom = simdjson::dom;

// Far beyond any trace, and far from where nanoseconds overflow.
constexpr double kTimestampMsMax = 4e12;

Result<std::uint32_t> token_count(const dom::element& line, const char* field) {
  std::uint64_t count = 0;
  if (line[field].get(count) != simdjson::SUCCESS || count < 1 || count > kTraceTokensMax) {
    return invalid(
        fmt::format("{}: expected a number of tokens from 1 to {}", field, kTraceTokensMax));
  }
  return static_cast<std::uint32_t>(count);
}

Result<TraceRequest> read_request(const dom::element& line) {
  if (!line.is_object()) return invalid("expected an object with timestamp, input_length, ...");
  double timestamp_ms = 0;
  if (line["timestamp"].get(timestamp_ms) != simdjson::SUCCESS || timestamp_ms < 0 ||
      timestamp_ms > kTimestampMsMax) {
    return invalid("timestamp: expected milliseconds, 0 or more");
  }
  const Result<std::uint32_t> input = token_count(line, "input_length");
  if (!input) return std::unexpected(input.error());
  const Result<std::uint32_t> output = token_count(line, "output_length");
  if (!output) return std::unexpected(output.error());
  dom::array ids;
  if (line["hash_ids"].get(ids) != simdjson::SUCCESS) {
    return invalid("hash_ids: expected an array of integers");
  }
  TraceRequest request{
      .at = Nanos(static_cast<Nanos::rep>(timestamp_ms * 1e6)),
      .input_tokens = *input,
      .output_tokens = *output,
  };
  for (const dom::element& id : ids) {
    std::uint64_t value = 0;
    if (id.get(value) != simdjson::SUCCESS)
      return invalid("hash_ids: expected integers, 0 or more");
    request.blocks.push_back(value);
  }
  return request;
}

}  // namespace

Result<std::vector<TraceRequest>> parse_trace(std::string_view text) {
  std::vector<TraceRequest> requests;
  const Result<void> read = for_each_json_line(text, [&](const dom::element& line) -> Result<void> {
    Result<TraceRequest> request = read_request(line);
    if (!request) return std::unexpected(request.error());
    requests.push_back(std::move(*request));
    return {};
  });
  if (!read) return std::unexpected(read.error());
  if (requests.empty()) return invalid("it holds no request");
  std::ranges::stable_sort(requests, {}, &TraceRequest::at);
  const Nanos first = requests.front().at;
  for (TraceRequest& request : requests) request.at -= first;
  return requests;
}

}  // namespace penstock::cli::load
