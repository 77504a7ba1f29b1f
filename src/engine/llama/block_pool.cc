#include "engine/llama/block_pool.h"

#include <algorithm>
#include <ranges>

#include "base/check.h"
#include "base/log.h"

namespace penstock::engine::llama {

struct BlockPool::Block {
  kv::BlockHash hash;
  kv::BlockHash root;
  Block* parent = nullptr;
  std::vector<Token> tokens;
  tiers::Key key;
  std::uint32_t slot = 0;
  std::vector<Block*> children;
  std::uint32_t pins = 0;
  std::uint64_t last_use = 0;
};

BlockPool::Pin::Pin(BlockPool* pool, Block* block) : pool_(pool), block_(block) {
  if (block_->pins++ > 0) return;
  ++pool_->pinned_;
  pool_->no_longer_evictable(*block_);
}

BlockPool::Pin& BlockPool::Pin::operator=(Pin&& other) noexcept {
  if (this != &other) {
    release();
    pool_ = other.pool_;
    block_ = other.block_;
    other.block_ = nullptr;
  }
  return *this;
}

void BlockPool::Pin::release() noexcept {
  if (block_ == nullptr) return;
  if (--block_->pins == 0) {
    --pool_->pinned_;
    pool_->became_evictable(*block_);
  }
  block_ = nullptr;
}

BlockPool::BlockPool(const Options& options, KvEventLog& events)
    : options_(options), events_(events) {
  CHECK(options.block_bytes > 0);
  slots_ = std::min<std::uint64_t>(options.budget_bytes / options.block_bytes, UINT32_MAX);
  if (slots_ > 0) take_memory();
  free_.resize(slots_);
  for (std::uint32_t i = 0; i < slots_; ++i) free_[i] = static_cast<std::uint32_t>(slots_) - 1 - i;
}

BlockPool::~BlockPool() = default;

/// Pages count only once a block was written to them.
void BlockPool::take_memory() {
  const auto layout = transfer::Layout::by_block(static_cast<std::uint32_t>(slots_), 1,
                                                 static_cast<std::uint32_t>(options_.block_bytes));
  if (options_.readable_by_others && options_.mappable) {
    auto arena =
        transfer::Arena::create(layout, transfer::MemoryKind::kShared, transfer::Touch::kLater);
    if (arena) {
      arena_ = std::move(*arena);
      memory_ = arena_->memory().data();
      return;
    }
    log::warn("workers of other processes cannot map this one's KV: {}", arena.error().message);
  }
  auto memory = transfer::Memory::create(transfer::MemoryKind::kPrivate,
                                         slots_ * options_.block_bytes, transfer::Touch::kLater);
  if (!memory) {
    slots_ = 0;
    return;
  }
  own_ = std::move(*memory);
  memory_ = own_.data();
  if (!options_.readable_by_others) return;
  auto arena = transfer::Arena::adopt(layout, {memory_, slots_ * options_.block_bytes});
  if (arena) {
    arena_ = std::move(*arena);
  } else {
    log::warn("no other worker can fetch KV from this one: {}", arena.error().message);
  }
}

void BlockPool::became_evictable(Block& block) {
  if (block.pins == 0 && block.children.empty()) evictable_.emplace(block.last_use, &block);
}

void BlockPool::no_longer_evictable(Block& block) { evictable_.erase({block.last_use, &block}); }

void BlockPool::touch(Block& block) {
  const bool listed = block.pins == 0 && block.children.empty();
  if (listed) no_longer_evictable(block);
  block.last_use = ++clock_;
  if (listed) became_evictable(block);
}

/// Whether that is the block `tokens` after `parent`, and not one whose hash is the same.
bool BlockPool::is_it(const Block& block, const kv::BlockHash& root, const Block* parent,
                      std::span<const Token> tokens) {
  return block.parent == parent && block.root == root && std::ranges::equal(block.tokens, tokens);
}

BlockPool::Block* BlockPool::find(const kv::BlockHash& hash) {
  const auto found = blocks_.find(hash);
  return found == blocks_.end() ? nullptr : found->second.get();
}

std::vector<BlockPool::Pin> BlockPool::match(const kv::BlockHash& root,
                                             std::span<const Token> tokens) {
  std::vector<Pin> chain;
  kv::BlockHash hash = root;
  for (std::size_t at = 0; at + options_.block_tokens <= tokens.size();
       at += options_.block_tokens) {
    const std::span<const Token> part = tokens.subspan(at, options_.block_tokens);
    hash = kv::chain_next(hash, part);
    Block* block = find(hash);
    const Block* parent = chain.empty() ? nullptr : chain.back().block_;
    if (block == nullptr || !is_it(*block, root, parent, part)) break;
    touch(*block);
    chain.push_back(Pin(this, block));
  }
  return chain;
}

BlockPool::Part BlockPool::match_part(const kv::BlockHash& root, const Pin& last,
                                      std::span<const Token> rest) {
  const std::vector<Block*>* candidates = nullptr;
  if (last) {
    candidates = &last.block_->children;
  } else if (const auto found = first_.find(root); found != first_.end()) {
    candidates = &found->second;
  }
  if (candidates == nullptr) return {};
  Block* best = nullptr;
  std::uint32_t most = 0;
  std::size_t seen = 0;
  for (Block* block : std::views::reverse(*candidates)) {
    if (++seen > kChildrenSeenMax) break;
    const auto common = std::ranges::mismatch(block->tokens, rest).in1 - block->tokens.begin();
    if (static_cast<std::uint32_t>(common) <= most) continue;
    most = static_cast<std::uint32_t>(common);
    best = block;
  }
  if (best == nullptr) return {};
  touch(*best);
  return {Pin(this, best), most};
}

/// The list that names this block.
std::vector<BlockPool::Block*>& BlockPool::siblings(const Block& block) {
  return block.parent != nullptr ? block.parent->children : first_[block.root];
}

std::span<const std::byte> BlockPool::bytes(const Pin& pin) const noexcept {
  return bytes_of(*pin.block_);
}

std::span<std::byte> BlockPool::bytes_of(const Block& block) const noexcept {
  return {memory_ + block.slot * options_.block_bytes, options_.block_bytes};
}

/// True: a block of that name is held. Then `pin` is on it, or on none if it is another block's.
bool BlockPool::find_held(const kv::BlockHash& root, const Pin& parent, const kv::BlockHash& hash,
                          std::span<const Token> tokens, Pin& pin) {
  Block* held = find(hash);
  if (held == nullptr) return false;
  if (!is_it(*held, root, parent.block_, tokens)) return true;  // a collision: the first one stays
  touch(*held);
  pin = Pin(this, held);
  return true;
}

std::optional<std::uint32_t> BlockPool::take_slot() {
  if (free_.empty()) {
    if (evictable_.empty()) return std::nullopt;
    ++evictions_;
    Block& victim = *evictable_.begin()->second;
    if (options_.evicted) options_.evicted(victim.key, bytes_of(victim));
    drop(victim);
  }
  const std::uint32_t slot = free_.back();
  free_.pop_back();
  if (arena_ != nullptr) arena_->reserve(slot);
  ++taken_;
  return slot;
}

BlockPool::Place BlockPool::insert(const kv::BlockHash& root, const Pin& parent,
                                   std::span<const Token> tokens, std::uint64_t local,
                                   const tiers::Key& key) {
  const kv::BlockHash hash = kv::chain_next(parent ? parent.block_->hash : root, tokens);
  Place place;
  if (find_held(root, parent, hash, tokens, place.pin)) return place;
  const std::optional<std::uint32_t> slot = take_slot();
  if (!slot) return place;
  place.pin = add(root, parent, hash, tokens, local, key, *slot);
  place.bytes = bytes_of(*place.pin.block_);
  return place;
}

BlockPool::Pin BlockPool::adopt(const kv::BlockHash& root, const Pin& parent,
                                std::span<const Token> tokens, std::uint64_t local,
                                const tiers::Key& key, std::uint32_t slot) {
  const kv::BlockHash hash = kv::chain_next(parent ? parent.block_->hash : root, tokens);
  Pin pin;
  if (find_held(root, parent, hash, tokens, pin)) {
    give_back(slot);
    return pin;
  }
  return add(root, parent, hash, tokens, local, key, slot);
}

BlockPool::Pin BlockPool::add(const kv::BlockHash& root, const Pin& parent,
                              const kv::BlockHash& hash, std::span<const Token> tokens,
                              std::uint64_t local, const tiers::Key& key, std::uint32_t slot) {
  CHECK_EQ(tokens.size(), options_.block_tokens);
  auto made = std::make_unique<Block>();
  made->hash = hash;
  made->root = root;
  made->parent = parent.block_;
  made->key = key;
  made->tokens.assign(tokens.begin(), tokens.end());
  made->slot = slot;
  --taken_;
  made->last_use = ++clock_;
  Block& block = *made;
  siblings(block).push_back(&block);  // a parent is pinned, so it is on no list of leaves
  blocks_.emplace(hash, std::move(made));
  events_.stored({.hash = hash,
                  .parent = parent ? parent.block_->hash : root,
                  .begins_chain = !parent,
                  .local = local,
                  .tokens = block.tokens});
  return Pin(this, &block);
}

transfer::BlockRef BlockPool::ref(const Pin& pin) {
  const Block& block = *pin.block_;
  const transfer::BlockKey key = transfer_key(block.hash);
  const transfer::BlockHead head = arena_->table().block(block.slot);
  if (!head.readable() || head.key != key) arena_->sum_and_commit(block.slot, key);
  return *arena_->ref(block.slot);
}

void BlockPool::drop(Block& block) {
  CHECK_EQ(block.pins, 0U);
  CHECK(block.children.empty());
  no_longer_evictable(block);
  events_.removed(block.hash);
  free_.push_back(block.slot);
  std::erase(siblings(block), &block);
  if (block.parent == nullptr) {
    if (first_[block.root].empty()) first_.erase(block.root);
  } else if (block.parent->children.empty()) {
    became_evictable(*block.parent);
  }
  blocks_.erase(block.hash);
}

void BlockPool::clear() {
  if (blocks_.empty()) return;
  if (pinned_ > 0) {
    while (!evictable_.empty()) drop(*evictable_.begin()->second);
    return;
  }
  for (const auto& [hash, block] : blocks_) free_.push_back(block->slot);
  evictable_.clear();
  first_.clear();
  blocks_.clear();
  events_.cleared();
}

}  // namespace penstock::engine::llama
