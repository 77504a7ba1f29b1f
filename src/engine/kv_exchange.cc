#include "engine/kv_exchange.h"

namespace penstock::engine {

std::uint64_t KvExchange::offer(transfer::Arena& arena, std::string_view compatibility) {
  const std::uint64_t source = arena.table().epoch();
  const std::lock_guard lock(mutex_);
  sources_[source] = {std::string(compatibility), transfer::Peer::local(arena, copies_, clock_)};
  return source;
}

void KvExchange::withdraw(std::uint64_t source) {
  std::unique_ptr<transfer::Peer> peer;  // its end waits for pulls under way: not under the lock
  const std::lock_guard lock(mutex_);
  const auto found = sources_.find(source);
  if (found == sources_.end()) return;
  peer = std::move(found->second.peer);
  sources_.erase(found);
}

Result<void> KvExchange::pull(std::uint64_t source, std::string_view compatibility,
                              transfer::Transfer& transfer, const transfer::Pull& pull,
                              transfer::Arena& to) {
  const std::lock_guard lock(mutex_);
  const auto found = sources_.find(source);
  if (found == sources_.end()) return fail(Code::kUnavailable, "that worker is gone");
  if (found->second.compatibility != compatibility) {
    return fail(Code::kUnprocessable, "that worker's KV is of another model, build or setting");
  }
  return found->second.peer->pull(transfer, pull, to);
}

}  // namespace penstock::engine
