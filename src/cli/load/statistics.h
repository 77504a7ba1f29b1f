#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "base/clock.h"
#include "cli/load/answer.h"
#include "cli/load/histogram.h"
#include "cli/load/pacer.h"

namespace penstock::cli::load {

/// What became of one request. A value.
struct RequestRecord {
  TimePoint intended;
  TimePoint first;  // first content event; TimePoint::min(): none came
  TimePoint last;   // last content event
  TimePoint end;
  std::uint64_t events = 0;            // content events
  std::uint64_t events_in_window = 0;  // those before Window::until and not before Window::from
  Outcome outcome = Outcome::kOk;
  int status = 0;
  std::string message;
  std::optional<Usage> usage;

  [[nodiscard]] bool has_first() const noexcept { return first != TimePoint::min(); }
  /// As the server counted them; else the content events.
  [[nodiscard]] std::uint64_t output_tokens() const noexcept {
    return usage ? usage->output_tokens : events;
  }
};

/// What counts as good; zero: no limit.
struct Slo {
  Nanos ttft{};
  Nanos itl{};
  [[nodiscard]] bool any() const noexcept { return ttft > Nanos::zero() || itl > Nanos::zero(); }
};

/// Everything measured by one thread, and by merge() by all. The memory does not grow with the run.
///
/// Two views of one run:
/// - Requests, latencies and token totals are of the requests intended in the window, whenever
///   they end. So nothing slow is left out because the run was over before it.
/// - Rates are of what happened in the window, whichever request it belongs to. So neither the
///   filling nor the draining of the server dilutes them.
/// Latencies are of requests that ended well, but for ITL, which takes each gap as it comes.
class Statistics final {
 public:
  Statistics(const Window& window, const Slo& slo) : window_(window), slo_(slo) {}

  void on_send(TimePoint intended, TimePoint sent, bool waited_for_slot);
  /// A content event of a request intended at `intended`, `gap` after the one before.
  void on_gap(TimePoint intended, Nanos gap);
  void on_end(const RequestRecord& request);
  void merge(const Statistics& other);

  [[nodiscard]] bool in_window(TimePoint at) const noexcept {
    return at >= window_.from && at < window_.until;
  }

  static constexpr Nanos kLateSend = std::chrono::milliseconds(10);
  static constexpr std::size_t kStatusesMax = 32;  // distinct ones; above, only the total counts

  // Of the requests intended in the window.
  std::array<std::uint64_t, kOutcomes> ended{};
  std::map<int, std::uint64_t> failed_by_status;
  std::array<std::string, kOutcomes> sample_messages;  // the first of each kind, warm-up included
  Histogram ttft;                                      // intended to first content event
  Histogram itl;                                       // between content events
  Histogram tpot;          // (last - first content event) / (output tokens - 1), from 2 tokens
  Histogram end_to_end;    // intended to [DONE], or to the last byte of a whole answer
  std::uint64_t good = 0;  // ended well and within the SLO
  std::uint64_t prompt_tokens = 0;
  std::uint64_t cached_tokens = 0;
  std::uint64_t output_tokens = 0;
  std::uint64_t with_usage = 0;  // ended well and the server counted its tokens

  // Sends of the window.
  Histogram send_lag;            // intended to handed to the socket
  std::uint64_t late_sends = 0;  // more than kLateSend, and not for want of a slot
  std::uint64_t waited_for_slot = 0;

  // What happened in the window.
  std::uint64_t requests_in_window = 0;  // ended well
  std::uint64_t good_in_window = 0;
  double output_tokens_in_window = 0;  // a request's tokens are spread over its content events
  std::uint64_t prompt_tokens_in_window = 0;  // of requests whose first content came in it
  std::uint64_t failed_in_warm_up = 0;

 private:
  [[nodiscard]] bool is_good(const RequestRecord& request) const;
  void count_tokens(const RequestRecord& request);

  Window window_;
  Slo slo_;
};

/// The time of an output token after the first; absent below two tokens or without a stream.
std::optional<Nanos> time_per_output_token(const RequestRecord& request);

}  // namespace penstock::cli::load
