#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/load/chunk.h"
#include "net/sse.h"

namespace penstock::cli::load {

/// How a request ended. All but kOk and kUnfinished are failures, each counted by its kind.
enum class Outcome : std::uint8_t {
  kOk,
  kStatus,       // an HTTP status other than 2xx
  kTimeout,      // not complete --timeout-s after its intended time
  kConnection,   // refused, reset, closed in the middle of an answer, or no HTTP
  kStreamError,  // an error object in an answer of status 200
  kIncomplete,   // it ended in an orderly way without finish_reason, or a stream without [DONE]
  kEmpty,        // complete, but without text, reasoning or tool call
  kMalformed,    // no JSON, larger than kAnswerBytesMax, or a usage that cannot be
  kUnfinished,   // cut off because the user ended the run: no failure
};
inline constexpr std::size_t kOutcomes = 9;
inline constexpr std::array<std::string_view, kOutcomes> kOutcomeNames = {
    "ok",         "status", "timeout",   "connection", "stream_error",
    "incomplete", "empty",  "malformed", "unfinished"};

[[nodiscard]] constexpr std::string_view name_of(Outcome outcome) noexcept {
  return kOutcomeNames[static_cast<std::size_t>(outcome)];
}

inline constexpr std::size_t kAnswerBytesMax = 64U << 20;  // of a whole answer, or of one event
inline constexpr std::size_t kMessageBytesMax = 300;       // of what an error says

/// Reads one answer, streamed or whole, as its bytes come. Pure: any split of the bytes gives the
/// same result, and it knows no clock. `parser` must outlive it. Not thread safe.
class AnswerReader final {
 public:
  /// `keep_text`: collect the visible text, for the next turn of a conversation. `asked`: the
  /// bytes of the prompt and the tokens asked for; a usage far beyond them is not believed.
  AnswerReader(ChunkParser& parser, Endpoint endpoint, bool stream, bool keep_text,
               const Usage& asked)
      : parser_(parser),
        endpoint_(endpoint),
        stream_(stream),
        keep_text_(keep_text),
        asked_(asked) {}

  void on_status(int status) noexcept { status_ = status; }

  /// Returns how many content events `bytes` completed; 0 for a whole answer. Nothing is read of
  /// an answer that is complete() already.
  std::size_t on_body(std::string_view bytes);

  /// The stream said [DONE]: what comes later does not matter.
  [[nodiscard]] bool complete() const noexcept { return done_; }

  /// Nothing that comes later can mend it: close the connection.
  [[nodiscard]] bool broken() const noexcept { return !malformed_.empty(); }

  struct Verdict {
    Outcome outcome = Outcome::kOk;
    std::string message;  // what went wrong, at most kMessageBytesMax; empty for kOk
  };
  /// Call once, when nothing more will come; `transport` is how the call ended.
  Verdict judge(const Result<void>& transport);

  [[nodiscard]] int status() const noexcept { return status_; }  // 0: none came
  [[nodiscard]] const std::optional<Usage>& usage() const noexcept { return usage_; }
  [[nodiscard]] std::string& text() noexcept { return text_; }

 private:
  [[nodiscard]] bool is_error_status() const noexcept { return status_ / 100 != 2; }
  bool take(std::string_view json, bool stream);
  void take_usage(const Usage& usage);
  Verdict judge_status();

  ChunkParser& parser_;
  const Endpoint endpoint_;
  const bool stream_;
  const bool keep_text_;
  const Usage asked_;
  int status_ = 0;
  net::SseParser events_{kAnswerBytesMax};
  std::uint64_t bytes_ = 0;  // of all events, or of the whole answer
  std::string body_;         // of a whole answer, or the beginning of an error's
  std::string text_;
  std::optional<Usage> usage_;
  std::optional<std::string> error_;
  std::string malformed_;  // why, or empty
  bool has_content_ = false;
  bool finished_ = false;
  bool done_ = false;
};

}  // namespace penstock::cli::load
