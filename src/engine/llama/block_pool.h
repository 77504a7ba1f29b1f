#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/kv_event_log.h"
#include "kv/block.h"
#include "tiers/key.h"
#include "transfer/arena.h"
#include "transfer/memory.h"

namespace penstock::engine::llama {

/// KV blocks in host memory under their content identity: a tree of blocks, each the child of the
/// block before it, so that any two prompts share what they begin with. The bytes live in one
/// mapping of fixed size, cut into slots of one block each: the budget cannot be exceeded.
/// Eviction takes the least recently used block that has no children and no pin (leaf first, so a
/// chain never loses its middle). Every change is told to the event log.
/// One thread: the worker's. Invariant: a held block's parent is held.
class BlockPool final {
 public:
  struct Options {
    std::uint32_t block_tokens = 64;
    std::size_t block_bytes = 0;      // KV of one block
    std::uint64_t budget_bytes = 0;   // rounded down to whole blocks
    bool readable_by_others = false;  // arena() and ref()
    bool mappable = false;            // of those also workers of other processes
    /// Hears of a block that has to go for another, while its bytes are still there. May be empty.
    std::function<void(const tiers::Key& key, std::span<const std::byte> bytes)> evicted;
  };

  BlockPool(const Options& options, KvEventLog& events);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  struct Block;

  /// Keeps a block from being evicted while it lives. Movable.
  class Pin final {
   public:
    Pin() = default;
    Pin(Pin&& other) noexcept : pool_(other.pool_), block_(other.block_) { other.block_ = nullptr; }
    Pin& operator=(Pin&& other) noexcept;
    ~Pin() { release(); }
    [[nodiscard]] explicit operator bool() const noexcept { return block_ != nullptr; }

   private:
    friend class BlockPool;
    Pin(BlockPool* pool, Block* block);
    void release() noexcept;
    BlockPool* pool_ = nullptr;
    Block* block_ = nullptr;
  };

  /// The longest run of held blocks that `tokens` begins with, first block first. Not only hashes
  /// are compared: token ids, and which block a block comes after.
  [[nodiscard]] std::vector<Pin> match(const kv::BlockHash& root, std::span<const Token> tokens);

  /// The held block after `last` (an empty pin: the first of a chain under `root`) that has the
  /// most in common with `rest`, and how many tokens that is: KV of a block's first tokens does not
  /// depend on those after them. Looks at the kChildrenSeenMax newest.
  struct Part {
    Pin pin;
    std::uint32_t tokens = 0;
  };
  [[nodiscard]] Part match_part(const kv::BlockHash& root, const Pin& last,
                                std::span<const Token> rest);

  [[nodiscard]] std::span<const std::byte> bytes(const Pin& pin) const noexcept;

  /// Makes room for the block `tokens` after `parent` (an empty pin: the first of a chain under
  /// `root`); `local` is what events call it, `key` what `evicted` does. On success the block is
  /// held and `bytes` (block_bytes) is to be filled before the next call; if it was held already,
  /// `bytes` is empty. An empty pin: no room, every slot is pinned.
  struct Place {
    Pin pin;
    std::span<std::byte> bytes;
  };
  [[nodiscard]] Place insert(const kv::BlockHash& root, const Pin& parent,
                             std::span<const Token> tokens, std::uint64_t local,
                             const tiers::Key& key = {});

  /// The memory as others read and write it; null unless readable_by_others.
  [[nodiscard]] transfer::Arena* arena() const noexcept { return arena_.get(); }
  /// How a ticket names a block. Its checksum is taken with the first call.
  [[nodiscard]] transfer::BlockRef ref(const Pin& pin);

  /// For a block that others write: takes a slot out of use, evicting what has to go. Absent: every
  /// slot is pinned or taken. It comes back by adopt() or give_back().
  [[nodiscard]] std::optional<std::uint32_t> take_slot();
  void give_back(std::uint32_t slot) {
    free_.push_back(slot);
    --taken_;
  }
  /// As insert(), of a block whose bytes are in `slot`, which is the pool's again in any case: a
  /// block that was held before stays.
  [[nodiscard]] Pin adopt(const kv::BlockHash& root, const Pin& parent,
                          std::span<const Token> tokens, std::uint64_t local, const tiers::Key& key,
                          std::uint32_t slot);

  /// How a block is called in transfers.
  [[nodiscard]] static transfer::BlockKey transfer_key(const kv::BlockHash& hash) noexcept {
    return {hash.high, hash.low};
  }

  /// Drops every block that is not pinned and that no pinned one comes after. One `cleared` event
  /// if none is left.
  void clear();

  [[nodiscard]] std::size_t block_bytes() const noexcept { return options_.block_bytes; }
  [[nodiscard]] std::uint64_t blocks_held() const noexcept { return blocks_.size(); }
  [[nodiscard]] std::uint64_t blocks_max() const noexcept { return slots_; }
  /// Blocks that would be let in now: slots that no pin and no take_slot() holds.
  [[nodiscard]] std::uint64_t room() const noexcept { return slots_ - pinned_ - taken_; }
  [[nodiscard]] std::uint64_t evictions() const noexcept { return evictions_; }

 private:
  void take_memory();

  static constexpr std::size_t kChildrenSeenMax = 1024;
  using LeafKey = std::pair<std::uint64_t, Block*>;  // last use, block

  [[nodiscard]] std::span<std::byte> bytes_of(const Block& block) const noexcept;
  [[nodiscard]] static bool is_it(const Block& block, const kv::BlockHash& root,
                                  const Block* parent, std::span<const Token> tokens);
  Block* find(const kv::BlockHash& hash);
  bool find_held(const kv::BlockHash& root, const Pin& parent, const kv::BlockHash& hash,
                 std::span<const Token> tokens, Pin& pin);
  Pin add(const kv::BlockHash& root, const Pin& parent, const kv::BlockHash& hash,
          std::span<const Token> tokens, std::uint64_t local, const tiers::Key& key,
          std::uint32_t slot);
  void touch(Block& block);
  void became_evictable(Block& block);
  void no_longer_evictable(Block& block);
  void drop(Block& block);
  std::vector<Block*>& siblings(const Block& block);

  Options options_;
  KvEventLog& events_;
  std::uint64_t slots_ = 0;
  transfer::Memory own_;  // unless it is the arena's
  std::byte* memory_ = nullptr;
  std::unique_ptr<transfer::Arena> arena_;
  std::vector<std::uint32_t> free_;
  std::unordered_map<kv::BlockHash, std::unique_ptr<Block>> blocks_;
  std::unordered_map<kv::BlockHash, std::vector<Block*>> first_;  // of chains, by root
  std::set<LeafKey> evictable_;
  std::uint64_t pinned_ = 0;  // blocks
  std::uint64_t taken_ = 0;   // slots that are out of use
  std::uint64_t clock_ = 0;
  std::uint64_t evictions_ = 0;
};

/// What a chain's first block comes behind.
inline const BlockPool::Pin kNoBlock;

}  // namespace penstock::engine::llama
