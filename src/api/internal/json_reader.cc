#include "api/internal/json_reader.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <utility>

#include "api/internal/json_text.h"
#include "api/openai.h"
#include "base/check.h"

namespace penstock::api {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr std::size_t kPaddingBytes = 64;
static_assert(simdjson::SIMDJSON_PADDING <= kPaddingBytes);

constexpr std::string_view kBlanks = " \t\r\n";

std::string_view without_trailing_blanks(std::string_view text) noexcept {
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

std::size_t digits_at(std::string_view text, std::size_t from) noexcept {
  std::size_t end = from;
  while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
  return end - from;
}

/// RFC 8259's number; from_chars alone would let "01", "1." and "inf" through.
bool is_json_number(std::string_view text) noexcept {
  std::size_t at = !text.empty() && text[0] == '-' ? 1 : 0;
  const std::size_t whole = digits_at(text, at);
  if (whole == 0 || (whole > 1 && text[at] == '0')) return false;
  at += whole;
  if (at < text.size() && text[at] == '.') {
    const std::size_t fraction = digits_at(text, at + 1);
    if (fraction == 0) return false;
    at += 1 + fraction;
  }
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    const std::size_t exponent = digits_at(text, at);
    if (exponent == 0) return false;
    at += exponent;
  }
  return at == text.size();
}

/// Whether a token that is no JSON may be shown: a number gone wrong or another language's literal,
/// not a piece of an unquoted prompt.
bool may_be_shown(std::string_view token) noexcept {
  constexpr std::array<std::string_view, 8> kForeign = {"NaN",  "-NaN", "Infinity", "-Infinity",
                                                        "None", "True", "False",    "undefined"};
  return std::ranges::find(kForeign, token) != kForeign.end() ||
         token.find_first_not_of("0123456789+-.eE") == std::string_view::npos;
}

/// Where the first raw control character inside a string is; on the error path only.
std::size_t raw_control_offset(std::string_view body) noexcept {
  bool in_string = false;
  for (std::size_t at = 0; at < body.size(); ++at) {
    if (in_string && static_cast<unsigned char>(body[at]) < 0x20) return at;
    if (in_string && body[at] == '\\') {
      ++at;
    } else if (body[at] == '"') {
      in_string = !in_string;
    }
  }
  return body.size();
}

std::string_view name_of(JsonType type) noexcept {
  switch (type) {
    case JsonType::kObject: return "an object";
    case JsonType::kArray: return "an array";
    case JsonType::kString: return "a string";
    case JsonType::kNumber: return "a number";
    case JsonType::kBool: return "a boolean";
    case JsonType::kNull: return "null";
  }
  return "something else";
}

struct Level {
  ondemand::object_iterator fields, fields_end;
  ondemand::array_iterator elements, elements_end;
  bool is_object = false;
  bool started = false;
  std::string_view key;   // of the current field
  std::size_t index = 0;  // of the current element
};

}  // namespace

/// What a thread keeps between bodies: the parser's buffers, and room for the deepest nesting.
struct JsonReader::State {
  ondemand::parser parser;
  ondemand::document document;
  std::array<Level, kJsonDepthMax> levels;
  std::size_t depth = 0;  // levels in use
  std::string_view body;

  ondemand::value value;  // under the cursor
  std::string_view token;
  JsonType type = JsonType::kNull;
  bool value_done = true;  // read, walked or entered: nothing to finish

  Error error;
  bool failed = false;
  bool busy = false;

  Level& top() { return levels[depth - 1]; }
};

JsonReader::State& JsonReader::thread_state() {
  thread_local State state;
  return state;
}

JsonReader::JsonReader(std::string_view body) : state_(thread_state()) {
  CHECK(!state_.busy);
  state_.busy = true;
  state_.depth = 0;
  state_.body = body;
  state_.value_done = true;
  state_.failed = false;
  open(body);
}

JsonReader::~JsonReader() {
  if (state_.parser.capacity() > kKeptBodyBytesMax) state_.parser = ondemand::parser();
  state_.busy = false;
}

void JsonReader::open(std::string_view body) {
  switch (state_.parser.iterate(body, body.size() + kPaddingBytes).get(state_.document)) {
    case simdjson::SUCCESS: break;
    case simdjson::EMPTY: syntax("it is empty, expected an object", 0); return;
    case simdjson::UTF8_ERROR: syntax("invalid UTF-8", utf8_error_offset(body)); return;
    case simdjson::UNCLOSED_STRING: syntax("a string is not closed", body.size()); return;
    case simdjson::UNESCAPED_CHARS:
      syntax("a string holds a raw control character", raw_control_offset(body));
      return;
    case simdjson::CAPACITY:
      set_error(Code::kPayloadTooLarge, "the body is larger than 4 GiB", {});
      return;
    case simdjson::MEMALLOC: set_error(Code::kInternal, "out of memory", {}); return;
    default: syntax("it cannot be read", 0); return;
  }

  std::string_view first;
  if (state_.document.raw_json_token().get(first) != simdjson::SUCCESS) {
    syntax("expected an object", 0);
    return;
  }
  state_.token = without_trailing_blanks(first);
  state_.value_done = true;
  if (first.front() != '{') {
    // A wrong kind of document is told apart from no document at all.
    if (classify()) {
      set_error(Code::kInvalidArgument,
                fmt::format("the body must be a JSON object, got {}", name_of(state_.type)), {});
    }
    return;
  }

  ondemand::object object;
  Level& level = state_.levels[0];
  level.is_object = true;
  level.started = false;
  if (state_.document.get_object().get(object) != simdjson::SUCCESS ||
      object.begin().get(level.fields) != simdjson::SUCCESS ||
      object.end().get(level.fields_end) != simdjson::SUCCESS) {
    syntax("its object does not end where the body ends", body.size());
    return;
  }
  state_.depth = 1;
  state_.value_done = true;
}

bool JsonReader::ok() const noexcept { return !state_.failed; }
Error JsonReader::take_error() { return std::move(state_.error); }

bool JsonReader::next_field(std::string_view& key) {
  finish_value();
  if (state_.failed) return false;
  Level& level = state_.top();
  if (level.started) ++level.fields;
  level.started = true;
  if (level.fields == level.fields_end) return leave_level();

  ondemand::field field;
  if ((*level.fields).get(field) != simdjson::SUCCESS) {
    level.key = {};
    return syntax_here("expected ',', '}' or a name in quotes");
  }
  if (field.unescaped_key().get(level.key) != simdjson::SUCCESS) {
    level.key = {};
    return syntax_here("a name holds a bad escape");
  }
  key = level.key;
  state_.value = field.value();
  state_.token = without_trailing_blanks(state_.value.raw_json_token());
  return classify();
}

bool JsonReader::next_element() {
  finish_value();
  if (state_.failed) return false;
  Level& level = state_.top();
  if (level.started) {
    ++level.elements;
    ++level.index;
  }
  level.started = true;
  if (level.elements == level.elements_end) return leave_level();

  if ((*level.elements).get(state_.value) != simdjson::SUCCESS) {
    return syntax_here("expected ',' or ']'");
  }
  state_.token = without_trailing_blanks(state_.value.raw_json_token());
  return classify();
}

std::size_t JsonReader::index() const noexcept { return state_.top().index; }

bool JsonReader::classify() {
  state_.value_done = false;
  switch (state_.token.front()) {
    case '{': state_.type = JsonType::kObject; return true;
    case '[': state_.type = JsonType::kArray; return true;
    case '"': state_.type = JsonType::kString; return true;
    case 't': state_.type = JsonType::kBool; break;
    case 'f': state_.type = JsonType::kBool; break;
    case 'n': state_.type = JsonType::kNull; break;
    default: state_.type = JsonType::kNumber;
  }
  const std::string_view token = state_.token;
  if (token == "true" || token == "false" || token == "null") return true;
  if (state_.type == JsonType::kNumber && is_json_number(token)) return true;
  const std::string got = may_be_shown(token) ? fmt::format(", got {}", shorten(token)) : "";
  return syntax("expected a value" + got,
                static_cast<std::size_t>(token.data() - state_.body.data()));
}

JsonType JsonReader::type() const noexcept { return state_.type; }
std::string_view JsonReader::token() const noexcept { return state_.token; }

bool JsonReader::push_level() {
  if (state_.failed) return false;
  if (state_.depth == kJsonDepthMax) {
    return fail(fmt::format("nested deeper than {} levels", kJsonDepthMax));
  }
  Level& level = state_.levels[state_.depth];
  level.is_object = state_.type == JsonType::kObject;
  level.started = false;
  level.key = {};
  level.index = 0;
  return true;
}

void JsonReader::enter_object() {
  CHECK(state_.type == JsonType::kObject && !state_.value_done);
  if (!push_level()) return;
  Level& level = state_.levels[state_.depth];
  ondemand::object object;
  if (state_.value.get_object().get(object) != simdjson::SUCCESS ||
      object.begin().get(level.fields) != simdjson::SUCCESS ||
      object.end().get(level.fields_end) != simdjson::SUCCESS) {
    syntax_here("an object is not closed");
    return;
  }
  ++state_.depth;
  state_.value_done = true;
}

void JsonReader::enter_array() {
  CHECK(state_.type == JsonType::kArray && !state_.value_done);
  if (!push_level()) return;
  Level& level = state_.levels[state_.depth];
  ondemand::array array;
  if (state_.value.get_array().get(array) != simdjson::SUCCESS ||
      array.begin().get(level.elements) != simdjson::SUCCESS ||
      array.end().get(level.elements_end) != simdjson::SUCCESS) {
    syntax_here("an array is not closed");
    return;
  }
  ++state_.depth;
  state_.value_done = true;
}

bool JsonReader::leave_level() {
  --state_.depth;
  state_.value_done = true;
  const char* rest = nullptr;
  if (state_.depth == 0 && state_.document.current_location().get(rest) == simdjson::SUCCESS) {
    syntax_here("something follows its object");
  }
  return false;
}

void JsonReader::finish_value() {
  if (state_.failed || state_.value_done) return;
  std::string_view key;
  switch (state_.type) {
    case JsonType::kString: string(); break;
    case JsonType::kObject:
      enter_object();
      while (next_field(key)) {
      }
      break;
    case JsonType::kArray:
      enter_array();
      while (next_element()) {
      }
      break;
    default: state_.value_done = true;
  }
}

std::string_view JsonReader::string() {
  CHECK(state_.type == JsonType::kString && !state_.value_done);
  std::string_view text;
  state_.value_done = true;
  if (state_.value.get_string().get(text) != simdjson::SUCCESS) {
    syntax("a string holds a bad escape, or half of a surrogate pair",
           static_cast<std::size_t>(state_.token.data() - state_.body.data()));
    return {};
  }
  return text;
}

std::string_view JsonReader::raw() {
  const std::string_view token = state_.token;
  const bool is_container = state_.type == JsonType::kObject || state_.type == JsonType::kArray;
  finish_value();
  if (state_.failed || !is_container) return token;
  // The cursor's next token is the ',' or the bracket behind the value.
  const char* end = nullptr;
  if (state_.document.current_location().get(end) != simdjson::SUCCESS) {
    syntax("it ends early", state_.body.size());
    return {};
  }
  const char* start = token.data();
  return without_trailing_blanks({start, static_cast<std::size_t>(end - start)});
}

bool JsonReader::set_error(Code code, std::string message, std::string param) {
  if (state_.failed) return false;
  state_.failed = true;
  state_.error = Error{code, std::move(message), std::move(param), 0};
  return false;
}

bool JsonReader::syntax(std::string_view what, std::size_t offset) {
  return set_error(Code::kInvalidArgument,
                   fmt::format("the body is not valid JSON: {} near byte {}", what, offset),
                   path());
}

bool JsonReader::syntax_here(std::string_view what) {
  const char* at = nullptr;
  const bool inside = state_.document.current_location().get(at) == simdjson::SUCCESS;
  return syntax(what,
                inside ? static_cast<std::size_t>(at - state_.body.data()) : state_.body.size());
}

bool JsonReader::fail(std::string_view text, Code code) { return fail_below({}, text, code); }

bool JsonReader::fail_below(std::string_view suffix, std::string_view text, Code code) {
  if (state_.failed) return false;
  std::string where = path();
  if (!where.empty() && !suffix.empty() && suffix.front() != '[') where += '.';
  where += suffix;
  std::string message = where.empty() ? std::string(text) : fmt::format("{}: {}", where, text);
  return set_error(code, std::move(message), std::move(where));
}

bool JsonReader::expected(std::string_view what) {
  const bool is_scalar = state_.type == JsonType::kString || state_.type == JsonType::kNumber ||
                         state_.type == JsonType::kBool;
  if (!is_scalar) return expected_unseen(what);
  return fail(fmt::format("expected {}, got {}", what, shorten(state_.token)));
}

bool JsonReader::expected_unseen(std::string_view what) {
  return fail(fmt::format("expected {}, got {}", what, name_of(state_.type)));
}

std::string JsonReader::path() const {
  std::string path;
  for (std::size_t i = 0; i < state_.depth; ++i) {
    const Level& level = state_.levels[i];
    if (!level.started) break;
    if (!level.is_object) {
      path += '[';
      append_int(path, level.index);
      path += ']';
    } else if (!level.key.empty()) {
      if (!path.empty()) path += '.';
      path += shorten(level.key);
    }
  }
  return path;
}

std::string shorten(std::string_view text) {
  constexpr std::string_view kMark = "...";
  std::string shown(text.substr(0, JsonReader::kEchoBytesMax));
  if (shown.size() < text.size()) {
    shown.resize(shown.size() - kMark.size());
    shown.resize(utf8_error_offset(shown));  // the cut may have split a character
    shown += kMark;
  }
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return shown;
}

}  // namespace penstock::api
