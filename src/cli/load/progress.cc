#include "cli/load/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace penstock::cli::load {
namespace {

constexpr int kBarWidth = 24;

double fraction_of(double part, double whole) {
  return whole > 0 ? std::clamp(part / whole, 0.0, 1.0) : 1.0;
}

}  // namespace

double Progress::fraction(TimePoint now) const {
  if (now < window_.from) {
    return fraction_of(to_seconds(now - window_.begin), to_seconds(options_.warm_up));
  }
  double fraction = 0;
  if (options_.duration) {
    fraction = fraction_of(to_seconds(now - window_.from), to_seconds(*options_.duration));
  }
  if (options_.requests) {
    const auto answered =
        static_cast<double>(live_.measured.load()) - static_cast<double>(live_.in_flight());
    fraction = std::max(fraction, fraction_of(answered, static_cast<double>(*options_.requests)));
  }
  return fraction;
}

std::string Progress::line(TimePoint now) {
  recent_.push_back({.at = now,
                     .ended = live_.ended.load(),
                     .content_events = live_.content_events.load(),
                     .ttft_count = live_.ttft_count.load(),
                     .ttft_sum_ns = live_.ttft_sum_ns.load()});
  if (recent_.size() > kLines) recent_.pop_front();
  const Snapshot from = recent_.size() > 1 ? recent_.front() : Snapshot{.at = window_.begin};
  const Snapshot& to = recent_.back();
  const double time_s = std::max(to_seconds(to.at - from.at), 1e-9);
  const std::uint64_t ttft_count = to.ttft_count - from.ttft_count;

  const double done = fraction(now);
  const int filled = static_cast<int>(done * kBarWidth);
  std::string line =
      fmt::format("{} [{:#<{}}{:.<{}}] {:3.0f} %  {:.1f} requests/s  {:.0f} tokens/s",
                  now < window_.from    ? "warm-up"
                  : now < window_.until ? "measure"
                                        : "finish ",
                  "", filled, "", kBarWidth - filled, 100 * done,
                  static_cast<double>(to.ended - from.ended) / time_s,
                  static_cast<double>(to.content_events - from.content_events) / time_s);
  if (ttft_count > 0) {
    line += fmt::format("  TTFT {:.1f} ms", static_cast<double>(to.ttft_sum_ns - from.ttft_sum_ns) /
                                                static_cast<double>(ttft_count) / 1e6);
  }
  line += fmt::format("  {} in flight  {} failed", live_.in_flight(), live_.failed.load());
  const std::size_t covered = std::exchange(width_, line.size());
  if (line.size() < covered) line.resize(covered, ' ');
  return line;
}

}  // namespace penstock::cli::load
