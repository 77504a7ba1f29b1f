#include "cli/simulate_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

namespace penstock::cli {
namespace {

using Points = std::vector<std::pair<double, double>>;

struct Line {
  std::string_view name;
  std::string_view colour;
  Points points;
};

// Told apart by most kinds of colour blindness (Okabe and Ito).
constexpr std::array<std::string_view, 8> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                      "#e69f00", "#56b4e9", "#000000", "#999933"};

constexpr std::string_view kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>penstock simulate</title><style>
body{font:14px/1.4 system-ui,sans-serif;margin:1.5rem;max-width:75rem;color:#222;background:#fff}
h1{font-size:1.3rem}h2{font-size:1rem;margin:1.5rem 0 .3rem}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(30rem,1fr));gap:.5rem 1.5rem}
table{border-collapse:collapse}td,th{padding:.15rem .7rem;text-align:right}
td:first-child,th:first-child{text-align:left}tr+tr{border-top:1px solid #ddd}
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#444}
.axis{stroke:#888}.tick{stroke:#ddd}.line{fill:none;stroke-width:1.6}
</style></head><body>
)";

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string_view colour_of(std::size_t run) { return kColours[run % kColours.size()]; }

/// From values to a length, linear or logarithmic, with ticks at round values.
class Axis {
 public:
  Axis(double low, double high, bool log)
      : low_(low), high_(std::max(high, low + 1e-9)), log_(log) {}

  /// In [0, 1].
  [[nodiscard]] double at(double value) const {
    const double place = log_ ? std::log(std::max(value, low_) / low_) / std::log(high_ / low_)
                              : (value - low_) / (high_ - low_);
    return std::clamp(place, 0.0, 1.0);
  }
  [[nodiscard]] std::vector<double> ticks() const {
    std::vector<double> result;
    if (log_) {
      for (double power = std::pow(10, std::floor(std::log10(low_))); power <= high_; power *= 10) {
        for (const double digit : {1.0, 2.0, 5.0}) push_inside(result, power * digit);
      }
      return result;
    }
    const double rough = (high_ - low_) / 5;
    const double power = std::pow(10, std::floor(std::log10(rough)));
    double step = 10 * power;
    for (const double digit : {5.0, 2.0, 1.0}) {
      if (digit * power >= rough) step = digit * power;
    }
    for (double i = std::ceil(low_ / step); i * step <= high_; ++i) result.push_back(i * step);
    return result;
  }

 private:
  void push_inside(std::vector<double>& values, double value) const {
    if (value >= low_ && value <= high_) values.push_back(value);
  }

  double low_;
  double high_;
  bool log_;
};

constexpr double kWidth = 520;
constexpr double kHeight = 240;
constexpr double kLeft = 56;
constexpr double kRight = 12;
constexpr double kTop = 8;
constexpr double kBottom = 34;

double across(double share) { return kLeft + share * (kWidth - kLeft - kRight); }
double down(double share) { return kHeight - kBottom - share * (kHeight - kTop - kBottom); }

void append_axes(std::string& out, const Axis& x, const Axis& y, std::string_view x_label) {
  const auto to = std::back_inserter(out);
  for (const double value : x.ticks()) {
    const double at = across(x.at(value));
    fmt::format_to(to, R"(<path class="tick" d="M{:.1f} {}V{:.1f}"/>)", at, kTop, down(0));
    fmt::format_to(to, R"(<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{:g}</text>)", at,
                   down(0) + 14, value);
  }
  for (const double value : y.ticks()) {
    const double at = down(y.at(value));
    fmt::format_to(to, R"(<path class="tick" d="M{} {:.1f}H{:.1f}"/>)", kLeft, at, across(1));
    fmt::format_to(to, R"(<text x="{:.1f}" y="{:.1f}" text-anchor="end">{:g}</text>)", kLeft - 5,
                   at + 4, value);
  }
  fmt::format_to(to, R"(<path class="axis" d="M{} {}V{:.1f}H{:.1f}" fill="none"/>)", kLeft, kTop,
                 down(0), across(1));
  fmt::format_to(to, R"(<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)", across(0.5),
                 kHeight - 4, x_label);
}

void append_chart(std::string& out, std::string_view title, std::string_view x_label, bool x_log,
                  std::span<const Line> lines) {
  double x_low = INFINITY;
  double x_high = 0;
  double y_high = 0;
  for (const Line& line : lines) {
    for (const auto& [x, y] : line.points) {
      if (!x_log || x > 0) x_low = std::min(x_low, x);
      x_high = std::max(x_high, x);
      y_high = std::max(y_high, y);
    }
  }
  if (!std::isfinite(x_low)) return;  // nothing completed
  const Axis x(x_low, x_high, x_log);
  const Axis y(0, y_high > 0 ? y_high : 1, false);
  const auto to = std::back_inserter(out);
  fmt::format_to(to, "<div><h2>{}</h2><svg viewBox=\"0 0 {} {}\" role=\"img\">", title, kWidth,
                 kHeight);
  append_axes(out, x, y, x_label);
  for (const Line& line : lines) {
    fmt::format_to(to, R"(<polyline class="line" stroke="{}" points=")", line.colour);
    for (const auto& [px, py] : line.points) {
      fmt::format_to(to, "{:.1f},{:.1f} ", across(x.at(px)), down(y.at(py)));
    }
    fmt::format_to(to, R"("><title>{}</title></polyline>)", escaped(line.name));
  }
  out += "</svg></div>\n";
}

/// Shares of requests at or below each value, at no more than 400 places.
Points cumulative(std::span<const double> ascending) {
  constexpr std::size_t kPlaces = 400;
  Points points;
  const std::size_t places = std::min(kPlaces, ascending.size());
  for (std::size_t i = 1; i <= places; ++i) {
    const std::size_t rank = i * ascending.size() / places;
    points.emplace_back(ascending[rank - 1],
                        static_cast<double>(rank) / static_cast<double>(ascending.size()));
  }
  return points;
}

Points over_time(std::span<const double> values, double bucket_ms) {
  Points points;
  for (std::size_t i = 0; i < values.size(); ++i) {
    points.emplace_back((static_cast<double>(i) + 0.5) * bucket_ms / 1e3, values[i]);
  }
  return points;
}

/// A row a worker, a column a span of time; the darker, the busier.
void append_strip(std::string& out, const SimulatedRun& run) {
  constexpr std::size_t kRows = 64;
  constexpr double kRow = 12;
  const sim::Series& series = run.report.series;
  const std::size_t rows = std::min(kRows, series.busy.size());
  if (rows == 0 || series.busy.front().empty()) return;
  const auto to = std::back_inserter(out);
  fmt::format_to(to, "<h2>{}: share of time computing, by worker", escaped(run.report.policy));
  if (rows < series.busy.size()) {
    fmt::format_to(to, " (the first {} of {})", rows, series.busy.size());
  }
  constexpr double kStripWidth = 1080;
  const double height = kRow * static_cast<double>(rows) + 18;
  fmt::format_to(to, "</h2><svg viewBox=\"0 0 {} {}\" role=\"img\">", kStripWidth, height);
  const auto columns = static_cast<double>(series.busy.front().size());
  const double column = (kStripWidth - kLeft - kRight) / columns;
  for (std::size_t row = 0; row < rows; ++row) {
    const double top = kRow * static_cast<double>(row);
    fmt::format_to(to, R"(<text x="{}" y="{:.1f}" text-anchor="end">{}</text>)", kLeft - 5,
                   top + 9.5, row);
    for (std::size_t i = 0; i < series.busy[row].size(); ++i) {
      const double busy = std::clamp(series.busy[row][i], 0.0, 1.0);
      fmt::format_to(to,
                     "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" "
                     "fill=\"#0b3c5d\" fill-opacity=\"{:.2f}\"/>",
                     kLeft + column * static_cast<double>(i), top, column + 0.2, kRow - 1, busy);
    }
  }
  fmt::format_to(to, R"(<text x="{}" y="{:.1f}">0 s</text>)", kLeft, height - 5);
  fmt::format_to(to, R"(<text x="{}" y="{:.1f}" text-anchor="end">{:.0f} s</text></svg>)",
                 kStripWidth - kRight, height - 5, columns * series.bucket_ms / 1e3);
  out += '\n';
}

void append_table(std::string& out, std::span<const SimulatedRun> runs) {
  const auto to = std::back_inserter(out);
  out +=
      "<table><tr><th>policy</th><th>TTFT mean</th><th>p50</th><th>p99</th><th>TPOT mean</th>"
      "<th>p99</th><th>hit %</th><th>tokens/s</th><th>good %</th></tr>\n";
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const sim::Report& r = runs[i].report;
    fmt::format_to(to,
                   "<tr><td><b style=\"color:{}\">&#9632;</b> {}</td><td>{:.1f}</td><td>{:.1f}</td>"
                   "<td>{:.0f}</td><td>{:.2f}</td><td>{:.1f}</td><td>{:.1f}</td><td>{:.0f}</td>"
                   "<td>{:.1f}</td></tr>\n",
                   colour_of(i), escaped(r.policy), r.ttft_ms.mean, r.ttft_ms.p50, r.ttft_ms.p99,
                   r.tpot_ms.mean, r.tpot_ms.p99, 100 * r.prefix_hit_ratio, r.output_tokens_per_s,
                   100 * r.goodput_ratio);
  }
  out += "</table>\n";
}

}  // namespace

std::string simulated_plot(std::span<const SimulatedRun> runs, const sim::Setup& setup,
                           std::string_view trace) {
  std::string out(kHead);
  fmt::format_to(std::back_inserter(out), "<h1>{}: {}</h1>\n", escaped(trace),
                 escaped(described(setup)));
  append_table(out, runs);
  const auto lines = [&](const auto& points_of) {
    std::vector<Line> result;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const sim::Report& report = runs[i].report;
      result.push_back({report.policy, colour_of(i), points_of(report.series)});
    }
    return result;
  };
  out += "<div class=\"grid\">\n";
  append_chart(out, "Time to first token: share of requests", "ms", true,
               lines([](const sim::Series& s) { return cumulative(s.ttft_ms); }));
  append_chart(out, "Time per output token: share of requests", "ms", true,
               lines([](const sim::Series& s) { return cumulative(s.tpot_ms); }));
  append_chart(out, "Output tokens per second", "s", false,
               lines([](const sim::Series& s) { return over_time(s.tokens_per_s, s.bucket_ms); }));
  append_chart(out, "Requests that wait for their first token", "s", false,
               lines([](const sim::Series& s) { return over_time(s.waiting, s.bucket_ms); }));
  out += "</div>\n";
  for (const SimulatedRun& run : runs) append_strip(out, run);
  out += "</body></html>\n";
  return out;
}

}  // namespace penstock::cli
