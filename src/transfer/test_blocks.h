#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/rng.h"
#include "transfer/peer.h"

namespace penstock::transfer::testing {

inline const SteadyClock kClock;
inline const std::string kSecret = "a secret of thirty-two characters";
/// Until meters know of the transfers that have ended, too.
inline void settle(const Peer& peer) {
  while (peer.busy()) std::this_thread::yield();
}
inline Deadline in(std::chrono::milliseconds time) { return Deadline(kClock.now() + time); }

/// While it exists this process opens no descriptor; those that are open stay so. Do before what is
/// done meanwhile: a sanitizer opens a pipe to look at an object of a class that is new to it.
class NoDescriptors final {
 public:
  NoDescriptors() {
    std::ignore = errno_text(EMFILE);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    const rlimit none{3, before_.rlim_max};  // the standard streams
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

/// Block `i` of a test, told apart from all others by its key and by every word of its bytes.
inline BlockKey key_of(std::uint64_t i) { return {mix64(i + 1), i}; }
inline void write_block(std::byte* to, std::size_t size_bytes, std::uint64_t i,
                        std::uint32_t part) {
  Rng rng(i * 1009 + part);
  for (std::size_t at = 0; at < size_bytes; ++at) to[at] = static_cast<std::byte>(rng.next());
}
inline bool is_block(const std::byte* at, std::size_t size_bytes, std::uint64_t i,
                     std::uint32_t part) {
  std::vector<std::byte> want(size_bytes);
  write_block(want.data(), size_bytes, i, part);
  return std::equal(want.begin(), want.end(), at);
}

inline std::unique_ptr<Arena> make_arena(const Layout& layout,
                                         MemoryKind kind = MemoryKind::kPrivate) {
  auto arena = Arena::create(layout, kind);
  CHECK(arena.has_value());
  return std::move(*arena);
}

/// Writes block `i` into a slot and commits it.
inline void put(Arena& arena, std::uint32_t slot, std::uint64_t i) {
  arena.reserve(slot);
  const Layout& layout = arena.layout();
  for (std::uint32_t part = 0; part < layout.parts; ++part) {
    write_block(arena.part(slot, part), layout.part_bytes, i, part);
  }
  arena.sum_and_commit(slot, key_of(i));
}
inline bool holds(const Arena& arena, std::uint32_t slot, std::uint64_t i) {
  const Layout& layout = arena.layout();
  if (!arena.verify(slot, key_of(i))) return false;
  for (std::uint32_t part = 0; part < layout.parts; ++part) {
    if (!is_block(arena.part(slot, part), layout.part_bytes, i, part)) return false;
  }
  return true;
}

/// A ticket for all slots of an arena, which hold blocks 0, 1, 2 ..., and what a consumer needs to
/// pull them in a shuffled order into shuffled slots.
struct Order {
  explicit Order(std::uint32_t blocks, std::uint64_t seed = 1)
      : take(blocks), to(blocks), keys(blocks), status(blocks) {
    std::iota(take.begin(), take.end(), 0);
    std::iota(to.begin(), to.end(), 0);
    Rng rng(seed);
    for (std::uint32_t i = blocks; i > 1; --i) {
      std::swap(take[i - 1], take[rng.below(i)]);
      std::swap(to[i - 1], to[rng.below(i)]);
    }
    for (std::uint32_t i = 0; i < blocks; ++i) keys[i] = key_of(take[i]);
  }
  [[nodiscard]] Pull pull(GrantId grant) {
    Pull made;
    made.granted = granted;
    made.take = take;
    made.to = to;
    made.keys = keys;
    made.status = status;
    made.grant = grant;
    return made;
  }
  [[nodiscard]] std::size_t count(BlockStatus wanted) const {
    return static_cast<std::size_t>(std::ranges::count(status, wanted));
  }

  std::vector<BlockRef> granted;
  std::vector<std::uint32_t> take;
  std::vector<std::uint32_t> to;
  std::vector<BlockKey> keys;
  std::vector<BlockStatus> status;
};

/// Fills an arena with blocks 0, 1, 2 ... and names them.
inline std::vector<BlockRef> fill_all(Arena& arena) {
  std::vector<BlockRef> refs;
  for (std::uint32_t slot = 0; slot < arena.layout().slots; ++slot) {
    put(arena, slot, slot);
    refs.push_back(*arena.ref(slot));
  }
  return refs;
}

/// What tests that run over each path are called after.
inline std::string path_name(const ::testing::TestParamInfo<PathKind>& path) {
  return std::string(to_string(path.param));
}

}  // namespace penstock::transfer::testing
