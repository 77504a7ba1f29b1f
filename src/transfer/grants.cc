#include "transfer/grants.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

namespace penstock::transfer {
namespace {

constexpr auto kDrainPoll = std::chrono::microseconds(20);

}  // namespace

ReadGuard::ReadGuard(ReaderPage& page, const BlockTable& table, GrantId grant,
                     TimePoint now) noexcept {
  if (grant.cell >= BlockTable::kGrantsMax) return;
  auto& active = page.active[grant.cell];
  // Enter first, look second; the owner revokes first and looks second. In one order of all four,
  // either the owner sees us or we see that it revoked.
  active.fetch_add(1, std::memory_order_seq_cst);
  if (table.grant_is_live(grant, now)) {
    active_ = &active;
  } else {
    active.fetch_sub(1, std::memory_order_release);
  }
}

ReadGuard::~ReadGuard() {
  if (active_ != nullptr) active_->fetch_sub(1, std::memory_order_release);
}

Result<GrantId> Grants::open(std::span<const BlockRef> blocks, TimePoint expires) {
  const std::lock_guard lock(mutex_);
  for (std::uint32_t tried = 0; tried < BlockTable::kGrantsMax; ++tried) {
    const std::uint32_t cell = next_;
    next_ = (next_ + 1) % BlockTable::kGrantsMax;
    if (used_[cell]) continue;
    used_[cell] = true;
    blocks_[cell] = blocks;
    ++open_;
    BlockTable::GrantCell& shared = table_.grant(cell);
    const std::uint64_t generation = shared.state.load(std::memory_order_relaxed) / 2 + 1;
    shared.expires_ns.store(expires.time_since_epoch().count(), std::memory_order_relaxed);
    shared.state.store(generation * 2 + 1, std::memory_order_seq_cst);
    return GrantId{cell, static_cast<std::uint32_t>(generation)};
  }
  return fail(Code::kOverloaded, fmt::format("{} grants are open", BlockTable::kGrantsMax));
}

bool Grants::is_open(GrantId grant) const {
  return grant.cell < BlockTable::kGrantsMax && used_[grant.cell] &&
         table_.grant(grant.cell).state.load(std::memory_order_relaxed) / 2 == grant.generation;
}

bool Grants::renew(GrantId grant, TimePoint expires) {
  const std::lock_guard lock(mutex_);
  if (!is_open(grant)) return false;
  BlockTable::GrantCell& shared = table_.grant(grant.cell);
  if (shared.state.load(std::memory_order_relaxed) % 2 == 0) return false;
  shared.expires_ns.store(expires.time_since_epoch().count(), std::memory_order_relaxed);
  return true;
}

void Grants::revoke(GrantId grant) {
  const std::lock_guard lock(mutex_);
  if (!is_open(grant)) return;
  table_.grant(grant.cell)
      .state.store(std::uint64_t{grant.generation} * 2, std::memory_order_seq_cst);
}

bool Grants::drained(GrantId grant) const {
  const std::lock_guard lock(mutex_);
  return std::ranges::all_of(pages_, [&](const ReaderPage* page) {
    return page->active[grant.cell].load(std::memory_order_seq_cst) == 0;
  });
}

Result<void> Grants::close(GrantId grant, Deadline deadline, const Clock& clock) {
  {
    const std::lock_guard lock(mutex_);
    if (!is_open(grant)) return {};
  }
  revoke(grant);
  while (!drained(grant)) {
    if (deadline.passed(clock.now())) {
      return fail(Code::kDeadlineExceeded, "a reader is still inside the grant");
    }
    std::this_thread::sleep_for(kDrainPoll);
  }
  const std::lock_guard lock(mutex_);
  if (!is_open(grant)) return {};
  used_[grant.cell] = false;
  blocks_[grant.cell] = {};
  --open_;
  return {};
}

std::span<const BlockRef> Grants::blocks(GrantId grant) const {
  const std::lock_guard lock(mutex_);
  return is_open(grant) ? blocks_[grant.cell] : std::span<const BlockRef>();
}

std::uint32_t Grants::open_count() const {
  const std::lock_guard lock(mutex_);
  return open_;
}

void Grants::attach(const ReaderPage* page) {
  const std::lock_guard lock(mutex_);
  pages_.push_back(page);
}

void Grants::detach(const ReaderPage* page) {
  const std::lock_guard lock(mutex_);
  std::erase(pages_, page);
}

}  // namespace penstock::transfer
