#include "text/gbnf_rules.h"

#include <algorithm>
#include <cctype>
#include <span>
#include <utility>

#include "text/ascii.h"
#include "text/constraint_error.h"
#include "text/constraint_limits.h"

namespace penstock::text {
namespace {

using Element = GbnfRules::Element;
using Kind = Element::Kind;
using Sequence = std::vector<Element>;

constexpr std::uint32_t kLastCharacter = 0x10FFFF;

struct Range {
  std::uint32_t first;
  std::uint32_t last;
};
using Ranges = std::vector<Range>;

Ranges all_but(Ranges ranges) {
  std::ranges::sort(ranges, {}, &Range::first);
  Ranges others;
  std::uint32_t next = 0;
  for (const Range& r : ranges) {
    if (r.first > next) others.push_back({next, r.first - 1});
    next = std::max(next, r.last + 1);
  }
  if (next <= kLastCharacter) others.push_back({next, kLastCharacter});
  return others;
}

class Reader {
 public:
  Reader(std::string_view text, std::string_view param) : text_(text), param_(param) {}

  Result<GbnfRules> run() {
    while (true) {
      skip_space();
      const std::string_view name = take_name();
      if (name.empty()) break;
      skip_space();
      if (text_.substr(at_, 3) != "::=") break;
      at_ += 3;
      take_alternatives(number_of(name), 1);
      if (numbers_.size() > kRulesMax) return too_much("rules", kRulesMax, param_);
      if (out_.rules.size() > kGroupsMax) {
        return too_much("groups and repetitions", kGroupsMax, param_);
      }
      if (failure_) return std::unexpected(*failure_);
    }
    make_sets();
    find_empty_rules();
    return std::move(out_);
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

  std::uint32_t new_rule() {
    out_.rules.emplace_back();
    return static_cast<std::uint32_t>(out_.rules.size() - 1);
  }
  std::uint32_t number_of(std::string_view name) {
    const auto found = numbers_.find(name);
    return found != numbers_.end() ? found->second : numbers_[name] = new_rule();
  }

  std::uint32_t add_alternative(std::span<const Element> sequence) {
    const auto start = static_cast<std::uint32_t>(out_.elements.size());
    out_.elements.insert(out_.elements.end(), sequence.begin(), sequence.end());
    out_.elements.push_back({});
    return start;
  }

  /// Up to the end of the rule or group. A rule that is defined twice is what it was last.
  // NOLINTNEXTLINE(misc-no-recursion)
  void take_alternatives(std::uint32_t rule, std::size_t depth) {
    if (depth > kConstraintDepthMax) {
      failure_ = too_much("groups within each other", kConstraintDepthMax, param_).error();
      return;
    }
    GbnfRules::Alternatives alternatives;
    Sequence sequence;
    while (!failure_) {
      skip_space();
      if (done() || text_[at_] == ')' || begins_rule()) break;
      if (text_[at_] == '|') {
        ++at_;
        alternatives.push_back(add_alternative(std::exchange(sequence, {})));
      } else {
        take_item(sequence, depth);
      }
    }
    alternatives.push_back(add_alternative(sequence));
    out_.rules[rule] = std::move(alternatives);
  }

  /// Whether the next rule's name and ::= stand here.
  [[nodiscard]] bool begins_rule() {
    const std::size_t start = at_;
    const bool is_name = !take_name().empty();
    if (is_name) skip_space();
    const bool begins = is_name && text_.substr(at_, 3) == "::=";
    at_ = start;
    return begins;
  }

  // NOLINTNEXTLINE(misc-no-recursion)
  void take_item(Sequence& sequence, std::size_t depth) {
    const std::size_t start = at_;
    Sequence item;
    const char c = text_[at_];
    if (c == '"') {
      take_literal(item);
    } else if (c == '[') {
      item.push_back(take_class());
    } else if (c == '(') {
      ++at_;
      const std::uint32_t group = new_rule();
      take_alternatives(group, depth + 1);
      if (!done()) ++at_;  // the closing one
      item.push_back({Kind::kRule, group});
    } else if (const std::string_view name = take_name(); !name.empty()) {
      item.push_back({Kind::kRule, number_of(name)});
    } else {
      if (c == '<') at_ = std::min(text_.find('>', at_), text_.size() - 1);  // a token
      ++at_;  // . or something unknown
      item.push_back(add_set({{0, kLastCharacter}}));
    }
    // A group's repetitions copy a reference, a literal's its characters.
    take_repetition(item, c == '(' ? 1 : at_ - start);
    sequence.insert(sequence.end(), item.begin(), item.end());
  }

  Element add_set(Ranges ranges) {
    sets_.push_back(std::move(ranges));
    return {Kind::kSet, static_cast<std::uint32_t>(sets_.size() - 1)};
  }
  Element add_character(std::uint32_t c) {
    const auto [entry, is_new] = characters_.try_emplace(c);
    if (is_new) entry->second = add_set({{c, c}});
    return entry->second;
  }

  /// Once all are known, and with them the stretches of characters that none of them tells apart.
  void make_sets() {
    constexpr std::uint32_t kFirst = 128;
    std::vector<std::uint32_t> borders{kFirst};  // where stretches begin
    for (const Ranges& ranges : sets_) {
      for (const Range& r : ranges) {
        if (r.first > kFirst) borders.push_back(r.first);
        if (r.last >= kFirst) borders.push_back(r.last + 1);
      }
    }
    std::ranges::sort(borders);
    borders.erase(std::ranges::unique(borders).begin(), borders.end());
    const auto stretch = [&](std::uint32_t c) {
      return static_cast<std::size_t>(std::ranges::upper_bound(borders, c) - borders.begin()) - 1;
    };
    for (const Ranges& ranges : sets_) {
      GbnfRules::Set& set = out_.sets.emplace_back();
      for (const Range& r : ranges) {
        for (std::uint32_t c = r.first; c <= std::min(r.last, kFirst - 1); ++c) set.set(c);
        if (r.last < kFirst) continue;
        const std::size_t begin = stretch(std::max(r.first, kFirst));
        const std::size_t end = std::min(stretch(r.last), begin + kFirst - 1);
        for (std::size_t s = begin; s <= end; ++s) set.set(kFirst + (s % kFirst));
      }
    }
  }

  void take_literal(Sequence& item) {
    ++at_;
    while (!done() && text_[at_] != '"') item.push_back(add_character(take_character()));
    at_ = std::min(at_ + 1, text_.size());
  }

  Element take_class() {
    ++at_;
    const bool excludes = !done() && text_[at_] == '^';
    if (excludes) ++at_;
    Ranges ranges;
    while (!done() && text_[at_] != ']') {
      const std::uint32_t first = take_character();
      std::uint32_t last = first;
      if (at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']') {
        ++at_;
        last = take_character();
      }
      if (first <= last) ranges.push_back({first, last});
    }
    at_ = std::min(at_ + 1, text_.size());
    return add_set(excludes ? all_but(std::move(ranges)) : std::move(ranges));
  }

  /// One character, spelled as such or by an escape. Not at the end of the text.
  std::uint32_t take_character() {
    const char c = text_[at_++];
    if (c == '\\' && !done()) return take_escape(text_[at_++]);
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0xC0) return byte;
    const std::size_t more = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    std::uint32_t value = byte & (0x3FU >> more);
    for (std::size_t i = 0; i < more && !done(); ++i) {
      value = value << 6 | (static_cast<unsigned char>(text_[at_++]) & 0x3FU);
    }
    return value;
  }

  std::uint32_t take_escape(char c) {
    if (c == 'n') return '\n';
    if (c == 't') return '\t';
    if (c == 'r') return '\r';
    const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) return static_cast<unsigned char>(c);
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < digits && !done(); ++i) {
      const char digit = text_[at_++];
      const auto low = static_cast<std::uint32_t>(std::tolower(static_cast<unsigned char>(digit)));
      value = value << 4 | ((is_digit(digit) ? low - '0' : low - 'a' + 10) & 0xFU);
    }
    return std::min(value, 0x10FFFFU);
  }

  struct Times {
    std::size_t least = 1;
    std::size_t most = 1;
  };
  static constexpr std::size_t kAny = 1'000'000;  // also the most that is told apart

  void take_repetition(Sequence& item, std::size_t size) {
    for (skip_space(); !done() && !failure_; skip_space()) {
      const char c = text_[at_];
      if (c != '?' && c != '*' && c != '+' && c != '{') break;
      ++at_;
      Times times{.least = c == '+' ? 1U : 0U, .most = c == '?' ? 1 : kAny};
      if (c == '{') times = take_times();
      size *= std::clamp<std::size_t>(times.most == kAny ? times.least : times.most, 1, kAny);
      repeated_ += size;
      if (repeated_ > kRepeatedElementsMax + text_.size()) {
        failure_ = too_much("repeated characters", kRepeatedElementsMax, param_).error();
        return;
      }
      // llama.cpp repeats what stands last: of nothing at all it makes nothing, too.
      if (!item.empty()) item = repeated(std::move(item), times);
    }
  }

  Times take_times() {
    const std::size_t least = take_number();
    std::size_t most = least;
    skip_space();
    if (!done() && text_[at_] == ',') {
      ++at_;
      skip_space();
      most = !done() && is_digit(text_[at_]) ? take_number() : kAny;
    }
    at_ = std::min(text_.find('}', at_), text_.size() - 1) + 1;
    return {.least = least, .most = most};
  }

  std::size_t take_number() {
    skip_space();
    std::size_t number = 0;
    while (!done() && is_digit(text_[at_])) {
      number =
          std::min<std::size_t>(number * 10 + static_cast<std::size_t>(text_[at_++] - '0'), kAny);
    }
    return number;
  }

  /// S{m,n} is S, m times, then rules S' that are S S' or nothing.
  Sequence repeated(Sequence item, Times times) {
    if (item.size() > 1) {  // a literal: once, behind a rule
      const std::uint32_t whole = new_rule();
      out_.rules[whole] = {add_alternative(item)};
      item = {{Kind::kRule, whole}};
    }
    const std::size_t copies = std::min(times.least, GbnfRules::kCopies);
    Sequence out(copies, item[0]);
    if (times.most <= copies) return out;
    const bool loops = times.most - copies > GbnfRules::kCopies;
    const std::size_t rules = loops ? 1 : times.most - copies;
    Sequence rest;
    for (std::size_t i = 0; i < rules; ++i) {
      const std::uint32_t rule = new_rule();
      Sequence again = item;
      if (loops) again.push_back({Kind::kRule, rule});
      again.insert(again.end(), rest.begin(), rest.end());
      out_.rules[rule] = {add_alternative(again), add_alternative({})};
      rest = {{Kind::kRule, rule}};
    }
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
  }

  /// A rule may be empty once one of its alternatives has nothing left in it that may not. Each
  /// rule found tells every place that names it, once.
  void find_empty_rules() {
    struct Alternative {
      std::uint32_t rule;
      std::size_t left;  // elements that are not known to be empty
    };
    std::vector<Alternative> alternatives;
    std::vector<std::vector<std::size_t>> users(out_.rules.size());
    std::vector<std::uint32_t> todo;
    for (std::uint32_t rule = 0; rule < out_.rules.size(); ++rule) {
      for (const std::uint32_t start : out_.rules[rule]) {
        const Element* e = &out_.elements[start];
        while (e->kind == Kind::kRule) users[(e++)->value].push_back(alternatives.size());
        const auto names = static_cast<std::size_t>(e - &out_.elements[start]);
        if (e->kind == Kind::kEnd && names == 0) todo.push_back(rule);
        alternatives.push_back({.rule = rule, .left = names + (e->kind == Kind::kSet ? 1 : 0)});
      }
    }
    out_.may_be_empty.assign(out_.rules.size(), false);
    while (!todo.empty()) {
      const std::uint32_t rule = todo.back();
      todo.pop_back();
      if (out_.may_be_empty[rule]) continue;
      out_.may_be_empty[rule] = true;
      for (const std::size_t user : users[rule]) {
        if (--alternatives[user].left == 0) todo.push_back(alternatives[user].rule);
      }
    }
  }

  std::string_view text_;
  std::string_view param_;
  std::size_t at_ = 0;
  std::size_t repeated_ = 0;
  std::map<std::string_view, std::uint32_t> numbers_;
  std::map<std::uint32_t, Element> characters_;
  std::vector<Ranges> sets_;
  GbnfRules out_;
  std::optional<Error> failure_;
};

}  // namespace

Result<GbnfRules> read_gbnf(std::string_view gbnf, std::string_view param) {
  return Reader(gbnf, param).run();
}

}  // namespace penstock::text
