#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cli/load/options.h"
#include "cli/load/pacer.h"
#include "cli/load/prompts.h"
#include "cli/load/statistics.h"
#include "net/http_client.h"
#include "net/loop.h"

namespace penstock::cli::load {

/// How a run stands, for a progress bar. Written by all generators, read by any thread; each number
/// is right, but not all of one moment.
struct LiveCounters {
  std::atomic<std::uint64_t> begun{0};
  std::atomic<std::uint64_t> measured{0};  // begun, and intended in the window
  std::atomic<std::uint64_t> ended{0};     // in any way
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> content_events{0};
  std::atomic<std::uint64_t> ttft_count{0};
  std::atomic<std::int64_t> ttft_sum_ns{0};

  [[nodiscard]] std::uint64_t in_flight() const noexcept { return begun.load() - ended.load(); }
};

/// How many measured requests may still be sent, over all threads.
class Budget final {
 public:
  explicit Budget(std::optional<std::uint64_t> requests)
      : left_(static_cast<std::int64_t>(requests.value_or(1ULL << 62))) {}
  bool take() noexcept { return left_.fetch_sub(1, std::memory_order_relaxed) > 0; }

 private:
  std::atomic<std::int64_t> left_;
};

/// What the generators of a run have in common. Outlives them.
struct RunContext {
  const LoadOptions& options;
  const PromptSource& prompts;
  const Clock& clock;
  const Window window;
  Budget budget;
  LiveCounters live;
  std::atomic<std::uint64_t> next_session{0};
};

/// Sends one thread's share of the load and measures it. Made on any thread; then lives on the
/// loop's, where it is also destroyed. It is idle in between: the pacer and the answers drive it.
class Generator final {
 public:
  /// `on_done` runs on the loop's thread when nothing is left to send or to wait for. It must not
  /// destroy the generator.
  Generator(RunContext& context, std::unique_ptr<Pacer> pacer, net::Loop& loop,
            std::move_only_function<void()> on_done);
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  void start();
  /// Cuts off what is in flight (Outcome::kUnfinished) and sends no more.
  void stop();

  [[nodiscard]] const Statistics& statistics() const noexcept { return statistics_; }

 private:
  class Conversation;

  void pump();
  void wait_for(TimePoint at);
  void begin(const Pacer::Start& start);
  void end(Conversation& conversation, bool failed);
  void record(const RequestRecord& request);
  void check_done();

  RunContext& context_;
  const std::unique_ptr<Pacer> pacer_;
  net::Loop& loop_;
  std::move_only_function<void()> on_done_;  // empty once called
  const std::unique_ptr<net::HttpClient> client_;
  ChunkParser parser_;
  Statistics statistics_;
  std::vector<std::unique_ptr<Conversation>> conversations_;  // each knows its place
  std::unique_ptr<net::Loop::Timer> timer_;
  bool stopping_ = false;
};

}  // namespace penstock::cli::load
