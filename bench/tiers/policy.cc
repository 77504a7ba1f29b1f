// What tiers keep of a trace, beside a cache of as many blocks that knows the future: workers with
// host memory and disk behind their KV, simulated with the store's own rules. Simulated results are
// equal on every machine.
//
//   tiers_policy TRACE [REQUESTS]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <queue>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../must.h"
#include "base/log.h"
#include "sim/content.h"
#include "sim/simulation.h"
#include "sim/trace_readers.h"

namespace penstock::bench {
namespace {

constexpr std::uint32_t kBlockTokens = 64;
constexpr std::uint32_t kNever = UINT32_MAX;

/// The trace as one cache would see it: the blocks of each prompt, in order of arrival.
class Askings final {
 public:
  explicit Askings(const sim::Trace& trace) {
    std::unordered_map<kv::BlockHash, std::uint32_t> ids;
    std::vector<kv::BlockHash> keys;
    for (const sim::TraceRequest& request : trace.requests) {
      sim::keys_of(trace, request, kBlockTokens, keys);
      begins_.push_back(blocks_.size());
      tokens_.push_back(request.input_tokens);
      for (const kv::BlockHash& key : keys) {
        blocks_.push_back(
            ids.try_emplace(key, static_cast<std::uint32_t>(ids.size())).first->second);
      }
    }
    begins_.push_back(blocks_.size());
    distinct_ = ids.size();
    next_.resize(blocks_.size());
    std::vector<std::uint32_t> seen(distinct_, kNever);
    for (std::size_t request = tokens_.size(); request-- > 0;) {
      for (std::size_t at = begins_[request]; at < begins_[request + 1]; ++at) {
        next_[at] = std::exchange(seen[blocks_[at]], static_cast<std::uint32_t>(request));
      }
    }
  }
  [[nodiscard]] std::size_t distinct() const noexcept { return distinct_; }

  /// The most of all prompt tokens that `capacity` blocks can give (Belady's MIN): what is asked
  /// for last goes first, of one prompt's blocks the last. A chain so never loses its middle.
  [[nodiscard]] double best_hit_ratio(std::size_t capacity) const {
    using Use = std::tuple<std::uint32_t, std::size_t, std::uint32_t>;  // next, position, block
    std::priority_queue<Use> latest;                                    // some are outdated
    std::vector<std::uint32_t> held(distinct_, kNever);                 // until its next use
    std::size_t count = 0;
    std::uint64_t hit = 0;
    std::uint64_t all = 0;
    for (std::size_t request = 0; request < tokens_.size(); ++request) {
      const std::size_t begin = begins_[request];
      const std::size_t blocks = begins_[request + 1] - begin;
      std::size_t found = 0;
      while (found < blocks && held[blocks_[begin + found]] != kNever) ++found;
      // An engine computes at least the last token.
      hit += std::min<std::uint64_t>(found, (tokens_[request] - 1) / kBlockTokens) * kBlockTokens;
      all += tokens_[request];
      for (std::size_t i = 0; i < blocks; ++i) {
        const std::uint32_t block = blocks_[begin + i];
        const std::uint32_t next = next_[begin + i];
        if (held[block] != kNever) --count;
        held[block] = next;
        if (next == kNever) continue;
        ++count;
        latest.emplace(next, i, block);
      }
      while (count > capacity) {
        const auto [next, position, block] = latest.top();
        latest.pop();
        if (held[block] != next) continue;
        held[block] = kNever;
        --count;
      }
    }
    return static_cast<double>(hit) / static_cast<double>(all);
  }

 private:
  std::vector<std::size_t> begins_;    // of each request's blocks, and the end
  std::vector<std::uint32_t> tokens_;  // of each request's prompt
  std::vector<std::uint32_t> blocks_;
  std::vector<std::uint32_t> next_;  // request that asks for it next
  std::size_t distinct_ = 0;
};

const char* loads(const sim::Tiers& tiers) {
  if (!tiers.any()) return "never";
  return tiers.recompute_weight == 1 ? "decided" : "always";
}

void print_row(const sim::Trace& trace, const Askings& askings, sim::Setup setup) {
  setup.policy = "latency";
  setup.model.block_tokens = kBlockTokens;
  const sim::Report run = must(sim::simulate(trace, setup));
  const std::size_t each =
      std::size_t{setup.model.kv_blocks} + setup.tiers.host_blocks + setup.tiers.disk_blocks;
  const double best = askings.best_hit_ratio(setup.workers * each);
  fmt::print(
      "| {} | {} | {} | {} | {:g} | {} | {:.1f} | {:.1f} | {:.1f} | {:.1f} | {:.2f} | {:.0f} | "
      "{:.0f} | {:.0f} |\n",
      setup.workers, setup.model.kv_blocks, setup.tiers.host_blocks, setup.tiers.disk_blocks,
      setup.tiers.disk_bytes_per_ns, loads(setup.tiers), 100 * run.prefix_hit_ratio,
      100 * run.host_hit_ratio, 100 * run.disk_hit_ratio, 100 * best, run.prefix_hit_ratio / best,
      run.disk_bytes_per_token, run.ttft_ms.mean, run.ttft_ms.p99);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  log::set_level(log::Level::kError);
  std::ifstream file(argc > 1 ? argv[1] : "");
  const Result<sim::Trace> trace =
      sim::read_trace(file, argc > 1 ? argv[1] : "TRACE",
                      {.block_tokens = 512,
                       .requests_max = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : SIZE_MAX});
  if (!trace) {
    fmt::print(stderr, "tiers_policy TRACE [REQUESTS]: {}\n", trace.error().message);
    return 2;
  }
  const Askings askings(*trace);
  fmt::print(
      "{} requests, {} distinct blocks of {} tokens; no cache can hit more than {:.1f} % of "
      "prompt tokens\n\n"
      "| workers | KV blocks | host | disk | disk GB/s | loads | hit % | from host | from disk | "
      "best % | of best | bytes written a token | TTFT ms | p99 |\n"
      "|--:|--:|--:|--:|--:|--|--:|--:|--:|--:|--:|--:|--:|--:|\n",
      trace->requests.size(), askings.distinct(), kBlockTokens,
      100 * askings.best_hit_ratio(askings.distinct()));
  const auto row = [&](std::uint32_t workers, sim::Tiers tiers) {
    sim::Setup setup{.workers = workers, .tiers = tiers, .speed = workers / 8.0};
    setup.model.kv_blocks = 8192;
    print_row(*trace, askings, setup);
  };
  for (const std::uint32_t workers : {1U, 8U}) {
    const std::uint32_t share = 65'536 / workers;  // of host memory, of each
    row(workers, {});
    row(workers, {.host_blocks = share});
    row(workers, {.host_blocks = share, .disk_blocks = 4 * share});
    // What is decided, beside loading whatever is there; loading nothing is the first row.
    for (const double bytes_per_ns : {12.0, 3.0}) {
      for (const double weight : {1.0, 1e9}) {
        row(workers, {.host_blocks = share,
                      .disk_blocks = 16 * share,
                      .disk_bytes_per_ns = bytes_per_ns,
                      .recompute_weight = weight});
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::run(argc, argv); }
