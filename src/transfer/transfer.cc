#include "transfer/transfer.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <thread>

#include "base/check.h"

namespace penstock::transfer {
namespace {

constexpr int kSpins = 2000;
constexpr auto kPause = std::chrono::microseconds(20);
// Larger than what a cache keeps for a reader: stores go past it.
constexpr std::uint64_t kStreamingBytes = 1 << 20;

void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

std::string_view to_string(BlockStatus status) noexcept {
  static constexpr std::array<std::string_view, kBlockStatuses> kNames{
      "pending",      "arrived", "stale",     "wrong_key",   "truncated", "corrupt",
      "out_of_range", "revoked", "peer_dead", "path_failed", "deadline",  "cancelled"};
  const auto at = static_cast<std::size_t>(status);
  return at < kNames.size() ? kNames[at] : "?";
}

Transfer::~Transfer() {
  if (state_.load(std::memory_order_acquire) == State::kIdle) return;
  cancel();
  wait_for_release();
}

void Transfer::wait_for_release() const noexcept {
  for (int spins = 0; state_.load(std::memory_order_acquire) != State::kReleased; ++spins) {
    if (spins < kSpins) {
      relax();
    } else {
      std::this_thread::sleep_for(kPause);
    }
  }
}

bool Transfer::wait(Deadline deadline, const Clock& clock) const {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpins) {
      relax();
      continue;
    }
    if (deadline.passed(clock.now())) return done();
    std::this_thread::sleep_for(kPause);
  }
  return true;
}

BlockStatus Transfer::verdict(TimePoint now) const noexcept {
  if (cancelled_.load(std::memory_order_relaxed)) return BlockStatus::kCancelled;
  if (pull_.deadline.passed(now)) return BlockStatus::kDeadline;
  return BlockStatus::kPending;
}

void Transfer::begin(const Pull& pull, Arena& to) {
  const State state = state_.load(std::memory_order_acquire);
  CHECK(state != State::kRunning);
  if (state == State::kDone) wait_for_release();
  pull_ = pull;
  to_ = &to;
  cancelled_.store(false, std::memory_order_relaxed);
  ranges_done_.store(0, std::memory_order_relaxed);
  arrived_ = 0;
  tried_paths_ = 0;
  streaming_ = to.layout().block_bytes() * pull.take.size() >= kStreamingBytes;
  state_.store(State::kRunning, std::memory_order_relaxed);
}

void Transfer::release() noexcept {
  const Callback callback = on_done;
  void* const with = context;
  tell();  // before anyone is woken for it
  if (eventfd >= 0) {
    const std::uint64_t one = 1;
    // Fails only if the counter is at its end, and then it is readable anyway.
    [[maybe_unused]] const auto written = write(eventfd, &one, sizeof one);
  }
  state_.store(State::kReleased, std::memory_order_release);
  if (callback != nullptr) callback(with);  // the transfer may be gone from here on
}

void Chunk::arrived(std::uint32_t block) const noexcept {
  if (!pending(block)) return;
  to().commit(pull().to[block], pull().keys[block]);
  pull().status[block] = BlockStatus::kArrived;
}

void Chunk::fail_rest(BlockStatus status) const noexcept {
  for (std::uint32_t block = begin; block < end; ++block) {
    if (pending(block)) pull().status[block] = status;
  }
}

}  // namespace penstock::transfer
