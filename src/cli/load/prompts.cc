#include "cli/load/prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "api/openai.h"
#include "base/rng.h"
#include "cli/load/internal/json_lines.h"
#include "cli/load/words.h"

namespace penstock::cli::load {
namespace {

namespace dom = simdjson::dom;

class Generated final : public PromptSource {
 public:
  explicit Generated(const GeneratedPrompts& spec) : spec_(spec) {}

  [[nodiscard]] std::string turn(std::uint64_t session, std::uint32_t turn) const override {
    std::string out;
    if (turn == 0 && spec_.shared_prefix_tokens > 0) append_prefix(out, session);
    const std::uint64_t stream = stream_of(spec_.seed, Stream::kTurn, session, turn);
    std::string text;
    if (spec_.size_bytes > 0) {
      text = words_of_size(stream, spec_.size_bytes);
    } else {
      append_words(text, stream, spec_.tokens);
    }
    if (spec_.endpoint == Endpoint::kCompletions) return out + text;
    append_message(out, "user", text);
    return out;
  }

  [[nodiscard]] std::uint32_t output_tokens(std::uint64_t) const override { return 0; }
  [[nodiscard]] std::uint64_t sessions() const override { return 0; }

 private:
  void append_prefix(std::string& out, std::uint64_t session) const {
    const std::uint64_t draw = mix64(stream_of(spec_.seed, Stream::kPrefixDraw, session));
    std::string text;
    append_words(text, stream_of(spec_.seed, Stream::kPrefix, draw % spec_.prefix_groups),
                 spec_.shared_prefix_tokens);
    if (spec_.endpoint == Endpoint::kCompletions) {
      out += text;
      return;
    }
    append_message(out, "system", text);
    out += ',';
  }

  const GeneratedPrompts spec_;
};

class FromFile final : public PromptSource {
 public:
  explicit FromFile(std::vector<std::string> turns) : turns_(std::move(turns)) {}

  [[nodiscard]] std::string turn(std::uint64_t session, std::uint32_t) const override {
    return turns_[session % turns_.size()];
  }
  [[nodiscard]] std::uint32_t output_tokens(std::uint64_t) const override { return 0; }
  [[nodiscard]] std::uint64_t sessions() const override { return turns_.size(); }

 private:
  const std::vector<std::string> turns_;
};

class FromTrace final : public PromptSource {
 public:
  FromTrace(const TracePrompts& spec, const std::vector<TraceRequest>& trace)
      : spec_(spec), trace_(trace) {}

  [[nodiscard]] std::string turn(std::uint64_t session, std::uint32_t) const override {
    const TraceRequest& request = trace_[session % trace_.size()];
    std::string text;
    std::uint32_t left = request.input_tokens;
    for (const std::uint64_t id : request.blocks) {
      const std::uint32_t count = std::min(left, spec_.block_tokens);
      // An id may have all 64 bits.
      append_words(text, stream_of(spec_.seed, Stream::kTraceBlock, 0) ^ mix64(id), count);
      left -= count;
    }
    append_words(text, stream_of(spec_.seed, Stream::kTraceTail, session), left);
    if (spec_.endpoint == Endpoint::kCompletions) return text;
    std::string out;
    append_message(out, "user", text);
    return out;
  }

  [[nodiscard]] std::uint32_t output_tokens(std::uint64_t session) const override {
    return trace_[session % trace_.size()].output_tokens;
  }
  [[nodiscard]] std::uint64_t sessions() const override { return trace_.size(); }

 private:
  const TracePrompts spec_;
  const std::vector<TraceRequest>& trace_;
};

/// One line of a prompt file as the endpoint wants it.
Result<std::string> read_prompt(const dom::element& line, Endpoint endpoint) {
  dom::element prompt = line;
  if (line.is_object() && line["messages"].get(prompt) != simdjson::SUCCESS &&
      line["prompt"].get(prompt) != simdjson::SUCCESS) {
    return invalid("expected \"messages\" or \"prompt\" in the object");
  }
  std::string_view text;
  if (prompt.get(text) == simdjson::SUCCESS) {
    if (text.empty()) return invalid("the prompt is empty");
    std::string out;
    if (endpoint == Endpoint::kCompletions) return std::string(text);
    append_message(out, "user", text);
    return out;
  }
  dom::array messages;
  if (prompt.get(messages) != simdjson::SUCCESS || messages.size() == 0) {
    return invalid("expected an array of messages, a string, or an object with one of them");
  }
  if (endpoint == Endpoint::kCompletions) {
    return invalid("messages need --endpoint chat; completions take strings");
  }
  std::string out;
  for (const dom::element& message : messages) {
    if (!message.is_object()) return invalid("expected objects with role and content in messages");
    if (!out.empty()) out += ',';
    out += simdjson::minify(message);
  }
  return out;
}

}  // namespace

void append_message(std::string& out, std::string_view role, std::string_view content) {
  out += R"({"role":)";
  api::append_json_string(out, role);
  out += R"(,"content":)";
  api::append_json_string(out, content);
  out += '}';
}

std::unique_ptr<PromptSource> make_generated_prompts(const GeneratedPrompts& spec) {
  return std::make_unique<Generated>(spec);
}

Result<std::unique_ptr<PromptSource>> read_prompts(std::string_view text, Endpoint endpoint) {
  std::vector<std::string> turns;
  const Result<void> read = for_each_json_line(text, [&](const dom::element& line) -> Result<void> {
    Result<std::string> turn = read_prompt(line, endpoint);
    if (!turn) return std::unexpected(turn.error());
    turns.push_back(std::move(*turn));
    return {};
  });
  if (!read) return std::unexpected(read.error());
  if (turns.empty()) return invalid("it holds no prompt");
  return std::make_unique<FromFile>(std::move(turns));
}

std::unique_ptr<PromptSource> make_trace_prompts(const TracePrompts& spec,
                                                 const std::vector<TraceRequest>& trace) {
  return std::make_unique<FromTrace>(spec, trace);
}

}  // namespace penstock::cli::load
