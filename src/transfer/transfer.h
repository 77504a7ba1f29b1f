#pragma once

#include <array>
#include <atomic>
#include <coroutine>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/cache_line.h"
#include "base/clock.h"
#include "base/result.h"
#include "transfer/arena.h"
#include "transfer/traffic.h"

namespace penstock::transfer {

class ChunkQueue;
class Path;
class Peer;

/// What became of one block. Whatever is not kArrived is a miss: nothing of it is readable.
enum class BlockStatus : std::uint8_t {
  kPending,
  kArrived,     // verified and committed
  kStale,       // the slot was written again, or is being written
  kWrongKey,    // the slot holds another block
  kTruncated,   // the source holds fewer bytes than a block has
  kCorrupt,     // the bytes are not those of the checksum
  kOutOfRange,  // a slot or position that does not exist
  kRevoked,     // the grant was closed, or its lease ended
  kPeerDead,    // the owner's process is gone
  kPathFailed,  // the way there failed, and no other was left
  kDeadline,
  kCancelled,
};
inline constexpr std::size_t kBlockStatuses = 12;
[[nodiscard]] std::string_view to_string(BlockStatus status) noexcept;

/// What is to be pulled where. Spans stay the caller's and stay as they are until the transfer is
/// done; nothing is copied from them at submission.
struct Pull {
  std::span<const BlockRef> granted;    // the ticket's list, whole
  std::span<const std::uint32_t> take;  // positions in it
  std::span<const std::uint32_t> to;    // destination slots, one for each of `take`
  std::span<const BlockKey> keys;       // what each must hold
  std::span<BlockStatus> status;        // written; kPending at first
  GrantId grant;
  /// Ends of the layer ranges that complete one after another, rising, the last one the number of
  /// parts. Empty: all parts are one range.
  std::span<const std::uint32_t> range_ends;
  Deadline deadline;
  std::uint8_t priority = 0;  // higher goes first
};

/// One pull and its completion. The consumer owns it and sees its end by whichever way it likes:
/// polling `done`, an eventfd, a callback, or co_await. Lives at one place; may be used again when
/// it is done. Its end cancels and waits, so that no thread of ours touches slots, spans or the
/// grant any more: that is the proof of quiescence.
class Transfer final {
 public:
  static constexpr std::uint32_t kRangesMax = 128;

  Transfer() = default;
  ~Transfer();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  /// Set before submission, all optional. `eventfd` is written 1 when the transfer is done; it
  /// stays open as long as the transfer exists. The callback runs on a thread of the path, does
  /// not block, and may destroy the transfer, but not the peer.
  int eventfd = -1;
  using Callback = void (*)(void* context);
  Callback on_done = nullptr;
  void* context = nullptr;
  /// Told of each attempt that has ended, shortly after `done`, as the peer's own is; outlives the
  /// transfer.
  Traffic* traffic = nullptr;

  /// True once every block has its final status and no thread works on the transfer. Also before
  /// the first submission.
  [[nodiscard]] bool done() const noexcept {
    return state_.load(std::memory_order_acquire) != State::kRunning;
  }
  /// True once this layer range of every block is in its slot, verified, though not committed: a
  /// decoder may begin with these layers. Stays false from the first miss on.
  [[nodiscard]] bool range_done(std::uint32_t range) const noexcept {
    return ranges_done_.load(std::memory_order_acquire) > range;
  }
  /// Waits for `done`: spins shortly, then sleeps in between. False when `deadline` passes first.
  bool wait(Deadline deadline, const Clock& clock) const;
  /// Blocks not begun become kCancelled; `done` follows shortly, from another thread.
  void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }

  [[nodiscard]] std::uint64_t arrived() const noexcept { return arrived_; }  // when done
  [[nodiscard]] TimePoint finished() const noexcept { return finished_; }    // when done
  [[nodiscard]] const Pull& pull() const noexcept { return pull_; }
  [[nodiscard]] Arena& destination() const noexcept { return *to_; }

 private:
  friend class ChunkQueue;
  friend class Peer;
  friend class Path;
  friend struct Chunk;

  enum class State : std::uint8_t { kIdle, kRunning, kDone, kReleased };

  /// kPending if it may go on, else why not: cancelled, or past its deadline.
  [[nodiscard]] BlockStatus verdict(TimePoint now) const noexcept;
  void begin(const Pull& pull, Arena& to);
  /// Who polls sees the end from here on, though threads of ours still use the transfer: it is
  /// neither begun again nor gone until `release`.
  void tell() noexcept { state_.store(State::kDone, std::memory_order_release); }
  void release() noexcept;  // the last touch by a thread of ours
  void wait_for_release() const noexcept;
  [[nodiscard]] std::uint32_t ranges() const noexcept {
    return pull_.range_ends.empty() ? 1 : static_cast<std::uint32_t>(pull_.range_ends.size());
  }

  Pull pull_;
  Arena* to_ = nullptr;
  Peer* peer_ = nullptr;
  Path* path_ = nullptr;
  const Clock* clock_ = nullptr;
  std::uint64_t arrived_ = 0;
  bool streaming_ = false;
  std::uint32_t tried_paths_ = 0;  // a bit for each of the peer's paths
  TimePoint submitted_;
  TimePoint started_;
  TimePoint finished_;

  // Under the queue's lock.
  Transfer* next_ = nullptr;
  std::uint32_t range_ = 0;        // being handed out
  std::uint32_t next_block_ = 0;   // first one of it not handed out
  std::uint32_t outstanding_ = 0;  // chunks handed out and not finished
  bool missed_ = false;
  std::uint32_t chunk_blocks_ = 1;

  // Consumers may look at these all the time, which takes their lines away from whoever writes:
  // apart from each other and from what changes with each chunk.
  alignas(kCacheLineBytes) std::atomic<std::uint32_t> ranges_done_{0};
  std::atomic<bool> cancelled_{false};
  alignas(kCacheLineBytes) std::atomic<State> state_{State::kIdle};
};

/// A piece of a transfer: a run of blocks in one layer range, for one thread.
struct Chunk {
  Transfer* transfer = nullptr;
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  std::uint32_t first_part = 0;
  std::uint32_t last_part = 0;  // one past
  bool last_range = false;

  [[nodiscard]] const Pull& pull() const noexcept { return transfer->pull_; }
  [[nodiscard]] Arena& to() const noexcept { return *transfer->to_; }
  [[nodiscard]] Path& path() const noexcept { return *transfer->path_; }
  [[nodiscard]] bool streaming() const noexcept { return transfer->streaming_; }
  [[nodiscard]] bool pending(std::uint32_t block) const noexcept {
    return pull().status[block] == BlockStatus::kPending;
  }
  /// The block is whole and verified: it becomes readable, unless it has another end already.
  void arrived(std::uint32_t block) const noexcept;
  /// Gives every block that is still pending this end.
  void fail_rest(BlockStatus status) const noexcept;
  [[nodiscard]] BlockStatus verdict(TimePoint now) const noexcept { return transfer->verdict(now); }
};

}  // namespace penstock::transfer
