#include "cli/load/pacer.h"

#include <utility>

namespace penstock::cli::load {
namespace {

class OpenPacer final : public Pacer {
 public:
  OpenPacer(const OpenPacing& pacing, std::unique_ptr<Arrivals> arrivals)
      : pacing_(pacing), arrivals_(std::move(arrivals)), free_slots_(pacing.slots) {
    advance();
  }

  std::optional<Start> next(TimePoint now) override {
    if (!upcoming_ || upcoming_->intended > now) return std::nullopt;
    if (free_slots_ == 0) return std::nullopt;
    --free_slots_;
    Start start = *upcoming_;
    start.waited_for_slot = start.intended <= waited_until_;
    advance();
    return start;
  }

  void slot_free(TimePoint now, bool /*failed*/) override {
    // Whatever is due by now had to wait for this slot, or waits for one after it.
    if (free_slots_ == 0 && upcoming_ && upcoming_->intended <= now) waited_until_ = now;
    ++free_slots_;
  }

  [[nodiscard]] std::optional<TimePoint> wake_at() const override {
    if (!upcoming_ || free_slots_ == 0) return std::nullopt;
    return upcoming_->intended;
  }

  void close() override { upcoming_.reset(); }
  [[nodiscard]] bool closed() const override { return !upcoming_; }

 private:
  void advance() {
    upcoming_.reset();
    while (const std::optional<Nanos> at = arrivals_->next()) {
      const std::uint64_t session = sessions_++;
      const TimePoint intended = pacing_.window.begin + *at;
      if (intended >= pacing_.window.until) return;
      if (pacing_.window.measures(intended) && measured_++ == pacing_.measured_sessions_max) return;
      if (session % pacing_.threads != pacing_.thread) continue;
      upcoming_ = Start{.session = session, .intended = intended};
      return;
    }
  }

  const OpenPacing pacing_;
  const std::unique_ptr<Arrivals> arrivals_;
  std::size_t free_slots_;
  std::optional<Start> upcoming_;  // none: closed
  std::uint64_t sessions_ = 0;     // drawn so far, by all threads alike
  std::uint64_t measured_ = 0;
  TimePoint waited_until_ = TimePoint::min();
};

class ClosedPacer final : public Pacer {
 public:
  ClosedPacer(const ClosedPacing& pacing, std::atomic<std::uint64_t>& next_session)
      : pacing_(pacing), next_session_(next_session), free_slots_(pacing.slots) {}

  std::optional<Start> next(TimePoint now) override {
    while (!resting_until_.empty() && resting_until_.front() <= now) {
      resting_until_.pop_front();
      ++free_slots_;
    }
    if (now >= pacing_.window.until) closed_ = true;
    if (closed_ || free_slots_ == 0) return std::nullopt;
    --free_slots_;
    return Start{.session = next_session_.fetch_add(1, std::memory_order_relaxed), .intended = now};
  }

  void slot_free(TimePoint now, bool failed) override {
    if (failed) {
      resting_until_.push_back(now + kRestAfterFailure);
    } else {
      ++free_slots_;
    }
  }

  [[nodiscard]] std::optional<TimePoint> wake_at() const override {
    if (closed_ || free_slots_ > 0 || resting_until_.empty()) return std::nullopt;
    return resting_until_.front();
  }

  void close() override { closed_ = true; }
  [[nodiscard]] bool closed() const override { return closed_; }

 private:
  const ClosedPacing pacing_;
  std::atomic<std::uint64_t>& next_session_;
  std::size_t free_slots_;
  std::deque<TimePoint> resting_until_;  // ascending; with free_slots_ at most pacing_.slots
  bool closed_ = false;
};

}  // namespace

std::unique_ptr<Pacer> make_open_pacer(const OpenPacing& pacing,
                                       std::unique_ptr<Arrivals> arrivals) {
  return std::make_unique<OpenPacer>(pacing, std::move(arrivals));
}

std::unique_ptr<Pacer> make_closed_pacer(const ClosedPacing& pacing,
                                         std::atomic<std::uint64_t>& next_session) {
  return std::make_unique<ClosedPacer>(pacing, next_session);
}

}  // namespace penstock::cli::load
