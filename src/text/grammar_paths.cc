#include "text/grammar_paths.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "text/constraint_error.h"
#include "text/constraint_limits.h"

namespace penstock::text {
namespace {

using Element = GbnfRules::Element;
using Kind = Element::Kind;

class PathSearch {
 public:
  PathSearch(const GbnfRules& grammar, std::string_view param)
      : grammar_(&grammar), param_(param), nodes_(1), opened_(1) {}

  Result<void> run() {
    find_letters();
    find_recursive_rules();
    for (std::uint32_t rule = 0; rule < grammar_->rules.size(); ++rule) {
      for (const std::uint32_t start : grammar_->rules[rule]) {
        for (std::uint32_t p = start; at(p).kind != Kind::kEnd; ++p) {
          if (at(p).kind != Kind::kRule) continue;
          if (is_new(p)) read_from(push(p, kBottom));
          read_from(out_of_recursion(rule, p));
          if (paths_max_ > static_cast<double>(kTokenPathsMax)) {
            return too_much(
                "ways to read one token (repetitions that begin alike within each other)",
                kTokenPathsMax, param_);
          }
          if (steps_ > kStackSearchMax) {
            return too_much("steps needed to see how many ways one token can be read",
                            kStackSearchMax, param_);
          }
        }
      }
    }
    return {};
  }

  [[nodiscard]] std::size_t steps() const noexcept { return steps_; }

 private:
  /// A stack of places; equal stacks are one node.
  using Stack = std::uint32_t;
  struct Node {
    std::uint32_t place = 0;  // on top
    Stack below = 0;
  };
  static constexpr Stack kBottom = 0;
  static constexpr std::size_t kLevels = 24;  // of a recursion

  [[nodiscard]] const Element& at(std::uint32_t place) const { return grammar_->elements[place]; }

  /// As in llama.cpp nothing is left on a stack where a sequence ends.
  Stack push(std::uint32_t place, Stack below) {
    if (at(place).kind == Kind::kEnd) return below;
    const auto [entry, is_new] =
        known_.try_emplace(std::uint64_t{place} << 32 | below, static_cast<Stack>(nodes_.size()));
    if (is_new) {
      nodes_.push_back({.place = place, .below = below});
      opened_.emplace_back();
    }
    return entry->second;
  }

  /// What `stack` becomes before a character is read: stacks with a set on top, each once.
  const std::vector<Stack>& opened(Stack stack) {
    if (stack == kBottom || !opened_[stack].empty()) return opened_[stack];
    std::vector<Stack> made;
    std::vector<Stack> todo{stack};
    ++round_;
    while (!todo.empty()) {
      const Stack one = todo.back();
      todo.pop_back();
      ++steps_;
      seen_.resize(nodes_.size());
      if (one == kBottom || std::exchange(seen_[one], round_) == round_) continue;
      const auto [place, below] = nodes_[one];
      if (at(place).kind == Kind::kSet) {
        made.push_back(one);
        continue;
      }
      const Stack rest = push(place + 1, below);
      for (const std::uint32_t start : grammar_->rules[at(place).value]) {
        todo.push_back(push(start, rest));
      }
    }
    return opened_[stack] = std::move(made);
  }

  const std::vector<Stack>& after(Stack stack) {
    const auto [place, below] = nodes_[stack];
    return opened(push(place + 1, below));
  }

  /// Whether what stands from `place` on in its sequence was not read anywhere before.
  bool is_new(std::uint32_t place) {
    std::uint64_t name = 0;
    for (std::uint32_t p = place; at(p).kind != Kind::kEnd; ++p) {
      name = mix64(name + (std::uint64_t{at(p).value} << 2 | static_cast<unsigned>(at(p).kind)));
    }
    return sequences_.insert(name).second;
  }

  using Ways = std::vector<std::pair<Stack, double>>;  // to each of these stacks

  /// What vocabularies hold in long tokens: one character over and over, and words.
  void read_from(Stack from) {
    if (from == kBottom) return;
    Ways begin;
    for (const Stack one : std::vector(opened(from))) begin.emplace_back(one, 1);
    follow(begin, {});
    for (const std::size_t letter : letters_) {
      const auto reads_letter = [&](const auto& one) { return reads(one.first, letter); };
      if (std::ranges::any_of(begin, reads_letter)) follow(begin, letter);
    }
  }

  /// Reads on, each time `letter`, or the one that leads to the most ways.
  void follow(const Ways& begin, std::optional<std::size_t> letter) {
    Ways alive = begin;
    std::unordered_map<Stack, std::size_t> next_place;
    const std::size_t length = letter ? kRunCharactersMax : kWordCharactersMax;
    for (std::size_t i = 0; i < length && !alive.empty(); ++i) {
      const std::size_t read = letter ? *letter : best_letter(alive);
      Ways next;
      next_place.clear();
      double paths = 0;
      for (const auto& [stack, ways] : alive) {
        if (!reads(stack, read)) continue;
        for (const Stack one : after(stack)) {
          const auto [entry, is_new] = next_place.try_emplace(one, next.size());
          if (is_new) next.emplace_back(one, 0);
          next[entry->second].second += ways;
          paths += ways;
          ++steps_;
        }
      }
      paths_max_ = std::max(paths_max_, paths);
      if (paths_max_ > static_cast<double>(kTokenPathsMax) || steps_ > kStackSearchMax) return;
      alive = std::move(next);
    }
  }

  [[nodiscard]] bool reads(Stack stack, std::size_t letter) const {
    return grammar_->sets[at(nodes_[stack].place).value][letter];
  }

  std::size_t best_letter(const Ways& alive) {
    std::vector<std::pair<std::uint32_t, double>> ways_by_set;  // few differ
    for (const auto& [stack, ways] : alive) {
      const std::uint32_t set = at(nodes_[stack].place).value;
      const double more = ways * static_cast<double>(after(stack).size());
      const auto known =
          std::ranges::find(ways_by_set, set, [](const auto& one) { return one.first; });
      if (known == ways_by_set.end()) {
        ways_by_set.emplace_back(set, more);
      } else {
        known->second += more;
      }
    }
    std::size_t best = 0;
    double most = -1;
    for (const std::size_t letter : letters_) {
      double ways = 0;
      for (const auto& [set, more] : ways_by_set) {
        if (grammar_->sets[set][letter]) ways += more;
      }
      if (ways > most) best = letter;
      most = std::max(most, ways);
    }
    return best;
  }

  /// One of all letters that stand in the same sets.
  void find_letters() {
    std::vector<std::uint64_t> sets_of(kSetBits);
    for (std::size_t i = 0; i < grammar_->sets.size(); ++i) {
      const GbnfRules::Set& set = grammar_->sets[i];
      const std::uint64_t name = mix64(i + 1);
      for (std::size_t bit = set._Find_first(); bit < kSetBits; bit = set._Find_next(bit)) {
        sets_of[bit] += name;
      }
    }
    std::unordered_map<std::uint64_t, std::size_t> first;
    for (std::size_t bit = 0; bit < kSetBits; ++bit) {
      if (first.try_emplace(sets_of[bit], bit).second) letters_.push_back(bit);
    }
  }

  /// Leaves out what leads to no recursion, over and over.
  void find_recursive_rules() {
    const std::size_t count = grammar_->rules.size();
    std::vector<std::size_t> named(count);
    std::vector<std::vector<std::uint32_t>> users(count);
    for (std::uint32_t rule = 0; rule < count; ++rule) {
      for_each_reference(rule, [&](std::uint32_t place) {
        ++named[rule];
        users[at(place).value].push_back(rule);
      });
    }
    recursive_.assign(count, true);
    std::vector<std::uint32_t> todo;
    for (std::uint32_t rule = 0; rule < count; ++rule) {
      if (named[rule] == 0) todo.push_back(rule);
    }
    while (!todo.empty()) {
      const std::uint32_t rule = todo.back();
      todo.pop_back();
      recursive_[rule] = false;
      for (const std::uint32_t user : users[rule]) {
        if (--named[user] == 0) todo.push_back(user);
      }
    }
  }

  template <class Visit>
  void for_each_reference(std::uint32_t rule, const Visit& visit) const {
    for (const std::uint32_t start : grammar_->rules[rule]) {
      for (std::uint32_t p = start; at(p).kind != Kind::kEnd; ++p) {
        if (at(p).kind == Kind::kRule) visit(p);
      }
    }
  }

  /// What is left to read after the rule named at `place` in `rule` has ended many levels deep
  /// inside of itself; kBottom if it does not come back to `rule`.
  Stack out_of_recursion(std::uint32_t rule, std::uint32_t place) {
    const std::uint32_t named = at(place).value;
    if (!recursive_[rule] || !recursive_[named]) return kBottom;
    std::vector<std::uint32_t> places{place};
    if (named != rule && !find_way(named, rule, places)) return kBottom;
    Stack stack = kBottom;
    for (std::size_t level = 0; level < kLevels; ++level) {
      for (const std::uint32_t p : places) stack = push(p + 1, stack);
    }
    return stack;
  }

  /// Appends the places by which `from` leads to `to`, on a shortest way.
  bool find_way(std::uint32_t from, std::uint32_t to, std::vector<std::uint32_t>& places) {
    struct Step {
      std::uint32_t rule;
      std::uint32_t place;
    };
    std::unordered_map<std::uint32_t, Step> came_from{{from, {}}};
    std::vector<std::uint32_t> todo{from};
    for (std::size_t i = 0; i < todo.size() && !came_from.contains(to); ++i) {
      for_each_reference(todo[i], [&](std::uint32_t place) {
        ++steps_;
        const std::uint32_t next = at(place).value;
        if (!recursive_[next]) return;
        if (came_from.try_emplace(next, Step{todo[i], place}).second) todo.push_back(next);
      });
    }
    if (!came_from.contains(to)) return false;
    std::vector<std::uint32_t> way;
    for (std::uint32_t rule = to; rule != from; rule = came_from[rule].rule) {
      way.push_back(came_from[rule].place);
    }
    places.insert(places.end(), way.rbegin(), way.rend());
    return true;
  }

  static constexpr std::size_t kSetBits = GbnfRules::Set().size();

  const GbnfRules* grammar_;
  std::string_view param_;
  std::vector<std::size_t> letters_;
  std::unordered_set<std::uint64_t> sequences_;
  std::vector<bool> recursive_;  // whether the rule leads to a recursion
  std::vector<Node> nodes_;      // by stack
  std::vector<std::vector<Stack>> opened_;
  std::unordered_map<std::uint64_t, Stack> known_;  // (place, below)
  std::vector<std::uint32_t> seen_;                 // the round in which each stack was last
  std::uint32_t round_ = 0;
  std::size_t steps_ = 0;
  double paths_max_ = 0;
};

}  // namespace

Result<void> check_paths(const GbnfRules& grammar, std::string_view param, std::size_t& steps) {
  PathSearch search(grammar, param);
  Result<void> fine = search.run();
  steps += search.steps();
  return fine;
}

}  // namespace penstock::text
