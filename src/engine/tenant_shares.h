#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <unordered_map>

namespace penstock::engine {

/// How much each tenant has had of a worker, in tokens, while it has requests there: whoever has
/// had least goes next (virtual token counters, Sheng et al., OSDI 2024). A tenant that comes
/// starts level with the least served one that is there, so idling earns no credit. Bounded by the
/// requests that live. One thread.
class TenantShares final {
 public:
  /// A request of the tenant waits or runs from now on, until left().
  void came(std::uint64_t tenant) {
    const double least = least_served();
    const auto [entry, fresh] = tenants_.try_emplace(tenant);
    if (fresh) entry->second.tokens = least;
    ++entry->second.requests;
  }
  void left(std::uint64_t tenant) {
    const auto entry = tenants_.find(tenant);
    if (entry != tenants_.end() && --entry->second.requests == 0) tenants_.erase(entry);
  }
  /// Tokens were computed, or are about to be, for a tenant that is here.
  void serve(std::uint64_t tenant, double tokens) { tenants_.at(tenant).tokens += tokens; }

  [[nodiscard]] double served(std::uint64_t tenant) const { return tenants_.at(tenant).tokens; }
  [[nodiscard]] std::size_t tenants() const noexcept { return tenants_.size(); }

 private:
  struct Share {
    double tokens = 0;
    std::uint64_t requests = 0;
  };

  [[nodiscard]] double least_served() const {
    double least = std::numeric_limits<double>::infinity();
    for (const auto& [tenant, share] : tenants_) least = std::min(least, share.tokens);
    return tenants_.empty() ? 0 : least;
  }

  std::unordered_map<std::uint64_t, Share> tenants_;
};

}  // namespace penstock::engine
