#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/engine.h"
#include "engine/remote/internal/pump.h"
#include "engine/remote/internal/rpc.h"
#include "engine/remote/internal/wire.h"
#include "tiers/store.h"

namespace penstock::engine {

/// A stream that a server fills when it has something to say, one message at a time. Deleted by the
/// pump, after its connection is over.
template <class Response>
class WatchCall : public grpc::ServerWriteReactor<Response>, public Watch {
 public:
  explicit WatchCall(Pump& pump) : pump_(pump) {}

  bool step(TimePoint now) final {
    if (over_.load(std::memory_order_acquire)) return false;
    if (finishing_ || writing_.load(std::memory_order_acquire)) return true;
    if (cancelled_.load(std::memory_order_relaxed)) {
      finishing_ = true;
      this->Finish(grpc::Status::CANCELLED);
    } else if (fill(now, response_)) {
      writing_.store(true, std::memory_order_relaxed);
      this->StartWrite(&response_);
    }
    return true;
  }

  void OnWriteDone(bool ok) final {
    if (!ok) cancelled_.store(true, std::memory_order_relaxed);
    writing_.store(false, std::memory_order_release);
    pump_.wake();
  }
  void OnCancel() final {
    cancelled_.store(true, std::memory_order_relaxed);
    pump_.wake();
  }
  void OnDone() final {
    Pump& pump = pump_;
    over_.store(true, std::memory_order_release);
    pump.wake();
  }

 protected:
  /// Puts the next message into `response`, which still holds the last one. False: there is none.
  virtual bool fill(TimePoint now, Response& response) = 0;

 private:
  Pump& pump_;
  std::atomic<bool> writing_ = false;
  std::atomic<bool> cancelled_ = false;
  std::atomic<bool> over_ = false;
  bool finishing_ = false;  // the pump's, as what follows
  Response response_;
};

/// The engine's load, whenever it has changed, and once a second so that it is known to be there,
/// then with what its lower tiers have done.
class LoadWatch final : public WatchCall<wire::ps::LoadReport> {
 public:
  LoadWatch(Pump& pump, const Engine& engine) : WatchCall(pump), engine_(engine) {}

 private:
  static constexpr Nanos kGap = std::chrono::milliseconds(2);  // at least, between two
  static constexpr Nanos kSign = std::chrono::seconds(1);      // at most

  bool fill(TimePoint now, wire::ps::LoadReport& response) override {
    if (last_at_ && now - *last_at_ < kGap) return false;
    LoadReport report = engine_.load();
    report.generation = ++generation_;
    LoadReport same = last_;
    same.generation = report.generation;
    if (last_at_ && same == report && now - *last_at_ < kSign) return false;
    last_ = report;
    last_at_ = now;
    response.Clear();
    wire::write(report, now, response);
    const TierState tiers = engine_.tier_state();
    if (!tiers.stats) return true;
    wire::write(tiers.costs, *response.mutable_tier_costs());
    if (tiers_at_ && now - *tiers_at_ < kSign) return true;
    tiers_at_ = now;
    wire::write(*tiers.stats, *response.mutable_tiers());
    return true;
  }

  const Engine& engine_;
  std::uint64_t generation_ = 0;
  LoadReport last_;
  std::optional<TimePoint> last_at_;
  std::optional<TimePoint> tiers_at_;
};

/// Where the blocks of a store lie.
class TierWatch final : public WatchCall<wire::ps::TierBlocks> {
 public:
  TierWatch(Pump& pump, const tiers::Store& store) : WatchCall(pump), follower_(store) {}

 private:
  static constexpr std::size_t kBlocksMax = 512;  // a message, found under the store's lock

  bool fill(TimePoint, wire::ps::TierBlocks& response) override {
    if (!follower_.read(kBlocksMax, news_)) return false;
    response.Clear();
    wire::write(news_, response);
    return true;
  }

  tiers::Store::Follower follower_;
  tiers::Store::Follower::News news_;
};

/// The engine's KV events from one on, after all that is held where those are no longer kept.
class KvWatch final : public WatchCall<wire::oe::SubscribeKvEventsResponse> {
 public:
  /// `next`: the first event wanted; 0: what is held first.
  KvWatch(Pump& pump, const kv::EventSource& source, std::uint64_t next)
      : WatchCall(pump), source_(source), next_(next) {}

 private:
  static constexpr std::size_t kEventsMax = 256;  // a message

  bool fill(TimePoint now, wire::oe::SubscribeKvEventsResponse& response) override;
  void add(std::span<const kv::Event> events, wire::oe::KvEventBatch& batch);

  const kv::EventSource& source_;
  std::uint64_t next_;
  std::vector<kv::Event> events_;
  std::vector<kv::Event> held_;  // not sent yet
  std::size_t held_sent_ = 0;
};

}  // namespace penstock::engine
