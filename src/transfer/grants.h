#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "transfer/block_table.h"

namespace penstock::transfer {

/// How many of a reader's threads are inside each grant now. Lies in memory that reader and owner
/// share, one for each reader, so that what a dead reader left behind can be thrown away.
struct ReaderPage {
  std::array<std::atomic<std::uint32_t>, BlockTable::kGrantsMax> active{};
};

/// Permission to read blocks under a grant, held for one bounded piece of work (at most a chunk of
/// a transfer). While it is held the owner's drain waits.
class ReadGuard final {
 public:
  ReadGuard(ReaderPage& page, const BlockTable& table, GrantId grant, TimePoint now) noexcept;
  ~ReadGuard();
  ReadGuard(const ReadGuard&) = delete;
  /// False: revoked, expired or never granted; nothing may be read.
  [[nodiscard]] explicit operator bool() const noexcept { return active_ != nullptr; }

 private:
  std::atomic<std::uint32_t>* active_ = nullptr;
};

/// The owner's grants over one arena. A grant lets readers take a list of blocks until its lease
/// ends or it is closed. Closing proves quiescence: revoke (no reader enters), fence, drain (those
/// inside leave); only then may slots be reused without a reader running into it. Thread: any.
class Grants final {
 public:
  explicit Grants(BlockTable& table) noexcept : table_(table) {}

  /// `blocks` stay the caller's and stay as they are until `close` succeeds: readers name
  /// positions in the list. Fails with kOverloaded when kGrantsMax are open.
  Result<GrantId> open(std::span<const BlockRef> blocks, TimePoint expires);
  /// False if the grant is no longer open.
  bool renew(GrantId grant, TimePoint expires);
  /// No reader enters any more. Idempotent.
  void revoke(GrantId grant);
  /// After `revoke`: whether the last reader has left.
  [[nodiscard]] bool drained(GrantId grant) const;
  /// Revokes and waits for the readers inside. kDeadlineExceeded: a reader is still inside (stopped
  /// or stuck); nothing is released, call again. Ends at once for readers that are detached.
  Result<void> close(GrantId grant, Deadline deadline, const Clock& clock);

  /// The blocks of an open grant; the caller holds a ReadGuard on it.
  [[nodiscard]] std::span<const BlockRef> blocks(GrantId grant) const;
  [[nodiscard]] std::uint32_t open_count() const;

  /// Pages are looked at in `drained`; a detached one (its process is gone) no longer counts.
  void attach(const ReaderPage* page);
  void detach(const ReaderPage* page);

 private:
  [[nodiscard]] bool is_open(GrantId grant) const;

  BlockTable& table_;
  mutable std::mutex mutex_;
  std::array<std::span<const BlockRef>, BlockTable::kGrantsMax> blocks_;
  std::array<bool, BlockTable::kGrantsMax> used_{};
  std::uint32_t open_ = 0;
  std::uint32_t next_ = 0;
  std::vector<const ReaderPage*> pages_;
};

}  // namespace penstock::transfer
