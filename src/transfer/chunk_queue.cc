#include "transfer/chunk_queue.h"

#include <algorithm>

namespace penstock::transfer {
namespace {

constexpr std::uint64_t kChunkBlocksMax = 256;

}  // namespace

Result<void> ChunkQueue::push(Transfer& transfer) {
  const Pull& pull = transfer.pull();
  const Layout& layout = transfer.destination().layout();
  const std::uint64_t range_bytes = layout.block_bytes() / transfer.ranges();
  const std::uint64_t blocks = chunk_bytes_ / std::max<std::uint64_t>(range_bytes, 1);
  const std::lock_guard lock(mutex_);
  if (stopped_) return fail(Code::kUnavailable, "the path is closed");
  if (size_ == kTransfersMax) return fail(Code::kOverloaded, "too many transfers wait");
  transfer.chunk_blocks_ =
      static_cast<std::uint32_t>(std::clamp<std::uint64_t>(blocks, 1, kChunkBlocksMax));
  transfer.range_ = transfer.next_block_ = transfer.outstanding_ = 0;
  transfer.missed_ = false;
  Transfer** at = &first_;
  while (*at != nullptr && (*at)->pull().priority >= pull.priority) at = &(*at)->next_;
  transfer.next_ = *at;
  *at = &transfer;
  ++size_;
  if (waiting_ > 0) changed_.notify_all();
  return {};
}

std::optional<Chunk> ChunkQueue::take(std::optional<TimePoint> ended_by) {
  for (Transfer** at = &first_; *at != nullptr; at = &(*at)->next_) {
    Transfer& transfer = **at;
    if (ended_by && transfer.verdict(*ended_by) == BlockStatus::kPending) continue;
    const Pull& pull = transfer.pull();
    const auto blocks = static_cast<std::uint32_t>(pull.take.size());
    if (transfer.next_block_ == blocks) {  // this range is handed out; is it in place?
      if (transfer.outstanding_ > 0) continue;
      ++transfer.range_;
      transfer.next_block_ = 0;
    }
    if (transfer.range_ == 0 && transfer.next_block_ == 0) {
      transfer.started_ = transfer.clock_->now();
    }
    Chunk chunk;
    chunk.transfer = &transfer;
    chunk.begin = transfer.next_block_;
    chunk.end = std::min(blocks, chunk.begin + transfer.chunk_blocks_);
    chunk.last_range = transfer.range_ + 1 == transfer.ranges();
    if (pull.range_ends.empty()) {
      chunk.last_part = transfer.destination().layout().parts;
    } else {
      chunk.first_part = transfer.range_ == 0 ? 0 : pull.range_ends[transfer.range_ - 1];
      chunk.last_part = pull.range_ends[transfer.range_];
    }
    transfer.next_block_ = chunk.end;
    ++transfer.outstanding_;
    if (chunk.last_range && chunk.end == blocks) {  // nothing is left to hand out
      *at = transfer.next_;
      --size_;
    }
    return chunk;
  }
  return std::nullopt;
}

std::optional<Chunk> ChunkQueue::claim(bool wait) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (auto chunk = take()) return chunk;
    if (!wait || (stopped_ && first_ == nullptr)) return std::nullopt;
    ++waiting_;
    changed_.wait(lock);
    --waiting_;
  }
}

std::optional<Chunk> ChunkQueue::claim_ended(TimePoint now) {
  const std::lock_guard lock(mutex_);
  return take(now);
}

bool ChunkQueue::finish(const Chunk& chunk) {
  Transfer& transfer = *chunk.transfer;
  const auto statuses = chunk.pull().status.subspan(chunk.begin, chunk.end - chunk.begin);
  const bool missed = std::ranges::any_of(statuses, [&](BlockStatus status) {
    return status != BlockStatus::kArrived && (chunk.last_range || status != BlockStatus::kPending);
  });
  const std::lock_guard lock(mutex_);
  --transfer.outstanding_;
  transfer.missed_ = transfer.missed_ || missed;
  const bool range_over =
      transfer.outstanding_ == 0 && transfer.next_block_ == transfer.pull().take.size();
  if (!range_over) return false;
  const std::uint32_t ranges = transfer.range_ + 1;
  if (!transfer.missed_ && ranges > transfer.ranges_done_.load(std::memory_order_relaxed)) {
    transfer.ranges_done_.store(ranges, std::memory_order_release);
  }
  if (transfer.range_ + 1 == transfer.ranges()) return true;
  if (waiting_ > 0) changed_.notify_all();
  return false;
}

void ChunkQueue::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

}  // namespace penstock::transfer
