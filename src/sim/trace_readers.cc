#include "sim/trace_readers.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <optional>
#include <vector>

namespace penstock::sim {
namespace {

namespace dom = simdjson::dom;

constexpr std::size_t kLineBytesMax = 64U << 20;
constexpr double kMsMax = 4e12;  // far beyond any trace, far from where nanoseconds overflow

/// Lines of a source, counted, blank ones left out.
class Lines final {
 public:
  Lines(std::istream& in, std::string_view name) : in_(in), name_(name) {}

  /// False at the end. The line is valid until the next call.
  bool next(std::string_view& line) {
    while (std::getline(in_, line_)) {
      ++number_;
      if (line_.size() > kLineBytesMax) return false;
      if (line_.ends_with('\r')) line_.pop_back();
      if (line_.find_first_not_of(" \t") == std::string::npos) continue;
      line = line_;
      return true;
    }
    return false;
  }
  [[nodiscard]] std::unexpected<Error> failed(std::string_view what) const {
    return invalid(fmt::format("{}:{}: {}", name_, number_, what));
  }
  /// Of what ended the lines, if it was not the source's end.
  [[nodiscard]] Result<void> end() const {
    if (line_.size() > kLineBytesMax) return failed("the line is longer than 64 MiB");
    if (in_.fail() && !in_.eof()) return invalid(fmt::format("{}: cannot be read", name_));
    return {};
  }

 private:
  std::istream& in_;
  const std::string_view name_;
  std::string line_;
  std::size_t number_ = 0;
};

Result<std::uint64_t> count_of(const dom::element& line, const char* field) {
  std::uint64_t count = 0;
  if (line[field].get(count) != simdjson::SUCCESS) {
    return invalid(fmt::format("{}: expected a number of tokens", field));
  }
  return count;
}

Result<void> add_mooncake(const dom::element& line, TraceBuilder& builder,
                          std::vector<std::uint64_t>& ids) {
  if (!line.is_object()) return invalid("expected an object with timestamp, input_length, ...");
  double ms = 0;
  if (line["timestamp"].get(ms) != simdjson::SUCCESS || !(std::abs(ms) <= kMsMax)) {
    return invalid("timestamp: expected milliseconds");
  }
  const Result<std::uint64_t> input = count_of(line, "input_length");
  if (!input) return std::unexpected(input.error());
  const Result<std::uint64_t> output = count_of(line, "output_length");
  if (!output) return std::unexpected(output.error());
  dom::array array;
  if (line["hash_ids"].get(array) != simdjson::SUCCESS) {
    return invalid("hash_ids: expected an array of integers");
  }
  ids.clear();
  for (const dom::element& id : array) {
    std::uint64_t value = 0;
    if (id.get(value) != simdjson::SUCCESS)
      return invalid("hash_ids: expected integers, 0 or more");
    ids.push_back(value);
  }
  return builder.add(Nanos(std::llround(ms * 1e6)), *input, *output, ids);
}

template <class Number>
std::optional<Number> number_of(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// "2023-11-16 18:17:03.9799600", perhaps with 'T', a 'Z' or an offset behind; or seconds.
std::optional<Nanos> time_of(std::string_view text) {
  if (const auto seconds = number_of<double>(text)) {
    if (!(std::abs(*seconds) <= kMsMax / 1e3)) return std::nullopt;
    return Nanos(std::llround(*seconds * 1e9));
  }
  if (text.size() < 19 || text[4] != '-' || text[7] != '-' || text[13] != ':' || text[16] != ':') {
    return std::nullopt;
  }
  const auto year = number_of<int>(text.substr(0, 4));
  const auto month = number_of<unsigned>(text.substr(5, 2));
  const auto day = number_of<unsigned>(text.substr(8, 2));
  const auto hour = number_of<unsigned>(text.substr(11, 2));
  const auto minute = number_of<unsigned>(text.substr(14, 2));
  const auto second = number_of<unsigned>(text.substr(17, 2));
  if (!year || !month || !day || !hour || !minute || !second) return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year(*year), std::chrono::month(*month),
                                         std::chrono::day(*day)};
  if (!date.ok() || *year < 1970 || *year > 2200 || *hour > 23 || *minute > 59 || *second > 60) {
    return std::nullopt;
  }
  std::string_view rest = text.substr(19);
  double fraction = 0;
  if (rest.starts_with('.')) {
    const std::size_t digits = std::min(rest.find_first_not_of("0123456789", 1), rest.size());
    fraction = number_of<double>(fmt::format("0{}", rest.substr(0, digits))).value_or(0);
    rest.remove_prefix(digits);
  }
  // A trace keeps to one time zone, so the offset only moves its beginning.
  if (!rest.empty() && rest[0] != 'Z' && rest[0] != '+' && rest[0] != '-') return std::nullopt;
  return std::chrono::sys_days(date).time_since_epoch() + std::chrono::hours(*hour) +
         std::chrono::minutes(*minute) + std::chrono::seconds(*second) +
         Nanos(std::llround(fraction * 1e9));
}

std::vector<std::string_view> cells_of(std::string_view line) {
  std::vector<std::string_view> cells;
  while (true) {
    const std::size_t end = std::min(line.find(','), line.size());
    cells.push_back(line.substr(0, end));
    if (end == line.size()) return cells;
    line.remove_prefix(end + 1);
  }
}

constexpr std::array<std::string_view, 3> kColumns = {"TIMESTAMP", "ContextTokens",
                                                      "GeneratedTokens"};

Result<std::array<std::size_t, 3>> columns_of(std::string_view head) {
  if (head.starts_with("\xEF\xBB\xBF")) head.remove_prefix(3);  // a byte order mark
  std::array<std::size_t, 3> columns{};
  const std::vector<std::string_view> names = cells_of(head);
  for (std::size_t c = 0; c < kColumns.size(); ++c) {
    const auto found = std::find(names.begin(), names.end(), kColumns[c]);
    if (found == names.end()) {
      return invalid(
          fmt::format("the head names no column {} (an Azure trace has TIMESTAMP, "
                      "ContextTokens, GeneratedTokens; a Mooncake trace has JSON lines)",
                      kColumns[c]));
    }
    columns[c] = static_cast<std::size_t>(found - names.begin());
  }
  return columns;
}

Result<void> add_azure(std::string_view line, const std::array<std::size_t, 3>& columns,
                       TraceBuilder& builder) {
  const std::vector<std::string_view> cells = cells_of(line);
  for (const std::size_t column : columns) {
    if (column >= cells.size()) return invalid("the line has too few columns");
  }
  const auto at = time_of(cells[columns[0]]);
  if (!at) return invalid("TIMESTAMP: expected a time as 2023-11-16 18:17:03.9799600, or seconds");
  const auto input = number_of<std::uint64_t>(cells[columns[1]]);
  if (!input) return invalid("ContextTokens: expected a number of tokens");
  const auto output = number_of<std::uint64_t>(cells[columns[2]]);
  if (!output) return invalid("GeneratedTokens: expected a number of tokens");
  return builder.add_unique(*at, *input, *output);
}

Result<Trace> finish(TraceBuilder& builder, const Lines& lines, std::string_view name) {
  const Result<void> end = lines.end();
  if (!end) return std::unexpected(end.error());
  if (builder.size() == 0) return invalid(fmt::format("{}: it holds no request", name));
  return std::move(builder).finish();
}

Result<Trace> read_mooncake_lines(Lines& lines, std::string_view name, const ReadOptions& options,
                                  std::string_view line, bool more) {
  TraceBuilder builder(options.block_tokens);
  dom::parser parser;
  std::vector<std::uint64_t> ids;
  for (; more && builder.size() < options.requests_max; more = lines.next(line)) {
    dom::element element;
    const simdjson::error_code failure = parser.parse(line.data(), line.size()).get(element);
    if (failure) return lines.failed(fmt::format("no JSON: {}", simdjson::error_message(failure)));
    const Result<void> added = add_mooncake(element, builder, ids);
    if (!added) return lines.failed(added.error().message);
  }
  return finish(builder, lines, name);
}

Result<Trace> read_azure_lines(Lines& lines, std::string_view name, const ReadOptions& options,
                               std::string_view line, bool more) {
  TraceBuilder builder(options.block_tokens);
  if (!more) return finish(builder, lines, name);
  const Result<std::array<std::size_t, 3>> columns = columns_of(line);
  if (!columns) return lines.failed(columns.error().message);
  while (builder.size() < options.requests_max && lines.next(line)) {
    const Result<void> added = add_azure(line, *columns, builder);
    if (!added) return lines.failed(added.error().message);
  }
  return finish(builder, lines, name);
}

}  // namespace

Result<Trace> read_mooncake(std::istream& in, std::string_view name, const ReadOptions& options) {
  Lines lines(in, name);
  std::string_view line;
  const bool more = lines.next(line);
  return read_mooncake_lines(lines, name, options, line, more);
}

Result<Trace> read_azure(std::istream& in, std::string_view name, const ReadOptions& options) {
  Lines lines(in, name);
  std::string_view line;
  const bool more = lines.next(line);
  return read_azure_lines(lines, name, options, line, more);
}

Result<Trace> read_trace(std::istream& in, std::string_view name, const ReadOptions& options) {
  Lines lines(in, name);
  std::string_view line;
  const bool more = lines.next(line);
  const std::size_t first = more ? line.find_first_not_of(" \t") : 0;
  return !more || line[first] == '{' ? read_mooncake_lines(lines, name, options, line, more)
                                     : read_azure_lines(lines, name, options, line, more);
}

}  // namespace penstock::sim
