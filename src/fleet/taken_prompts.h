#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/prefix_types.h"

namespace penstock::fleet {

/// Prompts that workers have taken and not computed yet. One that begins alike and comes to the
/// same worker finds their blocks there, though no event has told of them. Bounded by the requests
/// without a first token; holds no blocks itself. Not thread safe.
class TakenPrompts final {
 public:
  using Entry = std::uint32_t;  // names what add() put in, until remove() or clear()
  static constexpr Entry kNone = 0xFFFFFFFF;

  TakenPrompts() {
    prompts_.reserve(kExpected);
    places_.reserve(kExpected);
  }

  /// `locals` are the prompt's full blocks and stay where they are until it is taken out; the first
  /// `held` were at the worker already. kNone: so were all. Cost: O(prompts).
  Entry add(kv::Slot slot, std::span<const std::uint64_t> locals, std::uint32_t held);
  void remove(Entry entry) noexcept;
  /// Takes out all of a worker's. O(prompts).
  void clear(kv::Slot slot) noexcept;

  /// Raises depths[slot] (one for each slot) to how many leading blocks of the prompt are in one
  /// that the slot has taken, and were new there. Cost: O(prompts), and comparing those that share
  /// such a block.
  void raise(std::span<const std::uint64_t> locals, std::span<std::uint32_t> depths) const noexcept;

  /// How many of the first `depth` blocks, which raise() has found at the slot, are there whatever
  /// becomes of the prompts that it has taken, at least. Cost: O(prompts).
  [[nodiscard]] std::uint32_t told(kv::Slot slot, std::span<const std::uint64_t> locals,
                                   std::uint32_t depth) const noexcept;

  [[nodiscard]] std::size_t size() const noexcept { return prompts_.size(); }

 private:
  struct Prompt {
    const std::uint64_t* locals = nullptr;
    std::uint32_t size = 0;
    std::uint32_t first_new = 0;  // block; < size
    std::uint64_t local = 0;      // of that one: a prompt without it has nothing to gain here
    kv::Slot slot = 0;
    Entry entry = kNone;

    [[nodiscard]] bool shares_new(std::span<const std::uint64_t> with) const noexcept {
      return first_new < with.size() && with[first_new] == local;
    }
  };

  static constexpr std::size_t kExpected = 1024;  // up to so many nothing is allocated; 36 kB

  std::vector<Prompt> prompts_;        // without gaps: each choice looks at all
  std::vector<std::uint32_t> places_;  // in that, by entry; of unused ones the next unused
  Entry unused_ = kNone;
};

}  // namespace penstock::fleet
