#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include "base/clock.h"
#include "transfer/transfer.h"

namespace penstock::transfer {

/// How often something took how long: bucket i counts what took [2^i, 2^(i+1)) ns. Thread: any.
class Histogram final {
 public:
  static constexpr std::size_t kBuckets = 40;  // to 18 minutes
  void add(Nanos took) noexcept {
    const auto ns = static_cast<std::uint64_t>(took.count() > 0 ? took.count() : 0);
    const auto bucket = std::bit_width(ns | 1) - 1;
    counts_[std::min<std::size_t>(static_cast<std::size_t>(bucket), kBuckets - 1)].fetch_add(
        1, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t count(std::size_t bucket) const noexcept {
    return counts_[bucket].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
};

/// What one path has carried and what it cost: always on, a few additions a transfer. Thread: any.
class Meter final {
 public:
  /// `prior_ns_per_byte` and `prior_fixed_ns` stand in until something was measured.
  Meter(double prior_fixed_ns, double prior_ns_per_byte) noexcept;

  /// A finished attempt: blocks by status, and how long it waited and ran.
  void record(const std::array<std::uint64_t, kBlockStatuses>& blocks, std::uint64_t bytes,
              Nanos queued, Nanos ran) noexcept;
  /// Predicted time of moving `bytes`, from what this size has cost lately.
  [[nodiscard]] double predict_ns(std::uint64_t bytes) const noexcept;

  [[nodiscard]] std::uint64_t blocks(BlockStatus status) const noexcept {
    return blocks_[static_cast<std::size_t>(status)].load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t bytes() const noexcept {
    return bytes_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t attempts() const noexcept {
    return attempts_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] const Histogram& queued() const noexcept { return queued_; }
  [[nodiscard]] const Histogram& ran() const noexcept { return ran_; }

 private:
  static constexpr std::size_t kClasses = 5;  // below 32 KiB, 512 KiB, 8 MiB, 128 MiB, and more
  static std::size_t class_of(std::uint64_t bytes) noexcept;

  std::array<std::atomic<std::uint64_t>, kBlockStatuses> blocks_{};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> attempts_{0};
  Histogram queued_;
  Histogram ran_;
  std::array<std::atomic<double>, kClasses> ns_per_byte_;  // 0: nothing measured yet
  double prior_fixed_ns_;
  double prior_ns_per_byte_;
};

}  // namespace penstock::transfer
