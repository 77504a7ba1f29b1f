#pragma once

// A fleet of SchedulerModels on a virtual clock, round robin, fed from a Mooncake trace: enough to
// check the model against published replays. For tests and benchmarks only.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "engine/simulated/model.h"

namespace penstock::engine::simulated::replay {

inline constexpr std::uint32_t kTraceBlockTokens = 512;

struct TraceRequest {
  std::int64_t timestamp_ms = 0;
  std::uint32_t input_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::vector<std::uint32_t> chain;  // names each 512-token block together with all before it
};

/// Where mooncake_conversation.jsonl is: in $PENSTOCK_TRACES, or in shared/data beside the source
/// tree. Absent: nowhere.
inline std::optional<std::filesystem::path> conversation_trace() {
  std::filesystem::path folder;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment
  if (const char* set = std::getenv("PENSTOCK_TRACES")) {
    folder = set;
  } else {
    std::filesystem::path tree = __FILE__;  // <tree>/src/engine/simulated/replay_for_test.h
    for (int up = 0; up < 4; ++up) tree = tree.parent_path();
    folder = tree / ".." / "shared" / "data";
  }
  std::filesystem::path file = folder / "mooncake_conversation.jsonl";
  if (!std::filesystem::exists(file)) return std::nullopt;
  return file;
}

/// The whole numbers that follow `"field":` in a line, one or a list of them.
inline std::vector<std::int64_t> numbers_of(std::string_view line, std::string_view field) {
  const std::string name = "\"" + std::string(field) + "\":";
  std::size_t at = line.find(name);
  CHECK(at != std::string_view::npos);
  at += name.size();
  std::vector<std::int64_t> numbers;
  bool list = false;
  while (at < line.size()) {
    const char c = line[at];
    if (c == '[') list = true;
    if (c == ']' || c == '}' || (c == ',' && !list)) break;
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(line.data() + at, line.data() + line.size(), number);
    if (error != std::errc()) {
      ++at;
      continue;
    }
    numbers.push_back(number);
    at = static_cast<std::size_t>(end - line.data());
  }
  return numbers;
}

inline std::vector<TraceRequest> read_trace(const std::filesystem::path& path,
                                            std::size_t requests_max) {
  std::vector<TraceRequest> trace;
  std::unordered_map<std::uint64_t, std::uint32_t> chains;  // (parent + 1, hash id) -> its name
  std::ifstream file(path);
  std::string line;
  while (trace.size() < requests_max && std::getline(file, line)) {
    TraceRequest r;
    r.timestamp_ms = numbers_of(line, "timestamp").at(0);
    r.output_tokens = static_cast<std::uint32_t>(numbers_of(line, "output_length").at(0));
    std::uint64_t parent = 0;
    for (const std::int64_t id : numbers_of(line, "hash_ids")) {
      const std::uint64_t link = parent << 32 | static_cast<std::uint64_t>(id);
      const auto fresh = static_cast<std::uint32_t>(chains.size());
      r.chain.push_back(chains.try_emplace(link, fresh).first->second);
      parent = r.chain.back() + 1;
    }
    r.input_tokens = std::min(static_cast<std::uint32_t>(numbers_of(line, "input_length").at(0)),
                              static_cast<std::uint32_t>(r.chain.size()) * kTraceBlockTokens);
    trace.push_back(std::move(r));
  }
  return trace;
}

struct Setup {
  std::uint32_t workers = 4;
  double arrival_speedup = 1;
  std::uint32_t concurrency = 0;  // > 0: closed loop, timestamps ignored
  ModelOptions model;
};

/// Times in ms.
struct Metrics {
  std::size_t completed = 0;
  std::uint64_t tokens = 0;
  std::uint64_t passes = 0;
  std::uint64_t preemptions = 0;
  double last_completion = 0;
  double ttft_mean = 0;
  double ttft_p99 = 0;
  double itl_mean = 0;
  double tpot_mean = 0;
  double e2e_mean = 0;
  double reuse = 0;
};

class Fleet {
 public:
  Fleet(const std::vector<TraceRequest>& trace, const Setup& setup)
      : trace_(trace), setup_(setup), requests_(trace.size()) {
    for (std::uint32_t w = 0; w < setup.workers; ++w) {
      workers_.push_back(std::make_unique<Worker>(setup.model));
    }
    std::int64_t earliest_ms = trace.empty() ? 0 : trace[0].timestamp_ms;
    for (const TraceRequest& r : trace) earliest_ms = std::min(earliest_ms, r.timestamp_ms);
    for (std::size_t i = 0; i < trace.size(); ++i) {
      const auto ms = static_cast<double>(trace[i].timestamp_ms - earliest_ms);
      requests_[i].arrival = Nanos(std::llround(ms * 1e6 / setup.arrival_speedup));
    }
  }

  Metrics run() {
    while (true) {
      while (step()) {
      }
      const Nanos next = next_event();
      if (next == Nanos::max()) break;
      now_ = next;
    }
    return metrics();
  }

 private:
  struct Worker {
    explicit Worker(const ModelOptions& options) : model(options) {}
    SchedulerModel model;
    bool busy = false;
    Nanos end{0};
  };

  struct Request {
    Nanos arrival{0};
    Nanos first{0};
    Nanos last{0};
    std::uint32_t emitted = 0;
    std::uint32_t cached_tokens = 0;
    std::vector<kv::BlockHash> keys;
  };

  /// Everything that can happen at now_, once; true if anything did.
  bool step() {
    bool changed = finish_passes();
    changed |= take_arrivals();
    changed |= start_passes();
    return changed;
  }

  bool finish_passes() {
    bool changed = false;
    for (const auto& worker : workers_) {
      if (!worker->busy || worker->end > now_) continue;
      worker->busy = false;
      changed = true;
      for (const Emission& e : worker->model.finish_pass()) emit(e);
    }
    return changed;
  }

  void emit(const Emission& e) {
    Request& r = requests_[e.tag];
    if (r.emitted++ == 0) r.first = now_;
    r.last = now_;
    if (!e.last) return;
    r.cached_tokens = e.cached_tokens;
    r.keys = {};
    --in_flight_;
    last_completion_ = now_;
  }

  bool take_arrivals() {
    bool changed = false;
    while (arrived_ < requests_.size()) {
      Request& r = requests_[arrived_];
      if (setup_.concurrency > 0) {
        if (in_flight_ >= setup_.concurrency) break;
        r.arrival = now_;
      } else if (r.arrival > now_) {
        break;
      }
      Worker& worker = *workers_[arrived_ % workers_.size()];
      r.keys = keys_of(trace_[arrived_]);
      worker.model.submit({.tag = arrived_,
                           .keys = r.keys,
                           .prompt_tokens = trace_[arrived_].input_tokens,
                           .output_tokens = trace_[arrived_].output_tokens});
      ++arrived_;
      ++in_flight_;
      changed = true;
    }
    return changed;
  }

  bool start_passes() {
    bool changed = false;
    for (const auto& worker : workers_) {
      if (worker->busy || worker->model.idle()) continue;
      const Pass& pass = worker->model.start_pass();
      if (!pass.progress) continue;
      worker->busy = true;
      worker->end = now_ + pass.duration;
      changed = true;
    }
    return changed;
  }

  [[nodiscard]] Nanos next_event() const {
    Nanos next = Nanos::max();
    if (setup_.concurrency == 0 && arrived_ < requests_.size()) next = requests_[arrived_].arrival;
    for (const auto& worker : workers_) {
      if (worker->busy) next = std::min(next, worker->end);
    }
    return next;
  }

  [[nodiscard]] static std::vector<kv::BlockHash> keys_of(const TraceRequest& r) {
    constexpr std::uint32_t kBlocksPerName = kTraceBlockTokens / 64;
    std::vector<kv::BlockHash> keys(r.input_tokens / 64);
    for (std::uint32_t i = 0; i < keys.size(); ++i) {
      keys[i].low =
          std::uint64_t{r.chain[i / kBlocksPerName]} * kBlocksPerName + i % kBlocksPerName;
    }
    return keys;
  }

  [[nodiscard]] Metrics metrics() const {
    Metrics m;
    std::vector<double> ttft;
    double itl_sum = 0;
    double tpot_sum = 0;
    std::size_t tpot_count = 0;
    std::uint64_t input = 0;
    std::uint64_t cached = 0;
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      const Request& r = requests_[i];
      if (r.emitted != trace_[i].output_tokens) continue;
      ++m.completed;
      m.tokens += r.emitted;
      ttft.push_back(to_ms(r.first - r.arrival));
      m.ttft_mean += ttft.back();
      m.e2e_mean += to_ms(r.last - r.arrival);
      input += trace_[i].input_tokens;
      cached += r.cached_tokens;
      if (r.emitted < 2) continue;
      itl_sum += to_ms(r.last - r.first);
      tpot_sum += to_ms(r.last - r.first) / (r.emitted - 1);
      ++tpot_count;
    }
    std::sort(ttft.begin(), ttft.end());
    const auto count = static_cast<double>(m.completed);
    m.ttft_mean /= count;
    m.e2e_mean /= count;
    m.ttft_p99 = ttft.at(static_cast<std::size_t>(std::lround((count - 1) * 0.99)));
    m.itl_mean = itl_sum / static_cast<double>(m.tokens - m.completed);
    m.tpot_mean = tpot_sum / static_cast<double>(tpot_count);
    m.reuse = static_cast<double>(cached) / static_cast<double>(input);
    m.last_completion = to_ms(last_completion_);
    for (const auto& worker : workers_) {
      m.passes += worker->model.passes();
      m.preemptions += worker->model.preemptions();
    }
    return m;
  }

  const std::vector<TraceRequest>& trace_;
  const Setup& setup_;
  std::vector<Request> requests_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Nanos now_{0};
  Nanos last_completion_{0};
  std::size_t arrived_ = 0;
  std::uint32_t in_flight_ = 0;
};

inline Metrics replay(const std::vector<TraceRequest>& trace, const Setup& setup) {
  return Fleet(trace, setup).run();
}

}  // namespace penstock::engine::simulated::replay
