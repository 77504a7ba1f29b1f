#include "oracle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <thread>
#include <vector>

#include "../must.h"
#include "base/rng.h"
#include "router/policy.h"
#include "sim/simulation.h"

namespace penstock::bench {
namespace {

using kv::Slot;
using router::Choice;
using router::Question;

constexpr std::size_t kRequests = 1000;
constexpr std::size_t kWindow = 100;  // searched at a time
constexpr std::size_t kBefore = 150;  // simulated before it, to fill caches and queues
constexpr std::size_t kAfter = 60;    // and after it, to see what it does to others

/// Where each request runs, and its place among those that come together.
struct Placing {
  Slot slot = 0;
  std::uint32_t rank = 0;
};

/// Writes down what `latency` chooses.
class Recorder final : public router::Policy {
 public:
  explicit Recorder(std::vector<Placing>& placings) : placings_(placings) {}
  [[nodiscard]] Needs needs() const noexcept override { return inner_->needs(); }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override { return {}; }
  [[nodiscard]] bool plans() const noexcept override { return inner_->plans(); }
  Choice pick(const Question& q, Rng& rng, router::Explanation* why) override {
    const Choice choice = inner_->pick(q, rng, why);
    placings_[q.ordinal].slot = choice.slot;
    return choice;
  }
  void plan(std::span<const Question> questions, Rng& rng, std::span<Choice> choices,
            std::span<std::uint32_t> order) override {
    inner_->plan(questions, rng, choices, order);
    for (std::uint32_t rank = 0; rank < order.size(); ++rank) {
      placings_[questions[order[rank]].ordinal] = {choices[order[rank]].slot, rank};
    }
  }
  void finished(double ttft_ms, double decode_ms, std::uint32_t tokens) noexcept override {
    inner_->finished(ttft_ms, decode_ms, tokens);
  }

 private:
  std::unique_ptr<router::Policy> inner_ = router::find_policy("latency")->make();
  std::vector<Placing>& placings_;
};

/// Plays what is written down.
class Player final : public router::Policy {
 public:
  explicit Player(std::span<const Placing> placings) : placings_(placings) {}
  [[nodiscard]] Needs needs() const noexcept override { return {}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override { return {}; }
  [[nodiscard]] bool plans() const noexcept override { return true; }
  Choice pick(const Question& q, Rng&, router::Explanation*) override {
    return {.slot = placings_[q.ordinal].slot, .rule = "written"};
  }
  void plan(std::span<const Question> questions, Rng& rng, std::span<Choice> choices,
            std::span<std::uint32_t> order) override {
    Policy::plan(questions, rng, choices, order);
    std::ranges::stable_sort(order, {},
                             [&](std::uint32_t i) { return placings_[questions[i].ordinal].rank; });
  }

 private:
  std::span<const Placing> placings_;
};

sim::Report play(const sim::Trace& trace, const sim::Setup& setup,
                 std::span<const Placing> placings) {
  return must(sim::simulate(trace, setup, [&] { return std::make_unique<Player>(placings); }));
}

struct Fleet {
  std::string_view name;
  sim::Setup setup;
  const sim::Trace* trace = nullptr;
  bool tpot_only = false;
};

/// Mean TTFT and TPOT in sum, or TPOT alone, each relative to `to`.
double score(const sim::Report& report, const sim::Report& to, bool tpot_only) {
  const double ttft = report.ttft_ms.mean / to.ttft_ms.mean;
  return (tpot_only ? 0 : ttft) + report.tpot_ms.mean / to.tpot_ms.mean;
}

sim::Trace slice(const sim::Trace& trace, std::size_t begin, std::size_t end) {
  sim::Trace part = trace;
  part.requests.assign(trace.requests.begin() + static_cast<std::ptrdiff_t>(begin),
                       trace.requests.begin() + static_cast<std::ptrdiff_t>(end));
  return part;
}

/// Another worker for a request, or two that change places.
void change(std::span<Placing> window, std::uint32_t workers, Rng& rng) {
  const auto count = static_cast<std::uint32_t>(window.size());
  Placing& one = window[rng.below(count)];
  if (rng.below(2) == 0) {
    one.slot = (one.slot + 1 + rng.below(workers - 1)) % workers;
    return;
  }
  // Neighbours mostly come together.
  const auto at = static_cast<std::uint32_t>(&one - window.data());
  Placing& other = window[std::min(count - 1, at + 1 + rng.below(8))];
  if (rng.below(2) == 0) {
    std::swap(one.slot, other.slot);
  } else {
    std::swap(one.rank, other.rank);
  }
}

/// Improves the placings of the window that begins at `begin`, as seen from the others' in `all`.
std::vector<Placing> search(const sim::Trace& trace, const Fleet& fleet,
                            std::span<const Placing> all, std::size_t begin,
                            std::uint32_t proposals) {
  const sim::Setup& setup = fleet.setup;
  const std::size_t from = begin - std::min(begin, kBefore);
  const std::size_t to = std::min(all.size(), begin + kWindow + kAfter);
  const sim::Trace part = slice(trace, from, to);
  std::vector<Placing> best(all.begin() + static_cast<std::ptrdiff_t>(from),
                            all.begin() + static_cast<std::ptrdiff_t>(to));
  const sim::Report start = play(part, setup, best);
  double least = score(start, start, fleet.tpot_only);
  Rng rng(begin + 1);
  for (std::uint32_t i = 0; i < proposals; ++i) {
    std::vector<Placing> tried = best;
    change(std::span(tried).subspan(begin - from, std::min(kWindow, all.size() - begin)),
           setup.workers, rng);
    const double reached = score(play(part, setup, tried), start, fleet.tpot_only);
    if (reached >= least) continue;
    least = reached;
    best = std::move(tried);
  }
  const auto first = best.begin() + static_cast<std::ptrdiff_t>(begin - from);
  return {first, first + static_cast<std::ptrdiff_t>(std::min(kWindow, all.size() - begin))};
}

/// All windows, every other one at the same time: their neighbours then stand still.
void search_all(const sim::Trace& trace, const Fleet& fleet, std::vector<Placing>& placings,
                std::uint32_t proposals) {
  const std::size_t windows = (placings.size() + kWindow - 1) / kWindow;
  for (const std::size_t parity : {0, 1}) {
    const std::vector<Placing> before = placings;
    const auto work = [&](std::size_t first) {
      for (std::size_t w = first; w < windows; w += 4) {
        const std::vector<Placing> found = search(trace, fleet, before, w * kWindow,
                                                  proposals / static_cast<std::uint32_t>(windows));
        std::ranges::copy(found, placings.begin() + static_cast<std::ptrdiff_t>(w * kWindow));
        fmt::print(stderr, "\roracle: window {} of {} ", w + 1, windows);
      }
    };
    const std::jthread other(work, parity + 2);
    work(parity);
  }
  fmt::print(stderr, "\r{:<30}\r", "");
}

}  // namespace

void print_oracle(const sim::Trace& conversation, const sim::Trace& bursts,
                  std::uint32_t proposals) {
  const Fleet fleets[] = {
      {"conv 8w", {.workers = 8}, &conversation},
      {"conv 4w", {.workers = 4}, &conversation},
      {"conv 4w 2x", {.workers = 4, .speed = 2}, &conversation},
      {"bursts 4w", {.workers = 4}, &bursts},
      {"bursts 4w, TPOT alone counts", {.workers = 4}, &bursts, true},
  };
  fmt::print("\nThe first {} requests, {} changes tried a fleet.\n\n", kRequests, proposals);
  fmt::print("| fleet | `latency` TTFT / TPOT ms | with the future known | `latency` over it |\n");
  fmt::print("|---|--:|--:|--:|\n");
  for (const Fleet& fleet : fleets) {
    const sim::Trace trace =
        slice(*fleet.trace, 0, std::min(kRequests, fleet.trace->requests.size()));
    std::vector<Placing> placings(trace.requests.size());
    const sim::Report ours = must(
        sim::simulate(trace, fleet.setup, [&] { return std::make_unique<Recorder>(placings); }));
    search_all(trace, fleet, placings, proposals);
    const sim::Report found = play(trace, fleet.setup, placings);
    fmt::print("| {} | {:.1f} / {:.2f} | {:.1f} / {:.2f} | {:+.1f} / {:+.1f} % |\n", fleet.name,
               ours.ttft_ms.mean, ours.tpot_ms.mean, found.ttft_ms.mean, found.tpot_ms.mean,
               100 * (ours.ttft_ms.mean / found.ttft_ms.mean - 1),
               100 * (ours.tpot_ms.mean / found.tpot_ms.mean - 1));
    std::fflush(stdout);
  }
}

}  // namespace penstock::bench
