#include "transfer/meter.h"

#include <algorithm>

namespace penstock::transfer {
namespace {

constexpr double kNewest = 0.2;  // weight of the newest measurement

}  // namespace

Meter::Meter(double prior_fixed_ns, double prior_ns_per_byte) noexcept
    : prior_fixed_ns_(prior_fixed_ns), prior_ns_per_byte_(prior_ns_per_byte) {
  for (auto& cost : ns_per_byte_) cost.store(0, std::memory_order_relaxed);
}

std::size_t Meter::class_of(std::uint64_t bytes) noexcept {
  const int above = std::max(0, static_cast<int>(std::bit_width(bytes)) - 15);
  return std::min(kClasses - 1, static_cast<std::size_t>((above + 3) / 4));
}

void Meter::record(const std::array<std::uint64_t, kBlockStatuses>& blocks, std::uint64_t bytes,
                   Nanos queued, Nanos ran) noexcept {
  for (std::size_t i = 0; i < kBlockStatuses; ++i) {
    if (blocks[i] > 0) blocks_[i].fetch_add(blocks[i], std::memory_order_relaxed);
  }
  attempts_.fetch_add(1, std::memory_order_relaxed);
  bytes_.fetch_add(bytes, std::memory_order_relaxed);
  queued_.add(queued);
  ran_.add(ran);
  if (bytes == 0) return;
  // Two that finish at once may lose one of their measurements: no harm.
  auto& cost = ns_per_byte_[class_of(bytes)];
  const double before = cost.load(std::memory_order_relaxed);
  const double now = static_cast<double>(ran.count()) / static_cast<double>(bytes);
  cost.store(before == 0 ? now : before + kNewest * (now - before), std::memory_order_relaxed);
}

double Meter::predict_ns(std::uint64_t bytes) const noexcept {
  const double measured = ns_per_byte_[class_of(bytes)].load(std::memory_order_relaxed);
  const auto size = static_cast<double>(bytes);
  return measured > 0 ? measured * size : prior_fixed_ns_ + prior_ns_per_byte_ * size;
}

}  // namespace penstock::transfer
