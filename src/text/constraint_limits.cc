#include "text/constraint_limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <iterator>
#include <map>
#include <queue>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "text/constraint_error.h"
#include "text/gbnf_rules.h"
#include "text/grammar_paths.h"

namespace penstock::text {
namespace {

using Element = GbnfRules::Element;
using Kind = Element::Kind;

constexpr std::size_t kChainMax = 2000;   // rules that begin with each other: a call each
constexpr std::size_t kEnough = 1 << 30;  // past every limit; the exact number does not matter

/// What stands first in each rule, found as llama.cpp finds it.
class Beginnings {
 public:
  Beginnings(const GbnfRules& grammar, std::string_view param)
      : grammar_(&grammar), param_(param), of_(grammar.rules.size()) {}

  Result<void> run() {
    for (std::uint32_t rule = 0; rule < of_.size(); ++rule) {
      if (Result<void> fine = visit(rule, 0); !fine) return fine;
      if (of_[rule].paths > kLeftmostPathsMax) {
        return too_much("ways through what rules begin with", kLeftmostPathsMax, param_);
      }
      if (of_[rule].open > kOpenAlternativesMax) {
        return too_much("alternatives open at one place", kOpenAlternativesMax, param_);
      }
    }
    return {};
  }

  /// Stacks that a rule becomes before anything of it is read.
  [[nodiscard]] std::size_t open(std::uint32_t rule) const { return of_[rule].open; }
  /// Greater than those of all rules that this one can begin with.
  [[nodiscard]] std::size_t rank(std::uint32_t rule) const { return of_[rule].rank; }

 private:
  struct Counts {
    std::size_t paths = 1;  // rules entered in the search for left recursion: each path anew
    std::size_t open = 0;   // places that read a character
    std::size_t rank = 0;
    enum class State { kNew, kOpen, kDone } state = State::kNew;
  };

  // NOLINTNEXTLINE(misc-no-recursion)
  Result<void> visit(std::uint32_t rule, std::size_t depth) {
    Counts& counts = of_[rule];
    if (counts.state == Counts::State::kDone) return {};
    if (counts.state == Counts::State::kOpen) {
      // llama.cpp finds this only where what stands before is plainly empty, and else never ends.
      return fail(Code::kInvalidArgument,
                  fmt::format("{}: a rule begins with itself (left recursion)", param_),
                  std::string(param_));
    }
    if (depth > kChainMax) {
      return too_much("rules that begin with each other", kChainMax, param_);
    }
    counts.state = Counts::State::kOpen;
    for (const std::uint32_t start : grammar_->rules[rule]) {
      for (const Element* e = &grammar_->elements[start]; e->kind != Kind::kEnd; ++e) {
        if (e->kind == Kind::kSet) {
          ++counts.open;
          break;
        }
        // A loop around what may be empty comes back to its own end, where nothing grows: the
        // grammars of many templates' tool calls have such.
        const bool loops = of_[e->value].state == Counts::State::kOpen;
        if (loops && (e + 1)->kind == Kind::kEnd) break;
        if (Result<void> fine = visit(e->value, depth + 1); !fine) return fine;
        counts.paths = std::min(counts.paths + of_[e->value].paths, kEnough);
        counts.open = std::min(counts.open + of_[e->value].open, kEnough);
        if (!grammar_->may_be_empty[e->value]) break;
      }
    }
    counts.state = Counts::State::kDone;
    counts.rank = ++ranked_;
    return {};
  }

  const GbnfRules* grammar_;
  std::string_view param_;
  std::vector<Counts> of_;
  std::size_t ranked_ = 0;
};

/// Bounds the stacks that one text can lead to. Two alternatives of a rule A are followed side by
/// side, over all texts that both allow. Where both come to the same rule R they have made two
/// stacks, which go on through R alike: A makes as many times more stacks than R as alternatives
/// meet there. If R leads back to A (x ::= "a" x "b" | "a" x "c") their number has no bound, and if
/// that repeats without recursion it is a product. What a rule on top of both reads is taken to be
/// the same for both, so that the search ends; ways that only meet by reading it differently are
/// missed.
class StackSearch {
 public:
  StackSearch(const GbnfRules& grammar, const Beginnings& beginnings, std::string_view param)
      : grammar_(&grammar),
        param_(param),
        beginnings_(&beginnings),
        stacks_(grammar.rules.size()),
        users_(grammar.rules.size()) {
    for (std::uint32_t rule = 0; rule < stacks_.size(); ++rule)
      stacks_[rule] = beginnings.open(rule);
  }

  Result<void> run() {
    for (std::uint32_t rule = 0; rule < stacks_.size(); ++rule) {
      compare_alternatives(rule);
      if (steps_ > kStackSearchMax) {
        return too_much("steps needed to see how many ways one text can be read", kStackSearchMax,
                        std::string(param_));
      }
    }
    if (!spread()) {
      return too_much(
          "ways to read one text (alternatives that begin alike and then lead to the "
          "same rule)",
          kStacksMax, param_);
    }
    return {};
  }
  [[nodiscard]] std::size_t steps() const noexcept { return steps_; }

 private:
  using Stack = std::vector<std::uint32_t>;  // places in `elements`; the last is read next
  struct Pair {
    Stack first;
    Stack second;
    bool have_read = false;  // anything yet
    auto operator<=>(const Pair&) const = default;
  };
  struct User {
    std::uint32_t rule;
    std::size_t times;  // stacks that it makes of each one
  };
  static constexpr std::size_t kPairSteps = 10;  // of a pair that is remembered

  [[nodiscard]] const Element& at(std::uint32_t place) const { return grammar_->elements[place]; }

  [[nodiscard]] bool names_rule(std::uint32_t place) const {
    while (at(place).kind == Kind::kSet) ++place;
    return at(place).kind == Kind::kRule;
  }
  [[nodiscard]] bool apart(const Element& a, const Element& b) const {
    return a.kind == Kind::kSet && b.kind == Kind::kSet && a.value != b.value &&
           (grammar_->sets[a.value] & grammar_->sets[b.value]).none();
  }

  void compare_alternatives(std::uint32_t rule) {
    for (const std::uint32_t start : grammar_->rules[rule]) {
      for (std::uint32_t p = start; at(p).kind != Kind::kEnd; ++p) {
        if (at(p).kind == Kind::kRule) users_[at(p).value].push_back({.rule = rule, .times = 1});
      }
    }
    std::vector<std::uint32_t> starts;  // of those that can lead on to a rule
    std::ranges::copy_if(grammar_->rules[rule], std::back_inserter(starts),
                         [&](std::uint32_t start) { return names_rule(start); });
    std::map<std::uint32_t, std::set<std::size_t>> meetings;  // rule to alternatives
    for (std::size_t j = 1; j < starts.size() && steps_ <= kStackSearchMax; ++j) {
      for (std::size_t i = 0; i < j; ++i) {
        ++steps_;
        if (apart(at(starts[i]), at(starts[j]))) continue;
        for (const std::uint32_t met : follow({Stack{starts[i]}, Stack{starts[j]}})) {
          meetings[met].insert(j);
        }
      }
    }
    for (const auto& [met, alternatives] : meetings) {
      users_[met].push_back({.rule = rule, .times = 1 + alternatives.size()});
    }
  }

  /// The rules at which the two meet.
  std::set<std::uint32_t> follow(Pair first) {
    std::set<std::uint32_t> met;
    std::set<Pair> seen;
    std::set<std::pair<std::uint32_t, std::uint32_t>> expanded;  // places of two rules on top
    std::vector<Pair> todo{std::move(first)};
    while (!todo.empty() && steps_ <= kStackSearchMax) {
      Pair pair = std::move(todo.back());
      todo.pop_back();
      read_alike(pair);
      auto& [a, b, have_read] = pair;
      if (a.empty() || b.empty() || a == b || apart(at(a.back()), at(b.back()))) continue;
      if (!leads_on(a) || !leads_on(b)) continue;
      // To remember it takes the longer the more there are: 0.3 us, several once they leave caches.
      steps_ += kPairSteps * (1 + std::bit_width(seen.size())) + a.size() + b.size();
      if (!seen.insert(pair).second) continue;
      const Element& x = at(a.back());
      const Element& y = at(b.back());
      const bool both = x.kind == Kind::kRule && y.kind == Kind::kRule;
      // Two rules that were side by side before, further out, are taken to read the same: they may
      // nest without end.
      if (both && (x.value == y.value || !expanded.emplace(a.back(), b.back()).second)) {
        const bool alike = x.value == y.value;
        const std::uint32_t rule = x.value;
        ++a.back();
        ++b.back();
        drop_ends(pair);
        // llama.cpp merges what is alike before anything is read, but not later.
        if (alike && (a != b || have_read)) met.insert(rule);
        have_read = true;
        todo.push_back(std::move(pair));
      } else {
        expand(pair, todo);
      }
    }
    return met;
  }

  void drop_ends(Pair& pair) const {
    for (Stack* stack : {&pair.first, &pair.second}) {
      while (!stack->empty() && at(stack->back()).kind == Kind::kEnd) stack->pop_back();
    }
  }

  /// Goes on as long as both read a character that may be the same.
  void read_alike(Pair& pair) {
    auto& [a, b, have_read] = pair;
    while (true) {
      drop_ends(pair);
      if (a.empty() || b.empty()) return;
      const Element& x = at(a.back());
      const Element& y = at(b.back());
      if (x.kind != Kind::kSet || y.kind != Kind::kSet || apart(x, y)) return;
      ++a.back();
      ++b.back();
      have_read = true;
      ++steps_;
    }
  }

  [[nodiscard]] bool leads_on(const Stack& stack) const {
    return std::ranges::any_of(stack, [&](std::uint32_t place) { return names_rule(place); });
  }

  /// Replaces a rule on top by each of its alternatives. Of two rules the one that may begin with
  /// the other, so that no place where they meet is passed.
  void expand(const Pair& pair, std::vector<Pair>& todo) {
    const Element& a = at(pair.first.back());
    const Element& b = at(pair.second.back());
    const bool first =
        a.kind == Kind::kRule &&
        (b.kind != Kind::kRule || beginnings_->rank(a.value) > beginnings_->rank(b.value));
    const std::uint32_t other = first ? pair.second.back() : pair.first.back();
    const std::uint32_t rule = at(first ? pair.first.back() : pair.second.back()).value;
    for (const std::uint32_t start : grammar_->rules[rule]) {
      ++steps_;
      if (apart(at(start), at(other))) continue;
      Pair next = pair;
      Stack& stack = first ? next.first : next.second;
      ++stack.back();
      if (at(stack.back()).kind == Kind::kEnd) stack.pop_back();
      stack.push_back(start);
      todo.push_back(std::move(next));
    }
  }

  /// Carries numbers of stacks from rules to those that use them, until nothing changes. False: one
  /// is beyond the limit.
  bool spread() {
    // The largest first, so that a rule is seldom raised twice.
    std::priority_queue<std::pair<std::size_t, std::uint32_t>> todo;
    for (std::uint32_t rule = 0; rule < stacks_.size(); ++rule) todo.emplace(stacks_[rule], rule);
    while (!todo.empty()) {
      const auto [stacks, rule] = todo.top();
      todo.pop();
      if (stacks != stacks_[rule]) continue;  // raised since
      for (const User& user : users_[rule]) {
        const std::size_t made = stacks * user.times;
        if (made <= stacks_[user.rule]) continue;
        if (made > kStacksMax) return false;
        stacks_[user.rule] = made;
        todo.emplace(made, user.rule);
      }
    }
    return true;
  }

  const GbnfRules* grammar_;
  std::string_view param_;
  const Beginnings* beginnings_;
  std::vector<std::size_t> stacks_;
  std::vector<std::vector<User>> users_;
  std::size_t steps_ = 0;
};

}  // namespace

Result<void> check_gbnf(std::string_view gbnf, std::string_view param, std::size_t* steps) {
  // Grammars that are made of schemas are several times as long as these.
  if (gbnf.size() > 8 * kConstraintBytesMax) {
    return too_much("bytes", 8 * kConstraintBytesMax, param);
  }
  const Result<GbnfRules> grammar = read_gbnf(gbnf, param);
  if (!grammar) return std::unexpected(grammar.error());
  Beginnings beginnings(*grammar, param);
  if (Result<void> fine = beginnings.run(); !fine) return fine;
  StackSearch search(*grammar, beginnings, param);
  if (Result<void> fine = search.run(); !fine) return fine;
  std::size_t all = search.steps();
  Result<void> fine = check_paths(*grammar, param, all);
  if (steps != nullptr) *steps = all;
  return fine;
}

}  // namespace penstock::text
