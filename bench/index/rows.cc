// One row of the prefix index's benchmark as a line of JSON: index_rows CELL query|apply1|apply2|
// mixed|mem. The modes and their fields are those of the peers' program; see bench_index.py.
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

#include "workload.h"

namespace {

using namespace penstock;
using namespace penstock::bench;
using SteadyTime = std::chrono::steady_clock;

double seconds_since(SteadyTime::time_point start) {
  return std::chrono::duration<double>(SteadyTime::now() - start).count();
}

kv::PrefixIndex::Options options(const Cell& cell) {
  kv::PrefixIndex::Options made;
  made.slots_max = static_cast<kv::Slot>(cell.workers);
  // NOLINTBEGIN(concurrency-mt-unsafe): nothing writes the environment
  if (const char* budget = std::getenv("INDEX_BUDGET_MIB")) {
    made.budget_bytes = std::strtoull(budget, nullptr, 10) << 20;
  }
  if (const char* shards = std::getenv("INDEX_SHARDS")) {
    made.shards = static_cast<unsigned>(std::strtoul(shards, nullptr, 10));
  }
  // NOLINTEND(concurrency-mt-unsafe)
  return made;
}

std::uint64_t rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return 0;
}

void load(Workload& work, kv::PrefixIndex& index) {
  std::vector<Event> events;
  for (std::uint64_t q = 0; q < work.cell().conversations; ++q) {
    events.clear();
    work.store(q, events);
    for (const Event& event : events) event.apply(index);
  }
}

using Queries = std::vector<std::vector<std::uint64_t>>;
Queries queries(const Workload& work, std::uint64_t base, std::uint64_t count) {
  Queries all;
  for (std::uint64_t k = 0; k < count; ++k) all.push_back(work.query(k, base));
  return all;
}

std::uint32_t percentile(std::vector<std::uint32_t>& sorted, double p) {
  return sorted[static_cast<std::size_t>(std::lround((sorted.size() - 1) * p / 100))];
}

std::string latency(std::vector<std::uint32_t>& ns) {
  std::sort(ns.begin(), ns.end());
  return fmt::format(R"("p50_ns":{},"p90_ns":{},"p99_ns":{},"p999_ns":{})", percentile(ns, 50),
                     percentile(ns, 90), percentile(ns, 99), percentile(ns, 99.9));
}

/// One lookup as a router makes it, with its time.
std::uint32_t timed(const kv::PrefixIndex& index, const std::vector<std::uint64_t>& query,
                    std::vector<std::uint32_t>& depths) {
  const auto start = SteadyTime::now();
  index.match(query, depths);
  const auto took = SteadyTime::now() - start;
  return static_cast<std::uint32_t>(std::chrono::nanoseconds(took).count());
}

void row(const Cell& cell, std::string_view mode, const std::string& fields) {
  fmt::print(R"({{"impl":"penstock","cell":"{}","mode":"{}",{}}})"
             "\n",
             cell.name, mode, fields);
  std::fflush(stdout);
}

void query_rows(const Cell& cell) {
  Workload work(cell);
  kv::PrefixIndex index(options(cell));
  load(work, index);
  const Queries all = queries(work, 0, 100'000);
  std::vector<std::uint32_t> depths(cell.workers);

  std::uint64_t check = 0;
  std::uint64_t results = 0;
  for (std::size_t k = 0; k < 20'000; ++k) {
    index.match(all[k], depths);
    for (std::uint64_t w = 0; w < cell.workers; ++w) {
      if (depths[w] == 0) continue;
      check += h(10, w, depths[w]);
      ++results;
    }
  }
  std::vector<std::uint32_t> ns(all.size());
  const auto start = SteadyTime::now();
  for (std::size_t k = 0; k < all.size(); ++k) ns[k] = timed(index, all[k], depths);
  const double took_s = seconds_since(start);
  row(cell, "query1",
      fmt::format(R"({},"qps":{:.0f},"checksum":"{:016x}","results":{},"check":"{}")", latency(ns),
                  all.size() / took_s, check, results,
                  cell.check == 0 ? "none" : (check == cell.check ? "ok" : "WRONG")));

  const auto start2 = SteadyTime::now();
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::uint32_t> own(cell.workers);
      for (std::size_t k = 0; k < all.size(); ++k) {
        index.match(all[(k + t * all.size() / 2) % all.size()], own);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  row(cell, "query2", fmt::format(R"("qps":{:.0f})", 2 * all.size() / seconds_since(start2)));
}

void apply_row(const Cell& cell, std::size_t threads) {
  Workload work(cell);
  std::vector<std::vector<Event>> parts(threads);
  std::size_t ops = 0;
  {
    std::vector<Event> events;
    for (std::uint64_t q = 0; q < cell.conversations; ++q) work.store(q, events);
    for (Event& event : events) {
      ops += event.ops();
      parts[event.slot % threads].push_back(std::move(event));
    }
  }
  kv::PrefixIndex index(options(cell));
  const auto start = SteadyTime::now();
  std::vector<std::thread> running;
  for (const std::vector<Event>& part : parts) {
    running.emplace_back([&] {
      for (const Event& event : part) event.apply(index);
    });
  }
  for (std::thread& thread : running) thread.join();
  const double took_s = seconds_since(start);
  row(cell, threads == 1 ? "apply1" : "apply2",
      fmt::format(R"("block_ops":{},"s":{:.3f},"Mops":{:.3f})", ops, took_s, ops / took_s / 1e6));
  index.check();
}

void mixed_row(const Cell& cell) {
  Workload work(cell);
  kv::PrefixIndex index(options(cell));
  load(work, index);
  const std::uint64_t steps = std::min<std::uint64_t>(cell.conversations, 20'000);
  std::vector<Event> churn;
  for (std::uint64_t t = 0; t < steps; ++t) {
    work.remove(t, churn);
    work.store(cell.conversations + t, churn);
  }
  std::size_t ops = 0;
  for (const Event& event : churn) ops += event.ops();
  const Queries all = queries(work, steps / 2, 50'000);

  std::atomic<bool> started = false;
  std::atomic<bool> stop = false;
  std::vector<std::uint32_t> ns;
  ns.reserve(std::size_t{1} << 24);
  std::thread reader([&] {
    std::vector<std::uint32_t> depths(cell.workers);
    started.store(true, std::memory_order_release);
    for (std::size_t k = 0; !stop.load(std::memory_order_relaxed); ++k) {
      ns.push_back(timed(index, all[k % all.size()], depths));
    }
  });
  while (!started.load(std::memory_order_acquire)) {
  }
  const auto start = SteadyTime::now();
  for (const Event& event : churn) event.apply(index);
  const double took_s = seconds_since(start);
  stop.store(true);
  reader.join();
  row(cell, "mixed1w1r",
      fmt::format(
          R"("churn_ops":{},"s":{:.3f},"write_Mops":{:.3f},"reads":{},"read_qps":{:.0f},{})", ops,
          took_s, ops / took_s / 1e6, ns.size(), ns.size() / took_s, latency(ns)));
  index.check();
}

void mem_row(const Cell& cell) {
  const std::uint64_t before = rss_bytes();
  Workload work(cell);
  kv::PrefixIndex index(options(cell));
  std::vector<Event> events;
  std::size_t memberships = 0;
  for (std::uint64_t q = 0; q < cell.conversations; ++q) {
    events.clear();
    work.store(q, events);
    for (const Event& event : events) {
      memberships += event.ops();
      event.apply(index);
    }
  }
  ::malloc_trim(0);
  const auto print = [&](std::string_view mode, std::uint64_t turnovers) {
    const std::uint64_t delta = rss_bytes() - before;
    const kv::PrefixIndex::Stats stats = index.stats();
    row(cell, mode,
        fmt::format(
            R"("turnovers":{},"memberships":{},"rss_delta":{},"bytes_per_membership":{:.1f},)"
            R"("taken_bytes":{},"budget_bytes":{},"shed_memberships":{},"runs":{})",
            turnovers, memberships, delta, static_cast<double>(delta) / memberships,
            stats.memory_bytes, stats.budget_bytes, stats.shed_memberships, stats.runs));
  };
  print("mem", 0);
  for (std::uint64_t t = 0; t < 3 * cell.conversations; ++t) {
    events.clear();
    work.remove(t, events);
    work.store(cell.conversations + t, events);
    for (const Event& event : events) event.apply(index);
    if ((t + 1) % cell.conversations == 0) {
      ::malloc_trim(0);
      print("memchurn", (t + 1) / cell.conversations);
    }
  }
  index.check();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view mode = argc == 3 ? argv[2] : "";
  for (const Cell& cell : kCells) {
    if (argc != 3 || cell.name != argv[1]) continue;
    if (mode == "query") return query_rows(cell), 0;
    if (mode == "apply1") return apply_row(cell, 1), 0;
    if (mode == "apply2") return apply_row(cell, 2), 0;
    if (mode == "mixed") return mixed_row(cell), 0;
    if (mode == "mem") return mem_row(cell), 0;
  }
  fmt::print(stderr, "index_rows s1|s2|s3|w7000 query|apply1|apply2|mixed|mem\n");
  return 2;
}
