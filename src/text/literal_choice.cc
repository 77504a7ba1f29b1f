#include "text/literal_choice.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace penstock::text {
namespace {

constexpr std::size_t kLiteralsMin = 8;  // fewer cost nothing
constexpr std::size_t kLevelsMax = 16;   // of groups that are made; what goes deeper stays flat

/// A literal's characters as they are spelled there, escapes whole.
using Literal = std::vector<std::string_view>;

std::size_t spelled_bytes(std::string_view text) {
  if (text[0] == '\\' && text.size() > 1) {
    const std::size_t digits = text[1] == 'x' ? 2 : text[1] == 'u' ? 4 : text[1] == 'U' ? 8 : 0;
    return std::min(2 + digits, text.size());
  }
  std::size_t bytes = 1;
  while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80) ++bytes;
  return bytes;
}

void skip_space(std::string_view text, std::size_t& at, bool lines) {
  while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at])) != 0 &&
         (lines || text[at] != '\n')) {
    ++at;
  }
}

/// The literal whose opening quote stands at `at`, which moves behind the closing one.
std::optional<Literal> take_literal(std::string_view text, std::size_t& at) {
  Literal literal;
  for (++at; at < text.size() && text[at] != '"'; at += literal.back().size()) {
    literal.push_back(text.substr(at, spelled_bytes(text.substr(at))));
  }
  if (at >= text.size()) return std::nullopt;
  ++at;
  return literal;
}

/// Literals with | between them, from `at` to the end of a group or rule, which `at` moves to.
/// Empty if anything else stands there.
std::vector<Literal> take_choice(std::string_view text, std::size_t& at, bool is_group) {
  std::vector<Literal> choice;
  while (true) {
    skip_space(text, at, true);
    if (at >= text.size() || text[at] != '"') return {};
    std::optional<Literal> literal = take_literal(text, at);
    if (!literal) return {};
    choice.push_back(std::move(*literal));
    skip_space(text, at, is_group);
    const bool ends =
        is_group ? at < text.size() && text[at] == ')' : at >= text.size() || text[at] == '\n';
    if (ends) return choice;
    if (at >= text.size() || text[at] != '|') return {};
    ++at;
  }
}

void append_literal(std::string& out, std::span<const std::string_view> characters) {
  out += '"';
  for (const std::string_view c : characters) out += c;
  out += '"';
}

/// Appends what is left of `sorted`, which agree on the first `from` characters, as alternatives.
// NOLINTNEXTLINE(misc-no-recursion): kLevelsMax deep
void append_choice(std::string& out, std::span<const Literal> sorted, std::size_t from,
                   std::size_t level) {
  for (std::size_t i = 0; i < sorted.size();) {
    std::size_t end = i + 1;
    if (level < kLevelsMax) {
      while (end < sorted.size() && sorted[end][from] == sorted[i][from]) ++end;
    }
    if (i > 0) out += " | ";
    const std::span<const Literal> group = sorted.subspan(i, end - i);
    i = end;
    // Sorted: what the first and the last have in common, all have.
    const Literal& first = group.front();
    const auto common =
        static_cast<std::size_t>(std::ranges::mismatch(first, group.back()).in1 - first.begin());
    append_literal(out, std::span(first).subspan(from, common - from));
    if (group.size() == 1) continue;
    const bool may_end = first.size() == common;
    out += " (";
    append_choice(out, may_end ? group.subspan(1) : group, common, level + 1);
    out += may_end ? ")?" : ")";
  }
}

bool append_factored(std::string& out, std::vector<Literal> choice) {
  if (choice.size() < kLiteralsMin) return false;
  std::ranges::sort(choice);
  choice.erase(std::ranges::unique(choice).begin(), choice.end());
  if (choice.front().empty()) return false;
  out += ' ';
  append_choice(out, choice, 0, 0);
  return true;
}

/// Behind the literal, class or comment that begins at `at`.
std::size_t end_of_quoted(std::string_view text, std::size_t at) {
  if (text[at] == '#') return std::min(text.find('\n', at), text.size());
  const char close = text[at] == '[' ? ']' : '"';
  for (++at; at < text.size() && text[at] != close; ++at) {
    if (text[at] == '\\') ++at;
  }
  return std::min(at + 1, text.size());
}

}  // namespace

std::string factor_choices(std::string_view gbnf) {
  std::string out;
  out.reserve(gbnf.size());
  for (std::size_t at = 0; at < gbnf.size();) {
    const char c = gbnf[at];
    if (c == '"' || c == '[' || c == '#') {
      const std::size_t end = end_of_quoted(gbnf, at);
      out += gbnf.substr(at, end - at);
      at = end;
      continue;
    }
    const bool is_group = c == '(';
    const std::string_view begin = is_group ? "(" : gbnf.substr(at, 3) == "::=" ? "::=" : "";
    if (begin.empty()) {
      out += c;
      ++at;
      continue;
    }
    out += begin;
    at += begin.size();
    std::size_t end = at;
    if (append_factored(out, take_choice(gbnf, end, is_group))) at = end;
  }
  return out;
}

}  // namespace penstock::text
