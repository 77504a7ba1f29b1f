#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kv/local_hash.h"
#include "kv/prefix_index.h"

namespace penstock::bench {

inline std::uint64_t mix(std::uint64_t z) {
  z += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}
inline std::uint64_t h(std::uint64_t tag, std::uint64_t a, std::uint64_t b) {
  return mix(mix(mix(tag) ^ a) ^ b);
}

/// A population of conversations over a fleet, and how they come, go and are asked for. All from
/// formulas, so that programs in other languages make the same events.
struct Cell {
  std::string_view name;
  std::uint64_t workers, conversations, holders_max, groups;
  std::size_t prefix, suffix_min, suffix_mod, decode;
  std::uint64_t check;  // of the first 20,000 queries after the load; 0: not known
};

inline constexpr Cell kCells[] = {
    {"s1", 16, 25'000, 4, 64, 32, 1, 127, 8, 0x3617272bf216373d},
    {"s2", 16, 25'000, 4, 64, 0, 33, 127, 8, 0xb8c6439711607b93},
    {"s3", 256, 25'000, 16, 64, 32, 1, 127, 8, 0xea0c3a58a18709cd},
    // Not from the peers: how lookups do in a fleet beyond what they take.
    {"w7000", 7'000, 25'000, 16, 64, 32, 1, 127, 8, 0},
};

struct Event {
  kv::Slot slot = 0;
  bool stored = false;
  std::optional<std::uint64_t> parent;
  std::vector<kv::StoredBlock> blocks;  // stored
  std::vector<std::uint64_t> aliases;   // removed

  [[nodiscard]] std::size_t ops() const { return stored ? blocks.size() : aliases.size(); }
  void apply(kv::PrefixIndex& index) const {
    if (stored) {
      index.stored(slot, kv::Tier::kDevice, parent, blocks);
    } else {
      index.removed(slot, kv::Tier::kDevice, aliases);
    }
  }
};

class Workload {
 public:
  explicit Workload(const Cell& cell)
      : cell_(cell), has_prefix_(cell.workers * cell.groups, false) {}

  [[nodiscard]] const Cell& cell() const { return cell_; }

  void store(std::uint64_t q, std::vector<Event>& out) {
    const std::vector<kv::StoredBlock> chain = blocks(q);
    const std::size_t decode = std::min(cell_.decode, suffix(q) - 1);
    const std::size_t end = chain.size() - decode;
    for (const std::uint64_t w : holders(q)) {
      const std::size_t key = w * cell_.groups + group(q);
      const std::size_t from = cell_.prefix > 0 && has_prefix_[key] ? cell_.prefix : 0;
      has_prefix_[key] = true;
      add(out, w, chain, from, end);
      for (std::size_t i = end; i < chain.size(); ++i) add(out, w, chain, i, i + 1);
    }
  }

  void remove(std::uint64_t q, std::vector<Event>& out) {
    const std::vector<kv::StoredBlock> chain = blocks(q);
    for (const std::uint64_t w : holders(q)) {
      Event& event = out.emplace_back();
      event.slot = static_cast<kv::Slot>(w);
      for (std::size_t i = chain.size(); i > cell_.prefix; --i) {
        event.aliases.push_back(chain[i - 1].alias);
      }
    }
  }

  /// The conversation that query `k` is about.
  [[nodiscard]] std::uint64_t asked(std::uint64_t k, std::uint64_t base) const {
    return base + h(7, k, 0) % cell_.conversations;
  }
  [[nodiscard]] std::vector<std::uint64_t> query(std::uint64_t k, std::uint64_t base) const {
    std::vector<std::uint64_t> locals = this->locals(asked(k, base));
    if (h(8, k, 0) % 4 == 0) {
      for (std::uint64_t i = 0; i < 32; ++i) locals.push_back(h(9, k, i));
    }
    return locals;
  }

  [[nodiscard]] std::size_t suffix(std::uint64_t q) const {
    return cell_.suffix_min + h(2, q, 0) % cell_.suffix_mod;
  }
  [[nodiscard]] std::uint64_t group(std::uint64_t q) const { return h(1, q, 0) % cell_.groups; }
  [[nodiscard]] std::vector<std::uint64_t> holders(std::uint64_t q) const {
    std::vector<std::uint64_t> all(1 + h(3, q, 0) % cell_.holders_max);
    const std::uint64_t start = h(4, q, 0) % cell_.workers;
    for (std::size_t k = 0; k < all.size(); ++k) all[k] = (start + 7 * k) % cell_.workers;
    return all;
  }
  [[nodiscard]] std::vector<std::uint64_t> locals(std::uint64_t q) const {
    std::vector<std::uint64_t> all(cell_.prefix + suffix(q));
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i] = i < cell_.prefix ? h(5, group(q), i) : h(6, q, i - cell_.prefix);
    }
    return all;
  }

 private:
  [[nodiscard]] std::vector<kv::StoredBlock> blocks(std::uint64_t q) const {
    const std::vector<std::uint64_t> content = locals(q);
    std::vector<std::uint64_t> names;
    kv::sequence_hashes(content, names);
    std::vector<kv::StoredBlock> chain;
    chain.reserve(content.size());
    for (std::size_t i = 0; i < content.size(); ++i) chain.push_back({names[i], content[i]});
    return chain;
  }
  static void add(std::vector<Event>& out, std::uint64_t w,
                  const std::vector<kv::StoredBlock>& chain, std::size_t from, std::size_t to) {
    Event& event = out.emplace_back();
    event.slot = static_cast<kv::Slot>(w);
    event.stored = true;
    if (from > 0) event.parent = chain[from - 1].alias;
    event.blocks.assign(chain.begin() + static_cast<std::ptrdiff_t>(from),
                        chain.begin() + static_cast<std::ptrdiff_t>(to));
  }

  const Cell& cell_;
  std::vector<bool> has_prefix_;  // by worker and group
};

}  // namespace penstock::bench
