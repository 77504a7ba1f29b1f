#include "engine/llama/prefix_cache.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>

#include "base/log.h"
#include "engine/llama/batch_shape.h"

namespace penstock::engine::llama {
namespace {

std::string digest_of(std::string_view key) {
  const tiers::Key digest = tiers::root_key(key, "");
  return fmt::format("{:016x}{:016x}", digest.high, digest.low);
}

}  // namespace

std::string PrefixCache::store_key(const Context& context, const LlamaOptions& options) {
  // Kernels differ by CPU, and with them the last bits.
  return fmt::format("{}/{}/{} tokens{}", context.compatibility_key(), llama_print_system_info(),
                     options.block_tokens, options.exact ? "/exact" : "");
}

PrefixCache::PrefixCache(Context& context, const LlamaOptions& options, KvEventLog& events,
                         tiers::Store* store, KvExchange* exchange, const Clock& clock)
    : context_(context),
      block_tokens_(options.block_tokens),
      pool_bytes_(options.reuse_bytes),
      exact_(options.exact),
      recompute_weight_(options.recompute_weight),
      store_(store),
      store_key_(store_key(context, options)),
      compatibility_(digest_of(store_key_)),
      clock_(clock),
      exchange_(exchange),
      pool_(pool_options(), events),
      leases_(pool_, clock),
      token_cost_(context.row_cost()) {
  if (store_ != nullptr) arrived_.resize(store_->block_bytes());
  if (shares()) offered_ = exchange_->offer(*pool_.arena(), compatibility_);
}

PrefixCache::~PrefixCache() {
  leases_.end_all();  // readers stop at the next block
  if (shares()) exchange_->withdraw(offered_.source);
}

BlockPool::Options PrefixCache::pool_options() {
  const StateCodec* codec = context_.codec();
  BlockPool::Options options{.block_tokens = block_tokens_};
  options.block_bytes = codec != nullptr ? codec->bytes_per_token() * block_tokens_ : 1;
  options.budget_bytes = codec != nullptr ? pool_bytes_ : 0;
  options.readable_by_others = exchange_ != nullptr;
  options.mappable = exchange_ != nullptr && exchange_->shares_memory();
  if (store_ != nullptr) {
    options.evicted = [this](const tiers::Key& key, std::span<const std::byte> bytes) {
      offer(key, bytes, tiers::Keep::kHeld);
    };
  }
  return options;
}

double PrefixCache::block_cost_ns() const noexcept {
  const auto token_ns = static_cast<double>(token_cost_.load(std::memory_order_relaxed).count());
  return recompute_weight_ * token_ns * block_tokens_;
}

tiers::LoadChoice PrefixCache::foresee_load(std::span<const tiers::Key> keys,
                                            std::size_t have) const {
  if (!reuses_store()) return {};
  return store_->foresee(keys, have, block_cost_ns());
}

TierState PrefixCache::tier_state() const {
  if (store_ == nullptr) return {};
  return {.stats = store_->stats(), .costs = store_->costs(block_cost_ns()), .store = store_};
}

/// The store's name of a sequence's block.
const tiers::Key& PrefixCache::key_of(Sequence& s, std::size_t block) {
  if (s.keys.size() <= block) {
    tiers::name_blocks(tiers::root_key(store_key_, s.request.cache_salt),
                       std::span(s.tokens).first((block + 1) * block_tokens_), block_tokens_,
                       s.keys);
  }
  return s.keys[block];
}

void PrefixCache::offer(const tiers::Key& key, std::span<const std::byte> bytes, tiers::Keep keep) {
  auto place = store_->reserve(key, block_cost_ns(), keep);
  if (!place) return;
  std::ranges::copy(bytes, place.bytes().begin());
  place.commit();
}

bool PrefixCache::begin_fetch(Sequence& s) {
  if (s.request.fetch && begin_pull(s)) return true;
  const std::size_t blocks = s.request.prompt.size() / block_tokens_;
  if (!reuses_store() || blocks == 0) return false;
  s.chain = pool_.match(s.root, s.request.prompt);
  const std::size_t have = s.chain.size();
  (void)key_of(s, blocks - 1);
  const tiers::LoadChoice choice = store_->choose(s.keys, have, block_cost_ns());
  if (choice.blocks == 0) return false;
  const TimePoint latest = clock_.now() + Nanos(static_cast<std::int64_t>(choice.recompute_ns));
  s.fetch.emplace(store_->fetch(std::span(s.keys).subspan(have, choice.blocks),
                                Deadline(std::min(latest, s.request.deadline.at())),
                                choice.load_ns));
  return true;
}

bool PrefixCache::take_fetched(Sequence& s, Nanos slice) {
  if (s.pull != nullptr) return take_pulled(s);
  if (!s.fetch->done()) return false;
  if (s.fetched.empty()) s.fetched = s.fetch->take();
  const TimePoint end = clock_.now() + slice;
  while (s.imported < s.fetched.size()) {
    // Verified on its way out of the store, before it is a block of the pool.
    if (!s.fetched[s.imported].copy_to(arrived_)) break;
    const std::size_t block = s.chain.size();
    const auto tokens = std::span(s.tokens).subspan(block * block_tokens_, block_tokens_);
    BlockPool::Place place = pool_.insert(s.root, s.chain.empty() ? kNoBlock : s.chain.back(),
                                          tokens, s.locals.block(tokens), key_of(s, block));
    if (!place.pin) break;  // every slot is pinned by running sequences
    if (!place.bytes.empty()) std::ranges::copy(arrived_, place.bytes.begin());
    s.chain.push_back(std::move(place.pin));
    if (++s.imported < s.fetched.size() && clock_.now() >= end) return false;
  }
  end_fetch(s);
  return true;
}

void PrefixCache::wait_for_fetch(Sequence& s) const {
  constexpr auto kStep = std::chrono::milliseconds(1);
  if (s.pull != nullptr && !s.pull->begun) {
    exchange_->wait_for_ways(kStep);
  } else if (s.pull != nullptr) {
    (void)s.pull->transfer.wait(Deadline(clock_.now() + kStep), clock_);
  } else {
    s.fetch->wait(kStep);
  }
}

void PrefixCache::end_fetch(Sequence& s) {
  if (s.pull != nullptr) {
    s.pull->transfer.cancel();
    ending_.push_back(std::move(s.pull));
    end_pulls();
  }
  s.fetch.reset();
  s.fetched.clear();
  s.imported = 0;
}

/// Slots come back once nobody writes there any more.
void PrefixCache::end_pulls() {
  std::erase_if(ending_, [this](const std::unique_ptr<PeerFetch>& pull) {
    if (!pull->transfer.done()) return false;
    for (const std::uint32_t slot : pull->slots) pool_.give_back(slot);
    return true;
  });
}

void PrefixCache::sweep(std::vector<RequestId>& gone) {
  leases_.sweep(gone);
  end_pulls();
}

Nanos PrefixCache::until_sweep() const {
  constexpr Nanos kStep = std::chrono::milliseconds(1);  // a cancelled pull ends after a block
  return ending_.empty() ? leases_.until_sweep() : kStep;
}

bool PrefixCache::restore(Sequence& s) {
  if (pool_.blocks_max() == 0) return true;
  std::vector<BlockPool::Pin> chain = pool_.match(s.root, s.request.prompt);
  const std::uint32_t whole = static_cast<std::uint32_t>(chain.size()) * block_tokens_;
  const BlockPool::Part part = pool_.match_part(s.root, chain.empty() ? kNoBlock : chain.back(),
                                                std::span(s.request.prompt).subspan(whole));
  const bool part_fits = whole + block_tokens_ <= context_.context_tokens();
  const std::uint32_t reused =
      reusable_tokens(s.prompt_tokens(), whole + (part_fits ? part.tokens : 0), 1, exact_);
  std::vector<std::span<const std::byte>> blocks;
  for (const BlockPool::Pin& pin : chain) {
    if (blocks.size() * block_tokens_ < reused) blocks.push_back(pool_.bytes(pin));
  }
  if (reused > whole) blocks.push_back(pool_.bytes(part.pin));
  if (!blocks.empty()) {
    if (!context_.load(*s.stream, blocks, block_tokens_)) {
      log::warn("a cached prefix of {} tokens could not be restored; it is computed anew", reused);
      s.chain.clear();
      return false;
    }
    context_.truncate(*s.stream, reused);  // the last block may hold more than is shared
  }
  s.computed = s.cached = reused;
  s.settled = reused;
  s.chain = std::move(chain);  // all that matched: publishing starts after it
  return true;
}

/// With `exact` only settled blocks, so that whatever the pool holds may be reused.
bool PrefixCache::publish(Sequence& s) {
  const std::uint32_t reach = exact_ ? std::min(s.computed, s.settled) : s.computed;
  if (pool_.blocks_max() == 0 || reach / block_tokens_ <= s.chain.size()) return true;
  const std::span<const std::uint8_t> state = context_.save(*s.stream, s.computed);
  if (state.empty()) return false;
  while (s.chain.size() < reach / block_tokens_) {
    const std::size_t block = s.chain.size();
    const auto first = static_cast<std::uint32_t>(block) * block_tokens_;
    const std::span<const Token> tokens = std::span(s.tokens).subspan(first, block_tokens_);
    const tiers::Key key = store_ != nullptr ? key_of(s, block) : tiers::Key{};
    BlockPool::Place place = pool_.insert(s.root, s.chain.empty() ? kNoBlock : s.chain.back(),
                                          tokens, s.locals.block(tokens), key);
    if (!place.pin) break;  // every slot is pinned by running sequences
    if (!place.bytes.empty()) {
      context_.codec()->cut(state, s.computed, first, block_tokens_, place.bytes);
      if (store_ != nullptr) offer(key, place.bytes, tiers::Keep::kWritten);
    }
    s.chain.push_back(std::move(place.pin));
  }
  return true;
}

}  // namespace penstock::engine::llama
