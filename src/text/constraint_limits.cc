#include "text/constraint_limits.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace penstock::text {
namespace {

std::unexpected<Error> too_much(std::string_view what, std::size_t limit, std::string_view param) {
  return fail(Code::kInvalidArgument, fmt::format("{}: more than {} {}", param, limit, what),
              std::string(param));
}

constexpr std::size_t kChainMax = 2000;  // rules that begin with each other: a call each

/// One of what may stand first in a rule: a rule's name, or a group written in place.
struct Node;
using Sequence = std::vector<Node>;

struct Node {
  enum class Kind { kTerminal, kRule, kGroup } kind = Kind::kTerminal;
  std::size_t rule = 0;                // of kRule
  std::vector<Sequence> alternatives;  // of kGroup
  bool optional = false;               // may be absent: ?, *, {0,n}
};

/// Reads GBNF well enough to see what stands first in each rule, how deep groups nest and how much
/// is repeated. Lenient: text that it cannot read is left to llama.cpp's parser, which refuses it.
class Scan {
 public:
  explicit Scan(std::string_view text) : text_(text) {}

  Result<void> run() {
    while (true) {
      skip_space();
      const std::string_view name = take_name();
      if (name.empty()) break;
      skip_space();
      if (text_.substr(at_, 3) != "::=") break;
      at_ += 3;
      const std::size_t rule = number_of(name);
      std::vector<Sequence> alternatives = take_alternatives(1);
      rules_[rule] = std::move(alternatives);
      if (failure_) return std::unexpected(*failure_);
      if (rules_.size() > kRulesMax) return too_much("rules", kRulesMax, "grammar");
    }
    find_empty_rules();
    std::vector<std::optional<std::size_t>> paths(rules_.size());
    for (std::size_t rule = 0; rule < rules_.size(); ++rule) {
      if (count_paths(rule, paths, 0) > kLeftmostPathsMax) {
        return too_much("ways through what rules begin with", kLeftmostPathsMax, "grammar");
      }
    }
    return {};
  }

 private:
  [[nodiscard]] bool done() const { return at_ >= text_.size(); }

  void skip_space() {
    while (!done()) {
      if (text_[at_] == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (std::isspace(static_cast<unsigned char>(text_[at_])) != 0) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string_view take_name() {
    const std::size_t start = at_;
    while (!done() && (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 ||
                       text_[at_] == '-' || text_[at_] == '_')) {
      ++at_;
    }
    return text_.substr(start, at_ - start);
  }

  std::size_t number_of(std::string_view name) {
    const auto [entry, is_new] = numbers_.try_emplace(name, rules_.size());
    if (is_new) rules_.emplace_back();
    return entry->second;
  }

  std::vector<Sequence> take_alternatives(std::size_t depth) {
    std::vector<Sequence> alternatives(1);
    if (depth > kConstraintDepthMax) {
      failure_ = too_much("groups within each other", kConstraintDepthMax, "grammar").error();
      return alternatives;
    }
    while (!failure_) {
      skip_space();
      if (done() || text_[at_] == ')' || begins_rule()) return alternatives;
      if (text_[at_] == '|') {
        ++at_;
        alternatives.emplace_back();
      } else {
        take_item(alternatives.back(), depth);
      }
    }
    return alternatives;
  }

  /// Whether the next rule's name and ::= stand here.
  [[nodiscard]] bool begins_rule() {
    const std::size_t start = at_;
    const bool is_name = !take_name().empty();
    skip_space();
    const bool begins = is_name && text_.substr(at_, 3) == "::=";
    at_ = start;
    return begins;
  }

  void take_item(Sequence& sequence, std::size_t depth) {
    Node node;
    std::size_t size = 1;
    const char c = text_[at_];
    if (c == '"' || c == '[') {
      size = take_quoted(c == '"' ? '"' : ']');
    } else if (c == '(') {
      ++at_;
      node.kind = Node::Kind::kGroup;
      node.alternatives = take_alternatives(depth + 1);
      if (!done()) ++at_;  // the closing one
    } else if (const std::string_view name = take_name(); !name.empty()) {
      node.kind = Node::Kind::kRule;
      node.rule = number_of(name);
    } else {
      ++at_;  // . or something unknown
    }
    take_repetition(node, size);
    sequence.push_back(std::move(node));
  }

  std::size_t take_quoted(char end) {
    const std::size_t start = at_++;
    while (!done() && text_[at_] != end) at_ += text_[at_] == '\\' ? 2 : 1;
    at_ = std::min(at_ + 1, text_.size());
    return at_ - start;
  }

  void take_repetition(Node& node, std::size_t size) {
    skip_space();
    if (done()) return;
    const char c = text_[at_];
    std::size_t times = 1;
    if (c == '?' || c == '*') node.optional = true;
    if (c == '?' || c == '*' || c == '+') ++at_;
    if (c == '{') {
      ++at_;
      const std::size_t least = take_number();
      times = std::max<std::size_t>(least, 1);
      node.optional = least == 0;
      skip_space();
      if (!done() && text_[at_] == ',') {
        ++at_;
        times = std::max(times, take_number());
      }
      at_ = std::min(text_.find('}', at_), text_.size() - 1) + 1;
    }
    repeated_ += size * times;
    if (repeated_ > kRepeatedElementsMax + text_.size()) {
      failure_ = too_much("repeated characters", kRepeatedElementsMax, "grammar").error();
    }
  }

  std::size_t take_number() {
    skip_space();
    std::size_t number = 0;
    while (!done() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0) {
      number = std::min<std::size_t>(number * 10 + static_cast<std::size_t>(text_[at_++] - '0'),
                                     1'000'000);
    }
    return number;
  }

  [[nodiscard]] bool may_be_empty(const Node& node) const {
    if (node.optional) return true;
    if (node.kind == Node::Kind::kRule) return empty_[node.rule];
    return node.kind == Node::Kind::kGroup && any_empty(node.alternatives);
  }
  [[nodiscard]] bool any_empty(const std::vector<Sequence>& alternatives) const {
    return std::ranges::any_of(alternatives, [&](const Sequence& s) {
      return std::ranges::all_of(s, [&](const Node& n) { return may_be_empty(n); });
    });
  }

  void find_empty_rules() {
    empty_.assign(rules_.size(), false);
    for (bool changed = true; changed;) {
      changed = false;
      for (std::size_t rule = 0; rule < rules_.size(); ++rule) {
        if (empty_[rule] || !any_empty(rules_[rule])) continue;
        empty_[rule] = changed = true;
      }
    }
  }

  /// How many rules llama.cpp's search for left recursion enters from this one. It goes down every
  /// path anew. A rule that leads to itself ends the search, as it does there.
  std::size_t count_paths(std::size_t rule, std::vector<std::optional<std::size_t>>& paths,
                          std::size_t depth) {
    if (paths[rule]) return *paths[rule];
    if (depth > kChainMax) return std::numeric_limits<std::uint32_t>::max();
    paths[rule] = 1;
    paths[rule] = count_paths(rules_[rule], paths, depth + 1);
    return *paths[rule];
  }
  std::size_t count_paths(const std::vector<Sequence>& alternatives,
                          std::vector<std::optional<std::size_t>>& paths, std::size_t depth) {
    std::size_t count = 1;
    for (const Sequence& sequence : alternatives) {
      for (const Node& node : sequence) {
        if (node.kind == Node::Kind::kRule) count += count_paths(node.rule, paths, depth);
        if (node.kind == Node::Kind::kGroup) count += count_paths(node.alternatives, paths, depth);
        // Past the limit the exact number does not matter, but it must not wrap.
        count = std::min<std::size_t>(count, std::numeric_limits<std::uint32_t>::max());
        if (!may_be_empty(node)) break;
      }
    }
    return count;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t repeated_ = 0;
  std::map<std::string_view, std::size_t> numbers_;
  std::vector<std::vector<Sequence>> rules_;
  std::vector<bool> empty_;
  std::optional<Error> failure_;
};

namespace dom = simdjson::dom;

std::size_t nesting(std::string_view pattern) {
  std::size_t deepest = 0;
  std::size_t depth = 0;
  for (const char c : pattern) {
    if (c == '(') deepest = std::max(deepest, ++depth);
    if (c == ')' && depth > 0) --depth;
  }
  return deepest;
}

Result<void> check_node(dom::element node, std::string_view param);

Result<void> check_object(dom::object object, std::string_view param) {
  dom::object properties;
  if (object["properties"].get(properties) == simdjson::SUCCESS) {
    dom::array required;
    std::size_t needed = 0;
    if (object["required"].get(required) == simdjson::SUCCESS) needed = required.size();
    const std::size_t all = properties.size();
    if (all > needed && all - needed > kOptionalPropertiesMax) {
      return too_much("optional properties in one object", kOptionalPropertiesMax, param);
    }
  }
  std::string_view pattern;
  if (object["pattern"].get(pattern) == simdjson::SUCCESS &&
      nesting(pattern) > kConstraintDepthMax) {
    return too_much("groups within each other in a pattern", kConstraintDepthMax, param);
  }
  for (const auto& field : object) {
    if (Result<void> fine = check_node(field.value, param); !fine) return fine;
  }
  return {};
}

/// As deep as simdjson was told to parse.
// NOLINTNEXTLINE(misc-no-recursion)
Result<void> check_node(dom::element node, std::string_view param) {
  dom::object object;
  if (node.get(object) == simdjson::SUCCESS) return check_object(object, param);
  dom::array array;
  if (node.get(array) != simdjson::SUCCESS) return {};
  for (const dom::element item : array) {
    if (Result<void> fine = check_node(item, param); !fine) return fine;
  }
  return {};
}

}  // namespace

Result<void> check_gbnf(std::string_view gbnf) {
  // Grammars that are made of schemas are several times as long as these.
  if (gbnf.size() > 8 * kConstraintBytesMax) {
    return too_much("bytes", 8 * kConstraintBytesMax, "grammar");
  }
  return Scan(gbnf).run();
}

Result<void> check_schema(std::string_view schema, std::string_view param) {
  if (schema.size() > kConstraintBytesMax) return too_much("bytes", kConstraintBytesMax, param);
  if (schema.empty()) return {};
  dom::parser parser;
  if (parser.allocate(schema.size(), kConstraintDepthMax) != simdjson::SUCCESS) return {};
  dom::element root;
  const simdjson::padded_string text(schema);
  const simdjson::error_code problem = parser.parse(text).get(root);
  if (problem == simdjson::DEPTH_ERROR) {
    return too_much("levels", kConstraintDepthMax, param);
  }
  if (problem != simdjson::SUCCESS) return {};  // llama.cpp says what is wrong with it
  return check_node(root, param);
}

}  // namespace penstock::text
