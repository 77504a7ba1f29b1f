#include "engine/llama/kv_leases.h"

#include <algorithm>
#include <thread>

namespace penstock::engine::llama {
namespace {

constexpr Nanos kDrainStep = std::chrono::milliseconds(1);  // a reader leaves after a chunk

}  // namespace

KvLeases::~KvLeases() {
  end_all();
  for (std::vector<RequestId> gone; !leases_.empty();) {
    sweep(gone);
    if (!leases_.empty()) std::this_thread::sleep_for(kDrainStep);
  }
}

std::unique_ptr<KvTicket> KvLeases::open(RequestId id, std::vector<BlockPool::Pin> blocks,
                                         Deadline until) {
  auto lease = std::make_unique<Lease>();
  lease->id = id;
  lease->until = until;
  for (const BlockPool::Pin& pin : blocks) lease->blocks.push_back(pool_.ref(pin));
  transfer::Arena& arena = *pool_.arena();
  const auto grant = arena.grants().open(lease->blocks, until.at());
  if (!grant) return nullptr;
  lease->grant = *grant;
  lease->pins = std::move(blocks);
  auto ticket = std::make_unique<KvTicket>(
      KvTicket{.source = arena.table().epoch(), .grant = *grant, .blocks = lease->blocks});
  leases_.push_back(std::move(lease));
  return ticket;
}

void KvLeases::end(RequestId id) {
  const auto found = std::ranges::find(leases_, id, [](const auto& l) { return l->id; });
  if (found == leases_.end()) return;
  (*found)->revoked = true;
  pool_.arena()->grants().revoke((*found)->grant);
}

void KvLeases::end_all() {
  for (const auto& lease : leases_) end(lease->id);
}

void KvLeases::sweep(std::vector<RequestId>& gone) {
  if (leases_.empty()) return;
  transfer::Grants& grants = pool_.arena()->grants();
  const TimePoint now = clock_.now();
  std::erase_if(leases_, [&](const std::unique_ptr<Lease>& lease) {
    if (!lease->revoked && lease->until.passed(now)) {
      lease->revoked = true;
      ++lapsed_;
      grants.revoke(lease->grant);
    }
    if (!lease->revoked || !grants.drained(lease->grant)) return false;
    if (!grants.close(lease->grant, Deadline(now), clock_)) return false;
    gone.push_back(lease->id);
    return true;
  });
}

Nanos KvLeases::until_sweep() const {
  Nanos least = Nanos::max();
  const TimePoint now = clock_.now();
  for (const auto& lease : leases_) {
    least = std::min(least,
                     lease->revoked ? kDrainStep : std::max(kDrainStep, lease->until.at() - now));
  }
  return least;
}

}  // namespace penstock::engine::llama
