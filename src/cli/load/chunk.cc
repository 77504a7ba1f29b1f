#include "cli/load/chunk.h"

#include <simdjson.h>

namespace penstock::cli::load {
namespace {

namespace dom = simdjson::dom;

std::string_view text_of(const dom::element& object, const char* field) {
  std::string_view text;
  if (object[field].get(text) != simdjson::SUCCESS) return {};
  return text;
}

std::uint64_t count_of(const dom::element& object, const char* field) {
  std::uint64_t count = 0;
  if (object[field].get(count) != simdjson::SUCCESS) return 0;
  return count;
}

bool has_elements(const dom::element& object, const char* field) {
  dom::array array;
  return object[field].get(array) == simdjson::SUCCESS && array.size() > 0;
}

/// {"error": {"message": ...}}, {"error": "..."} and {"object": "error", "message": ...}.
std::optional<std::string> error_of(const dom::element& root) {
  dom::element error;
  if (root["error"].get(error) != simdjson::SUCCESS || error.is_null()) {
    if (text_of(root, "object") != "error") return std::nullopt;
    error = root;
  }
  std::string_view message;
  if (error.get(message) == simdjson::SUCCESS) return std::string(message);
  message = error.is_object() ? text_of(error, "message") : std::string_view();
  return message.empty() ? simdjson::minify(error) : std::string(message);
}

void read_usage(const dom::element& root, Chunk& chunk) {
  dom::element usage;
  if (root["usage"].get(usage) != simdjson::SUCCESS || !usage.is_object()) return;
  chunk.usage = Usage{.prompt_tokens = count_of(usage, "prompt_tokens"),
                      .output_tokens = count_of(usage, "completion_tokens")};
  dom::element details;
  if (usage["prompt_tokens_details"].get(details) == simdjson::SUCCESS && details.is_object()) {
    chunk.usage->cached_tokens = count_of(details, "cached_tokens");
  }
}

void read_choice(const dom::element& choice, Endpoint endpoint, bool stream, Chunk& chunk) {
  if (!choice.is_object()) return;
  chunk.finished = !text_of(choice, "finish_reason").empty();
  if (endpoint == Endpoint::kCompletions) {
    chunk.text = text_of(choice, "text");
    chunk.has_content = !chunk.text.empty();
    return;
  }
  dom::element message;
  if (choice[stream ? "delta" : "message"].get(message) != simdjson::SUCCESS) return;
  if (!message.is_object()) return;
  chunk.text = text_of(message, "content");
  chunk.has_content = !chunk.text.empty() || !text_of(message, "reasoning_content").empty() ||
                      !text_of(message, "reasoning").empty() || has_elements(message, "tool_calls");
}

std::unexpected<Error> not_json(simdjson::error_code why) {
  return fail(Code::kInvalidArgument,
              std::string("no JSON object: ") + simdjson::error_message(why));
}

}  // namespace

struct ChunkParser::Impl {
  dom::parser parser;
};

ChunkParser::ChunkParser() : impl_(std::make_unique<Impl>()) {}
ChunkParser::~ChunkParser() = default;

Result<Chunk> ChunkParser::parse(std::string_view json, Endpoint endpoint, bool stream) {
  dom::element root;
  const simdjson::error_code failure = impl_->parser.parse(json.data(), json.size()).get(root);
  if (failure) return not_json(failure);
  if (!root.is_object()) return not_json(simdjson::INCORRECT_TYPE);
  Chunk chunk;
  chunk.error = error_of(root);
  read_usage(root, chunk);
  dom::array choices;
  if (root["choices"].get(choices) == simdjson::SUCCESS && choices.size() > 0) {
    read_choice(choices.at(0).value_unsafe(), endpoint, stream, chunk);
  }
  return chunk;
}

Result<std::string> ChunkParser::parse_first_model(std::string_view json) {
  dom::element root;
  const simdjson::error_code failure = impl_->parser.parse(json.data(), json.size()).get(root);
  if (failure) return not_json(failure);
  std::string_view id;
  if (!root.is_object() || root["data"].at(0)["id"].get(id) != simdjson::SUCCESS || id.empty()) {
    return fail(Code::kNotFound, "its list of models is empty");
  }
  return std::string(id);
}

}  // namespace penstock::cli::load
