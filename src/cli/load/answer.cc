#include "cli/load/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace penstock::cli::load {
namespace {

constexpr std::size_t kErrorBodyBytesMax = 64 * 1024;

AnswerReader::Verdict verdict(Outcome outcome, std::string message) {
  if (message.size() > kMessageBytesMax) message.resize(kMessageBytesMax);
  return {.outcome = outcome, .message = std::move(message)};
}

}  // namespace

std::size_t AnswerReader::on_body(std::string_view bytes) {
  if (done_ || !malformed_.empty()) return 0;
  if (is_error_status() || !stream_) {
    const std::size_t room =
        (is_error_status() ? kErrorBodyBytesMax : kAnswerBytesMax) - body_.size();
    body_.append(bytes.substr(0, room));
    if (!is_error_status() && bytes.size() > room) malformed_ = "the answer is too large";
    return 0;
  }
  std::size_t content_events = 0;
  const bool fits = events_.feed(bytes, [&](const net::SseEvent& event) {
    if (done_ || !malformed_.empty()) return;
    if (event.data == "[DONE]") {
      done_ = true;
    } else if (take(event.data, true)) {
      ++content_events;
    } else if (event.event == "error" && !error_) {
      error_ = event.data;
    }
  });
  if (!fits && malformed_.empty()) malformed_ = "an event is too large";
  return content_events;
}

bool AnswerReader::take(std::string_view json, bool stream) {
  bytes_ += json.size();
  Result<Chunk> chunk = parser_.parse(json, endpoint_, stream);
  if (!chunk) {
    malformed_ = fmt::format("{} in: {}", chunk.error().message, json.substr(0, kMessageBytesMax));
    return false;
  }
  if (chunk->error && !error_) error_ = std::move(chunk->error);
  if (chunk->usage) take_usage(*chunk->usage);
  finished_ = finished_ || chunk->finished;
  has_content_ = has_content_ || chunk->has_content;
  if (keep_text_) text_ += chunk->text;
  return chunk->has_content;
}

/// A token takes a byte at least, on its way here or in a prompt; templates, and reasoning that is
/// not shown, add some.
void AnswerReader::take_usage(const Usage& usage) {
  constexpr std::uint64_t kPromptTokensMore = 100'000;
  if (usage.output_tokens > std::max(2 * asked_.output_tokens + 16, bytes_)) {
    malformed_ = fmt::format("its usage says {} completion_tokens, and {} were asked for",
                             usage.output_tokens, asked_.output_tokens);
  } else if (usage.prompt_tokens > asked_.prompt_tokens + kPromptTokensMore ||
             usage.cached_tokens > usage.prompt_tokens) {
    malformed_ = fmt::format("its usage says {} prompt_tokens, {} of them cached, for {} bytes",
                             usage.prompt_tokens, usage.cached_tokens, asked_.prompt_tokens);
  } else {
    usage_ = usage;
  }
}

AnswerReader::Verdict AnswerReader::judge_status() {
  const Result<Chunk> chunk = parser_.parse(body_, endpoint_, false);
  const bool explains = chunk && chunk->error;
  return verdict(Outcome::kStatus,
                 fmt::format("HTTP status {}: {}", status_, explains ? *chunk->error : body_));
}

AnswerReader::Verdict AnswerReader::judge(const Result<void>& transport) {
  if (!done_ && !transport) {
    const bool late = transport.error().code == Code::kDeadlineExceeded;
    if (late) return verdict(Outcome::kTimeout, transport.error().message);
    if (status_ == 0 || !is_error_status()) {
      if (error_) return verdict(Outcome::kStreamError, *error_);  // it said why, then closed
      return verdict(Outcome::kConnection, transport.error().message);
    }
  }
  if (is_error_status()) return judge_status();
  if (!stream_ && malformed_.empty()) {
    take(body_, false);
    done_ = true;
  }
  if (error_) return verdict(Outcome::kStreamError, *error_);
  if (!malformed_.empty()) return verdict(Outcome::kMalformed, malformed_);
  if (!finished_) return verdict(Outcome::kIncomplete, "the answer has no finish_reason");
  if (!done_) return verdict(Outcome::kIncomplete, "the stream ended without [DONE]");
  if (!has_content_) return verdict(Outcome::kEmpty, "the answer is empty");
  return {};
}

}  // namespace penstock::cli::load
