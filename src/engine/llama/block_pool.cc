#include "engine/llama/block_pool.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/check.h"

namespace penstock::engine::llama {

struct BlockPool::Block {
  kv::BlockHash hash;
  Block* parent = nullptr;
  std::vector<Token> tokens;
  std::uint32_t slot = 0;
  std::uint32_t children = 0;
  std::uint32_t pins = 0;
  std::uint64_t last_use = 0;
};

BlockPool::Pin::Pin(BlockPool* pool, Block* block) : pool_(pool), block_(block) {
  if (block_->pins++ == 0) pool_->no_longer_evictable(*block_);
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
  if (--block_->pins == 0) pool_->became_evictable(*block_);
  block_ = nullptr;
}

BlockPool::BlockPool(const Options& options, KvEventLog& events)
    : options_(options), events_(events) {
  CHECK(options.block_bytes > 0);
  slots_ = std::min<std::uint64_t>(options.budget_bytes / options.block_bytes, UINT32_MAX);
  if (slots_ == 0) return;
  // Reserved, not committed: pages count only once a block was written to them.
  void* mapped = mmap(nullptr, slots_ * options.block_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    slots_ = 0;
    return;
  }
  memory_ = static_cast<std::byte*>(mapped);
  free_.resize(slots_);
  for (std::uint32_t i = 0; i < slots_; ++i) free_[i] = static_cast<std::uint32_t>(slots_) - 1 - i;
}

BlockPool::~BlockPool() {
  if (memory_ != nullptr) munmap(memory_, slots_ * options_.block_bytes);
}

void BlockPool::became_evictable(Block& block) {
  if (block.pins == 0 && block.children == 0) evictable_.emplace(block.last_use, &block);
}

void BlockPool::no_longer_evictable(Block& block) { evictable_.erase({block.last_use, &block}); }

void BlockPool::touch(Block& block) {
  const bool listed = block.pins == 0 && block.children == 0;
  if (listed) no_longer_evictable(block);
  block.last_use = ++clock_;
  if (listed) became_evictable(block);
}

BlockPool::Block* BlockPool::find(const kv::BlockHash& hash, std::span<const Token> tokens) {
  const auto found = blocks_.find(hash);
  if (found == blocks_.end()) return nullptr;
  return std::ranges::equal(found->second->tokens, tokens) ? found->second.get() : nullptr;
}

std::vector<BlockPool::Pin> BlockPool::match(const kv::BlockHash& root,
                                             std::span<const Token> tokens) {
  std::vector<Pin> chain;
  kv::BlockHash hash = root;
  for (std::size_t at = 0; at + options_.block_tokens <= tokens.size();
       at += options_.block_tokens) {
    const std::span<const Token> part = tokens.subspan(at, options_.block_tokens);
    hash = kv::chain_next(hash, part);
    Block* block = find(hash, part);
    if (block == nullptr) break;
    touch(*block);
    chain.push_back(Pin(this, block));
  }
  return chain;
}

std::span<const std::byte> BlockPool::bytes(const Pin& pin) const noexcept {
  return {memory_ + pin.block_->slot * options_.block_bytes, options_.block_bytes};
}

BlockPool::Place BlockPool::insert(const kv::BlockHash& root, const Pin& parent,
                                   std::span<const Token> tokens) {
  CHECK_EQ(tokens.size(), options_.block_tokens);
  const kv::BlockHash parent_hash = parent ? parent.block_->hash : root;
  const kv::BlockHash hash = kv::chain_next(parent_hash, tokens);
  if (const auto found = blocks_.find(hash); found != blocks_.end()) {
    Block& held = *found->second;
    if (!std::ranges::equal(held.tokens, tokens)) return {};  // a collision: the first one stays
    touch(held);
    return {Pin(this, &held), {}};
  }
  if (free_.empty()) {
    if (evictable_.empty()) return {};
    ++evictions_;
    drop(*evictable_.begin()->second);
  }
  auto made = std::make_unique<Block>();
  made->hash = hash;
  made->parent = parent.block_;
  made->tokens.assign(tokens.begin(), tokens.end());
  made->slot = free_.back();
  made->last_use = ++clock_;
  free_.pop_back();
  if (parent) ++parent.block_->children;  // the parent is pinned, so it is on no list
  Block& block = *made;
  blocks_.emplace(hash, std::move(made));
  events_.stored(hash, parent_hash, tokens);
  return {Pin(this, &block), {memory_ + block.slot * options_.block_bytes, options_.block_bytes}};
}

void BlockPool::drop(Block& block) {
  CHECK_EQ(block.pins, 0U);
  CHECK_EQ(block.children, 0U);
  no_longer_evictable(block);
  events_.removed(block.hash);
  free_.push_back(block.slot);
  if (block.parent != nullptr && --block.parent->children == 0) became_evictable(*block.parent);
  blocks_.erase(block.hash);
}

void BlockPool::clear() {
  while (!evictable_.empty()) drop(*evictable_.begin()->second);
}

}  // namespace penstock::engine::llama
