#include "cli/load/run.h"

#include <algorithm>
#include <utility>

#include "cli/load/run_on.h"

namespace penstock::cli::load {
namespace {

Window window_of(const LoadOptions& options, TimePoint now) {
  Window window{.begin = now, .from = now + options.warm_up};
  if (options.duration) window.until = window.from + *options.duration;
  return window;
}

std::size_t share(std::size_t total, std::size_t thread, std::size_t threads) {
  return total / threads + (thread < total % threads ? 1 : 0);
}

std::unique_ptr<Pacer> make_pacer(RunContext& context, const std::vector<TraceRequest>& trace,
                                  std::size_t thread) {
  const LoadOptions& options = context.options;
  if (options.pacing == Pacing::kClosed) {
    return make_closed_pacer(
        {.window = context.window, .slots = share(options.concurrency, thread, options.threads)},
        context.next_session);
  }
  OpenPacing pacing{
      .window = context.window,
      .slots = std::max<std::size_t>(1, share(options.in_flight_max, thread, options.threads)),
      .thread = thread,
      .threads = options.threads};
  if (options.requests) {
    pacing.measured_sessions_max = (*options.requests + options.turns - 1) / options.turns;
  }
  if (options.pacing == Pacing::kTrace) {
    return make_open_pacer(pacing, make_trace_arrivals(trace, options.speed));
  }
  return make_open_pacer(pacing, make_rate_arrivals(options.rate_per_s / options.turns,
                                                    options.spacing, options.seed));
}

}  // namespace

LoadRun::LoadRun(const LoadOptions& options, const PromptSource& prompts,
                 const std::vector<TraceRequest>& trace, const Clock& clock)
    : context_{.options = options,
               .prompts = prompts,
               .clock = clock,
               .window = window_of(options, clock.now()),
               .budget = Budget(options.requests)},
      running_(options.threads) {
  for (std::size_t i = 0; i < options.threads; ++i) {
    threads_.push_back(net::start_loop_thread());
    generators_.push_back(std::make_unique<Generator>(context_, make_pacer(context_, trace, i),
                                                      threads_.back()->loop(),
                                                      [this] { on_generator_done(); }));
  }
  for (std::size_t i = 0; i < options.threads; ++i) {
    threads_[i]->loop().post([generator = generators_[i].get()] { generator->start(); });
  }
}

LoadRun::~LoadRun() {
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    run_on(threads_[i]->loop(), [&] { generators_[i].reset(); });
  }
}

void LoadRun::on_generator_done() {
  const std::lock_guard lock(mutex_);
  ended_ = std::max(ended_, context_.clock.now());
  if (--running_ == 0) done_.notify_all();
}

bool LoadRun::wait_for(Nanos time) {
  std::unique_lock lock(mutex_);
  return done_.wait_for(lock, time, [this] { return running_ == 0; });
}

void LoadRun::stop() {
  interrupted_ = true;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    threads_[i]->loop().post([generator = generators_[i].get()] { generator->stop(); });
  }
}

RunResult LoadRun::collect() const {
  const std::lock_guard lock(mutex_);
  RunResult result{.statistics = Statistics(context_.window, context_.options.slo),
                   .interrupted = interrupted_};
  for (const auto& generator : generators_) result.statistics.merge(generator->statistics());
  const TimePoint until = std::min(ended_, context_.window.until);
  result.window_time = std::max(until - context_.window.from, Nanos::zero());
  return result;
}

}  // namespace penstock::cli::load
