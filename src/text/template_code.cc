#include "text/template_code.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace penstock::text {
namespace {

/// Names the code of a template may use and still be laid out from memory: none of them lets it
/// see more of a content than whether it is empty or equal to a string (and trim it).
constexpr std::array<std::string_view, 50> kTransparentNames = {"message",
                                                                "messages",
                                                                "role",
                                                                "content",
                                                                "loop",
                                                                "first",
                                                                "last",
                                                                "index",
                                                                "index0",
                                                                "add_generation_prompt",
                                                                "bos_token",
                                                                "eos_token",
                                                                "true",
                                                                "false",
                                                                "True",
                                                                "False",
                                                                "none",
                                                                "None",
                                                                "trim",
                                                                "strip",
                                                                "namespace",
                                                                "raise_exception",
                                                                "string",
                                                                "tools",
                                                                "for",
                                                                "in",
                                                                "if",
                                                                "elif",
                                                                "else",
                                                                "endif",
                                                                "endfor",
                                                                "set",
                                                                "and",
                                                                "or",
                                                                "not",
                                                                "is",
                                                                "defined",
                                                                "system",
                                                                "system_message",
                                                                "loop_messages",
                                                                "ns",
                                                                "enable_thinking",
                                                                "undefined",
                                                                "mod",
                                                                "iterable",
                                                                "mapping",
                                                                "user",
                                                                "assistant",
                                                                "offset",
                                                                "found"};

bool is_name_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

char unescape(char c) {
  switch (c) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    default: return c;
  }
}

}  // namespace

TemplateCode::TemplateCode(std::string_view source) {
  std::size_t i = 0;
  while (i + 1 < source.size()) {
    if (source[i] == '{' && source[i + 1] == '#') {
      const std::size_t end = source.find("#}", i);
      if (end == std::string_view::npos) break;
      i = end + 2;
    } else if (source[i] == '{' && (source[i + 1] == '{' || source[i + 1] == '%')) {
      i = read_expression(source, i + 2);
    } else {
      ++i;
    }
  }
}

/// From behind {{ or {% to behind what closes it.
std::size_t TemplateCode::read_expression(std::string_view source, std::size_t i) {
  while (i + 1 < source.size() &&
         !((source[i] == '}' || source[i] == '%') && source[i + 1] == '}')) {
    const char c = source[i];
    if (c == '\'' || c == '"') {
      std::string text;
      for (++i; i < source.size() && source[i] != c; ++i) {
        if (source[i] == '\\' && i + 1 < source.size()) {
          text += unescape(source[++i]);
        } else {
          text += source[i];
        }
      }
      ++i;
      strings_.push_back(std::move(text));
      skeleton_ += "'";
    } else if (std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_') {
      const std::size_t start = i;
      while (i < source.size() && is_name_char(source[i])) ++i;
      names_.emplace_back(source.substr(start, i - start));
      skeleton_ += names_.back();
      skeleton_ += ' ';
    } else {
      if (std::isspace(static_cast<unsigned char>(c)) == 0) skeleton_ += c;
      ++i;
    }
  }
  skeleton_ += ';';
  return i + 2;
}

bool TemplateCode::is_transparent() const {
  // Names that the template itself sets, and strings it uses as keys, tell nothing of contents.
  if (!std::ranges::all_of(names_, [](const std::string& name) {
        return std::ranges::find(kTransparentNames, name) != kTransparentNames.end();
      })) {
    return false;
  }
  // `in` only as part of `for x in y`: the other one searches.
  if (count("in") != count("for")) return false;
  return std::ranges::none_of(
      std::array<std::string_view, 4>{"content [", "content '[", "content '][", "']["},
      [&](std::string_view peek) { return in_skeleton(peek) > 0; });
}

bool TemplateCode::is_local() const {
  for (const char* name : {"index", "index0", "namespace", "ns", "offset", "found", "mod"}) {
    if (uses(name)) return false;
  }
  if (count("for") != 1) return false;
  const auto loop = std::ranges::find(names_, "for");
  if (std::find(loop, names_.end(), "set") != names_.end()) return false;
  return in_skeleton("messages [") == in_skeleton("messages [0]") + in_skeleton("messages [1:]") &&
         in_skeleton("last ") == in_skeleton("loop .last ");
}

std::size_t TemplateCode::count(std::string_view name) const {
  return static_cast<std::size_t>(std::ranges::count(names_, name));
}

std::size_t TemplateCode::in_skeleton(std::string_view part) const {
  std::size_t found = 0;
  for (std::size_t at = skeleton_.find(part); at != std::string::npos;
       at = skeleton_.find(part, at + 1)) {
    ++found;
  }
  return found;
}

}  // namespace penstock::text
