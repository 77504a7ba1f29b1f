// What of PrefixCache deals with other workers: KV left for them, and KV fetched from them.
#include <algorithm>

#include "engine/llama/batch_shape.h"
#include "engine/llama/prefix_cache.h"

namespace penstock::engine::llama {
namespace {

/// What a fetch has at least, however quickly its tokens are computed: threads have to wake up.
constexpr Nanos kPullAtLeast = std::chrono::milliseconds(250);

constexpr std::uint32_t kGone = UINT32_MAX;  // no slot

FetchMiss miss_of(transfer::BlockStatus status) noexcept {
  switch (status) {
    case transfer::BlockStatus::kStale:
    case transfer::BlockStatus::kWrongKey: return FetchMiss::kStale;
    case transfer::BlockStatus::kTruncated:
    case transfer::BlockStatus::kCorrupt: return FetchMiss::kCorrupt;
    case transfer::BlockStatus::kRevoked: return FetchMiss::kLeaseEnded;
    case transfer::BlockStatus::kDeadline:
    case transfer::BlockStatus::kCancelled: return FetchMiss::kDeadline;
    default: return FetchMiss::kUnreachable;
  }
}

}  // namespace

std::uint32_t PrefixCache::reusable(const Sequence& s) const noexcept {
  const std::uint32_t kept = exact_ ? settled_tokens(s.prompt_tokens()) : s.prompt_tokens();
  const std::uint32_t whole = kept / block_tokens_ * block_tokens_;
  return reusable_tokens(s.prompt_tokens(), whole, 1, exact_);
}

std::uint32_t PrefixCache::blocks_to_leave(const Sequence& s) const noexcept {
  return (reusable(s) + block_tokens_ - 1) / block_tokens_;
}

bool PrefixCache::has_blocks_to_leave(Sequence& s) {
  s.chain = pool_.match(s.root, s.request.prompt);
  return s.chain.size() >= blocks_to_leave(s);
}

bool PrefixCache::has_room_to_leave(const Sequence& s) const noexcept {
  return s.chain.size() + pool_.room() >= blocks_to_leave(s);
}

void PrefixCache::leave(Sequence& s) {
  if (!shares()) return;
  s.chain.resize(std::min<std::size_t>(s.chain.size(), blocks_to_leave(s)));
  if (s.chain.empty()) return;
  s.ticket =
      leases_.open(s.request.id, std::move(s.chain),
                   Deadline(std::min(s.request.deadline.at(), clock_.now() + s.request.kv_lease)));
  if (s.ticket != nullptr) s.ticket->at = offered_.at;
  s.chain.clear();
}

bool PrefixCache::begin_pull(Sequence& s) {
  const KvTicket& ticket = *s.request.fetch;
  s.chain = pool_.match(s.root, s.request.prompt);
  const std::size_t have = s.chain.size();
  const std::size_t there = std::min<std::size_t>(ticket.blocks.size(), blocks_to_leave(s));
  if (there <= have) return false;
  if (!shares()) {
    missed(FetchMiss::kUnreachable, there - have);
    return false;
  }
  auto pull = std::make_unique<PeerFetch>();
  pull->ticket = ticket;
  pull->started = clock_.now();
  pull->transfer.traffic = &traffic_;
  kv::BlockHash hash = s.root;
  for (std::size_t block = 0; block < there; ++block) {
    hash = kv::chain_next(
        hash, std::span(s.request.prompt).subspan(block * block_tokens_, block_tokens_));
    if (block < have) continue;
    const std::optional<std::uint32_t> slot = pool_.take_slot();
    if (!slot) {
      missed(FetchMiss::kNoRoom, there - block);
      break;
    }
    pull->take.push_back(static_cast<std::uint32_t>(block));
    pull->slots.push_back(*slot);
    pull->keys.push_back(BlockPool::transfer_key(hash));
  }
  pull->status.resize(pull->take.size());
  const auto computing =
      Nanos(static_cast<std::int64_t>(block_cost_ns() * static_cast<double>(pull->take.size())));
  pull->deadline = Deadline(
      std::min(s.request.deadline.at(), pull->started + std::max(computing, kPullAtLeast)));
  s.pull = std::move(pull);
  if (!s.pull->take.empty() && start_pull(*s.pull)) return true;
  missed(FetchMiss::kUnreachable, s.pull->take.size());
  end_fetch(s);
  return false;
}

/// Or waits for the way there. False: there is none.
bool PrefixCache::start_pull(PeerFetch& pull) {
  transfer::Pull wanted;
  wanted.granted = pull.ticket.blocks;
  wanted.take = pull.take;
  wanted.to = pull.slots;
  wanted.keys = pull.keys;
  wanted.status = pull.status;
  wanted.grant = pull.ticket.grant;
  wanted.deadline = pull.deadline;
  const Result<KvExchange::Way> way =
      exchange_->pull(pull.ticket, compatibility_, pull.transfer, wanted, *pool_.arena());
  pull.begun = way && *way == KvExchange::Way::kOpen;
  return way.has_value();
}

/// False: it has begun, or its blocks have their ends.
bool PrefixCache::still_opening(PeerFetch& pull) {
  if (pull.begun) return false;
  if (pull.deadline.passed(clock_.now())) {
    std::ranges::fill(pull.status, transfer::BlockStatus::kDeadline);
  } else if (!start_pull(pull)) {
    std::ranges::fill(pull.status, transfer::BlockStatus::kPathFailed);
  } else {
    return !pull.begun;
  }
  return false;
}

/// Each block was verified before it was readable; those up to the first miss go into the pool.
bool PrefixCache::take_pulled(Sequence& s) {
  PeerFetch& pull = *s.pull;
  if (still_opening(pull)) return false;
  if (!pull.transfer.done()) {
    if (pull.deadline.passed(clock_.now())) pull.transfer.cancel();
    return false;
  }
  std::size_t adopted = 0;
  for (; adopted < pull.take.size(); ++adopted) {
    if (pull.status[adopted] != transfer::BlockStatus::kArrived) break;
    const std::size_t block = s.chain.size();
    const auto tokens = std::span(s.tokens).subspan(block * block_tokens_, block_tokens_);
    BlockPool::Pin pin = pool_.adopt(
        s.root, s.chain.empty() ? kNoBlock : s.chain.back(), tokens, s.locals.block(tokens),
        store_ != nullptr ? key_of(s, block) : tiers::Key{}, pull.slots[adopted]);
    pull.slots[adopted] = kGone;  // the pool has it, in either case
    if (!pin) break;
    s.chain.push_back(std::move(pin));
  }
  for (std::size_t i = adopted; i < pull.take.size(); ++i) {
    const bool arrived = pull.status[i] == transfer::BlockStatus::kArrived;
    missed(arrived ? FetchMiss::kStale : miss_of(pull.status[i]), 1);
  }
  const TimePoint finished = pull.begun ? pull.transfer.finished() : clock_.now();
  const Nanos took = std::max(Nanos::zero(), finished - pull.started);
  blocks_pulled_ += adopted;
  pulling_ += took;
  if (adopted == pull.take.size()) {
    last_pull_ = {last_pull_.ordinal + 1, static_cast<std::uint32_t>(adopted), took};
  }
  std::erase(pull.slots, kGone);
  end_fetch(s);
  return true;
}

void PrefixCache::write_to(LoadReport& report) const {
  report.kv_blocks_used = pool_.blocks_held();
  report.kv_blocks_max = pool_.blocks_max();
  report.blocks_evicted = pool_.evictions();
  report.kv_leases = leases_.size();
  report.kv_leases_lapsed = leases_.lapsed();
  report.kv_blocks_fetched = blocks_pulled_;
  report.kv_bytes_fetched = blocks_pulled_ * pool_.block_bytes();
  report.kv_blocks_missed = missed_;
  report.kv_fetching = pulling_;
  report.last_fetch = last_pull_;
  report.kv_transfers = traffic_.sums();
  report.prompt_token_cost = token_cost_.load(std::memory_order_relaxed);
}

}  // namespace penstock::engine::llama
