#include "cli/load/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace penstock::cli::load {
namespace {

// Values below 2^(kBits + 1) have a bucket each. Above, each power of two is cut into 2^kBits.
constexpr unsigned kBits = 10;
constexpr std::uint64_t kFine = 1ULL << kBits;

unsigned shift_of(std::uint64_t value) {
  const auto width = static_cast<unsigned>(std::bit_width(value));
  return width > kBits + 1 ? width - (kBits + 1) : 0;
}

std::size_t bucket_of(std::uint64_t value) {
  const unsigned shift = shift_of(value);
  return shift * kFine + (value >> shift);
}

/// The largest value in a bucket.
std::uint64_t upper_end(std::size_t bucket) {
  if (bucket < 2 * kFine) return bucket;
  const auto shift = static_cast<unsigned>(bucket / kFine) - 1;
  const std::uint64_t leading = bucket - shift * kFine;
  return ((leading + 1) << shift) - 1;
}

}  // namespace

Histogram::Histogram() : buckets_(bucket_of(static_cast<std::uint64_t>(kMax.count())) + 1) {}

void Histogram::record(Nanos value) {
  value = std::max(value, Nanos::zero());
  ++buckets_[bucket_of(static_cast<std::uint64_t>(std::min(value, kMax).count()))];
  ++count_;
  sum_ns_ += static_cast<std::uint64_t>(value.count());
  max_ = std::max(max_, value);
}

void Histogram::merge(const Histogram& other) {
  for (std::size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ns_ += other.sum_ns_;
  max_ = std::max(max_, other.max_);
}

Nanos Histogram::mean() const noexcept {
  return Nanos(static_cast<Nanos::rep>(count_ == 0 ? 0 : sum_ns_ / count_));
}

Nanos Histogram::percentile(double percent) const {
  if (count_ == 0) return Nanos::zero();
  const double rank = std::ceil(percent / 100 * static_cast<double>(count_));
  const auto wanted = static_cast<std::uint64_t>(std::max(rank, 1.0));
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    seen += buckets_[bucket];
    if (seen >= wanted) return std::min(Nanos(static_cast<Nanos::rep>(upper_end(bucket))), max_);
  }
  return max_;
}

}  // namespace penstock::cli::load
