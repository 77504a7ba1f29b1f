#include "cli/top/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace penstock::cli::top {
namespace {

constexpr std::string_view kNone = "-";

std::string percent(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return std::string(kNone);
  return fmt::format("{:.0f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string ms(double value) {
  return value < 0 ? std::string(kNone) : fmt::format("{:.{}f} ms", value, value < 10 ? 1 : 0);
}

/// Per second, of a total that was `before` so long ago.
std::string rate(double now, double before, double seconds) {
  if (seconds <= 0) return std::string(kNone);
  const double value = std::max(0.0, now - before) / seconds;
  return fmt::format("{:.{}f}", value, value < 10 ? 1 : 0);
}

std::string bar(std::uint64_t part, std::uint64_t whole) {
  constexpr std::uint64_t kWidth = 10;
  const std::uint64_t filled =
      whole == 0 ? 0 : std::min(kWidth, (part * kWidth + whole / 2) / whole);
  return fmt::format("{:#<{}}{:.<{}}", "", filled, "", kWidth - filled);
}

/// Green for what is well, yellow for what is on its way, red for the rest.
std::string_view colour_of(std::string_view word) {
  if (word == "ready" || word == "exact") return "\x1b[32m";
  if (word == "starting" || word == "draining" || word == "catching_up" || word == "load_only") {
    return "\x1b[33m";
  }
  return "\x1b[31m";
}

class Lines final {
 public:
  explicit Lines(const FrameStyle& style) : style_(style) {}

  /// Adds to the line, `width` columns wide, aligned as fmt's `align` says.
  void cell(std::string_view text, std::uint32_t width, char align, bool coloured = false) {
    if (column_ >= style_.columns) return;
    std::string padded =
        align == '<' ? fmt::format("{:<{}}", text, width) : fmt::format("{:>{}}", text, width);
    padded.resize(std::min<std::size_t>(padded.size(), style_.columns - column_));
    column_ += static_cast<std::uint32_t>(padded.size());
    const bool paint = coloured && style_.colour;
    text_ += fmt::format("{}{}{}", paint ? colour_of(text) : "", padded, paint ? "\x1b[0m" : "");
  }
  void end() {
    while (text_.ends_with(' ')) text_.pop_back();
    text_ += '\n';
    column_ = 0;
  }
  void line(std::string_view text) {
    cell(text, 0, '<');
    end();
  }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  const FrameStyle style_;
  std::uint32_t column_ = 0;
  std::string text_;
};

const WorkerSample* same_worker(const Sample* sample, std::uint64_t worker) {
  if (sample == nullptr) return nullptr;
  const auto found = std::ranges::find(sample->workers, worker, &WorkerSample::worker);
  return found == sample->workers.end() ? nullptr : &*found;
}

void add_header(Lines& lines) {
  lines.cell("worker", 6, '>');
  lines.cell("  ", 2, '<');
  lines.cell("state", 9, '<');
  lines.cell("trust", 12, '<');
  lines.cell("running", 7, '>');
  lines.cell("waiting", 8, '>');
  lines.cell("prefill", 9, '>');
  lines.cell("KV in use", 18, '>');
  lines.cell("cached", 8, '>');
  lines.cell("hits", 7, '>');
  lines.cell("tokens/s", 9, '>');
  lines.cell("forecasts", 10, '>');
  lines.end();
}

void add_worker(Lines& lines, const WorkerSample& w, const WorkerSample* before, double seconds) {
  lines.cell(fmt::format("{}", w.worker), 6, '>');
  lines.cell("  ", 2, '<');
  lines.cell(w.state, 9, '<', true);
  lines.cell(w.trust, 12, '<', true);
  lines.cell(fmt::format("{}", w.running), 7, '>');
  lines.cell(fmt::format("{}", w.waiting), 8, '>');
  lines.cell(fmt::format("{}", w.prefill_tokens_left), 9, '>');
  lines.cell(fmt::format("  {} {:>5}", bar(w.kv_blocks_active, w.kv_blocks_active_max),
                         percent(w.kv_blocks_active, w.kv_blocks_active_max)),
             18, '>');
  lines.cell(percent(w.kv_blocks, w.kv_blocks_max), 8, '>');
  lines.cell(percent(w.cached_tokens, w.prompt_tokens), 7, '>');
  lines.cell(before == nullptr ? std::string(kNone)
                               : rate(static_cast<double>(w.completion_tokens),
                                      static_cast<double>(before->completion_tokens), seconds),
             9, '>');
  lines.cell(percent(w.forecasts_equal, w.forecasts), 10, '>');
  if (!w.address.empty()) lines.cell(fmt::format("  {}", w.address), 0, '<');
  if (!w.doubt.empty()) lines.cell(fmt::format("  {}", w.doubt), 0, '<');
  if (w.role == "prefill" || w.role == "decode") lines.cell(fmt::format("  {}", w.role), 0, '<');
  if (w.kv_leases > 0) lines.cell(fmt::format("  keeps {} prompts", w.kv_leases), 0, '<');
  if (w.kv_blocks_fetched + w.kv_blocks_missed > 0) {
    lines.cell(fmt::format("  fetched {} blocks ({} MiB, {} ms), missed {}", w.kv_blocks_fetched,
                           w.kv_bytes_fetched >> 20, w.kv_fetch_ms, w.kv_blocks_missed),
               0, '<');
  }
  if (w.errors > 0) lines.cell(fmt::format("  {} errors", w.errors), 0, '<');
  lines.end();
}

}  // namespace

std::string frame(const std::string& url, const Sample& now, const Sample* before,
                  const FrameStyle& style) {
  const double seconds = before == nullptr ? 0 : to_seconds(now.at - before->at);
  // Nothing began in the last second? Then the last ones there were are of more use.
  HistogramSample ttft = before == nullptr ? now.ttft : now.ttft.since(before->ttft);
  if (ttft.count() <= 0) ttft = now.ttft;
  HistogramSample gap = before == nullptr ? now.gap : now.gap.since(before->gap);
  if (gap.count() <= 0) gap = now.gap;
  const auto per_second = [&](double Sample::* total) {
    return rate(now.*total, before == nullptr ? 0 : before->*total, seconds);
  };

  Lines lines(style);
  lines.line(fmt::format("{}   model {}   policy {}   workers {}", url, now.model, now.policy,
                         now.workers.size()));
  lines.line(fmt::format("in flight {:.0f}   requests/s {}   tokens/s {}   shed {:.0f}{}",
                         now.in_flight, per_second(&Sample::requests),
                         per_second(&Sample::completion_tokens), now.shed,
                         now.split > 0 ? fmt::format("   split {:.0f}", now.split) : ""));
  lines.line(fmt::format("TTFT p50 {}  p90 {}  p99 {}   ITL p50 {}  p90 {}  p99 {}",
                         ms(ttft.quantile_ms(0.5)), ms(ttft.quantile_ms(0.9)),
                         ms(ttft.quantile_ms(0.99)), ms(gap.quantile_ms(0.5)),
                         ms(gap.quantile_ms(0.9)), ms(gap.quantile_ms(0.99))));
  lines.line("");
  add_header(lines);
  for (const WorkerSample& worker : now.workers) {
    add_worker(lines, worker, same_worker(before, worker.worker), seconds);
  }
  return lines.take();
}

}  // namespace penstock::cli::top
