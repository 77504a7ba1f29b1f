#include "transfer/peer.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "transfer/host_path.h"

namespace penstock::transfer {
namespace {

constexpr std::uint64_t kProbeEvery = 128;  // pulls: one goes by the path least used
constexpr auto kDownFor = std::chrono::seconds(1);

}  // namespace

std::unique_ptr<Peer> Peer::local(Arena& arena, CopyPool& pool, const Clock& clock) {
  class LocalPeer final : public Peer {
   public:
    LocalPeer(Arena& arena, CopyPool& pool, const Clock& clock)
        : Peer(arena.layout(), arena.table().epoch(), clock) {
      const HostSource source{arena.layout(), &arena.table(), &arena.local_readers(), nullptr,
                              &clock};
      add_path(std::make_unique<MappedPath>(PathKind::kLocal, source, arena.memory().data(),
                                            pool.queue()));
    }
    ~LocalPeer() override { shut(); }
  };
  return std::make_unique<LocalPeer>(arena, pool, clock);
}

Peer::~Peer() { shut(); }

void Peer::shut() noexcept {
  gone_.store(true, std::memory_order_release);
  while (in_flight_.load(std::memory_order_acquire) > 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

void Peer::add_path(std::unique_ptr<Path> path) {
  paths_.push_back(std::move(path));
  standings_.push_back(std::make_unique<Standing>());
}

Result<void> Peer::check(const Pull& pull, const Arena& to) const {
  const std::size_t blocks = pull.take.size();
  if (pull.to.size() != blocks || pull.keys.size() != blocks || pull.status.size() != blocks ||
      blocks > UINT32_MAX) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} blocks to take, {} slots, {} keys, {} statuses", blocks,
                            pull.to.size(), pull.keys.size(), pull.status.size()));
  }
  const auto ends = pull.range_ends;
  if (!ends.empty() &&
      (ends.size() > Transfer::kRangesMax || ends.front() == 0 || ends.back() != layout_.parts ||
       std::ranges::adjacent_find(ends, std::greater_equal<>()) != ends.end())) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} layer ranges: their ends must rise to {}, at most {} of them",
                            ends.size(), layout_.parts, Transfer::kRangesMax));
  }
  if (auto ok = check_plan(layout_, to.layout()); !ok) return ok;
  if (!alive()) return fail(Code::kUnavailable, "the owner of the blocks is gone");
  return {};
}

Path* Peer::choose(const Transfer& transfer) noexcept {
  const std::uint64_t bytes = layout_.block_bytes() * transfer.pull().take.size();
  const std::int64_t now = clock_.now().time_since_epoch().count();
  const bool probe = pulls_.load(std::memory_order_relaxed) % kProbeEvery == kProbeEvery - 1;
  Path* best = nullptr;
  double best_cost = 0;
  for (std::size_t i = 0; i < paths_.size(); ++i) {
    if ((transfer.tried_paths_ >> i & 1) != 0) continue;
    Path& path = *paths_[i];
    double cost =
        probe ? static_cast<double>(path.meter().attempts()) : path.meter().predict_ns(bytes);
    if (now < standings_[i]->down_until_ns.load(std::memory_order_relaxed)) cost += 1e18;
    if (best == nullptr || cost < best_cost) {
      best = &path;
      best_cost = cost;
    }
  }
  return best;
}

Result<void> Peer::pull(Transfer& transfer, const Pull& pull, Arena& to) {
  if (auto ok = check(pull, to); !ok) return ok;
  std::ranges::fill(pull.status, BlockStatus::kPending);
  transfer.begin(pull, to);
  transfer.peer_ = this;
  transfer.clock_ = &clock_;
  transfer.submitted_ = clock_.now();
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  if (pull.take.empty()) {
    in_flight_.fetch_sub(1, std::memory_order_release);
    transfer.release();
    return {};
  }
  transfer.path_ = choose(transfer);
  pulls_.fetch_add(1, std::memory_order_relaxed);
  auto queued = transfer.path_->queue().push(transfer);
  if (!queued) {
    in_flight_.fetch_sub(1, std::memory_order_release);
    transfer.state_.store(Transfer::State::kReleased, std::memory_order_release);
  }
  return queued;
}

bool Peer::retry(Transfer& transfer) noexcept {
  for (std::size_t i = 0; i < paths_.size(); ++i) {
    if (paths_[i].get() == transfer.path_) transfer.tried_paths_ |= 1U << i;
  }
  Path* other = alive() ? choose(transfer) : nullptr;
  if (other == nullptr) return false;
  const auto again = [](BlockStatus status) {
    return status == BlockStatus::kPathFailed || status == BlockStatus::kCorrupt;
  };
  std::ranges::replace_if(transfer.pull().status, again, BlockStatus::kPending);
  transfer.path_ = other;
  if (other->queue().push(transfer)) return true;
  std::ranges::replace(transfer.pull().status, BlockStatus::kPending, BlockStatus::kPathFailed);
  return false;
}

void Peer::finished(Transfer& transfer) noexcept {
  std::array<std::uint64_t, kBlockStatuses> counts{};
  const auto count = [&](BlockStatus status) -> std::uint64_t& {
    return counts[static_cast<std::size_t>(status)];
  };
  if (transfer.missed_ || transfer.tried_paths_ != 0) {
    for (const BlockStatus status : transfer.pull().status) ++count(status);
  } else {  // the usual end, and nothing that takes time with the number of blocks
    count(BlockStatus::kArrived) = transfer.pull().status.size();
  }
  const std::uint64_t failed = count(BlockStatus::kPathFailed) + count(BlockStatus::kCorrupt);
  const bool well = failed == 0;
  const std::uint64_t arrived = count(BlockStatus::kArrived) - transfer.arrived_;
  count(BlockStatus::kArrived) = arrived;
  const TimePoint now = clock_.now();
  transfer.arrived_ += arrived;
  transfer.finished_ = now;
  if (well) transfer.tell();  // who waits for it need not wait for the books
  const PathTraffic attempt{.pulls = 1,
                            .retries = transfer.tried_paths_ != 0 ? 1U : 0U,
                            .blocks = arrived,
                            .failed_blocks = failed,
                            .bytes = arrived * layout_.block_bytes(),
                            .took = now - transfer.started_};
  transfer.path_->meter().record(counts, attempt.bytes, transfer.started_ - transfer.submitted_,
                                 attempt.took);
  traffic_.add(transfer.path_->kind(), attempt);
  if (transfer.traffic != nullptr) transfer.traffic->add(transfer.path_->kind(), attempt);
  if (count(BlockStatus::kPathFailed) > 0) {
    for (std::size_t i = 0; i < paths_.size(); ++i) {
      if (paths_[i].get() != transfer.path_) continue;
      standings_[i]->down_until_ns.store((now + kDownFor).time_since_epoch().count(),
                                         std::memory_order_relaxed);
    }
  }
  if (!well && retry(transfer)) return;
  in_flight_.fetch_sub(1, std::memory_order_release);
  transfer.release();
}

}  // namespace penstock::transfer
