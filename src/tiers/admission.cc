#include "tiers/admission.h"

namespace penstock::tiers {

std::optional<Reason> refusal(const DiskBid& bid) noexcept {
  if (bid.read_ns >= bid.recompute_ns) return Reason::kNotWorth;
  if (bid.wear_spent || (bid.wear_short && bid.asked < 2)) return Reason::kWear;
  if (bid.full && bid.value() <= bid.oldest_value) return Reason::kCold;
  return std::nullopt;
}

}  // namespace penstock::tiers
