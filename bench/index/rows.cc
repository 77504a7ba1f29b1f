// One row of the prefix index's benchmark as a line of JSON: index_rows CELL query|apply1|apply2|
// mixed|mem|floor. The modes and their fields are those of the peers' program; see bench_index.py.
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
#include <utility>

#include "floor.h"
#include "workload.h"

namespace {

using namespace penstock;
using namespace penstock::bench;
using SteadyTime = std::chrono::steady_clock;

constexpr std::string_view kOurs = "penstock";
constexpr std::size_t kQueries = 100'000;
constexpr std::size_t kChurnQueries = 50'000;
std::uint64_t churn_steps(const Cell& cell) {
  return std::min<std::uint64_t>(cell.conversations, 20'000);
}

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

/// Runs match(), which is one lookup as a router makes it; how long that took.
template <class Match>
std::uint32_t timed(const Match& match) {
  const auto start = SteadyTime::now();
  match();
  return static_cast<std::uint32_t>(std::chrono::nanoseconds(SteadyTime::now() - start).count());
}

void row(std::string_view who, const Cell& cell, std::string_view mode, const std::string& fields) {
  fmt::print(R"({{"impl":"{}","cell":"{}","mode":"{}",{}}})"
             "\n",
             who, cell.name, mode, fields);
  std::fflush(stdout);
}

/// Every query once, by match(k, depths), after the first ones untimed, whose answers are checked.
template <class Match>
void query1_row(std::string_view who, const Cell& cell, std::size_t queries, const Match& match) {
  std::vector<std::uint32_t> depths(cell.workers);
  std::uint64_t check = 0;
  std::uint64_t results = 0;
  for (std::size_t k = 0; k < 20'000; ++k) {
    match(k, depths);
    for (std::uint64_t w = 0; w < cell.workers; ++w) {
      if (depths[w] == 0) continue;
      check += h(10, w, depths[w]);
      ++results;
    }
  }
  std::vector<std::uint32_t> ns(queries);
  const auto start = SteadyTime::now();
  for (std::size_t k = 0; k < queries; ++k) ns[k] = timed([&] { match(k, depths); });
  const double took_s = seconds_since(start);
  row(who, cell, "query1",
      fmt::format(R"({},"qps":{:.0f},"checksum":"{:016x}","results":{},"check":"{}")", latency(ns),
                  queries / took_s, check, results,
                  cell.check == 0 ? "none" : (check == cell.check ? "ok" : "WRONG")));
}

void query_rows(const Cell& cell) {
  Workload work(cell);
  kv::PrefixIndex index(options(cell));
  load(work, index);
  const Queries all = queries(work, 0, kQueries);
  query1_row(kOurs, cell, all.size(), [&](std::size_t k, std::vector<std::uint32_t>& depths) {
    index.match(all[k], depths);
  });

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
  row(kOurs, cell, "query2",
      fmt::format(R"("qps":{:.0f})", 2 * all.size() / seconds_since(start2)));
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
  row(kOurs, cell, threads == 1 ? "apply1" : "apply2",
      fmt::format(R"("block_ops":{},"s":{:.3f},"Mops":{:.3f})", ops, took_s, ops / took_s / 1e6));
  index.check();
}

void mixed_row(const Cell& cell) {
  Workload work(cell);
  kv::PrefixIndex index(options(cell));
  load(work, index);
  const std::uint64_t steps = churn_steps(cell);
  std::vector<Event> churn;
  for (std::uint64_t t = 0; t < steps; ++t) {
    work.remove(t, churn);
    work.store(cell.conversations + t, churn);
  }
  std::size_t ops = 0;
  for (const Event& event : churn) ops += event.ops();
  const Queries all = queries(work, steps / 2, kChurnQueries);

  std::atomic<bool> started = false;
  std::atomic<bool> stop = false;
  std::vector<std::uint32_t> ns;
  ns.reserve(std::size_t{1} << 24);
  std::thread reader([&] {
    std::vector<std::uint32_t> depths(cell.workers);
    started.store(true, std::memory_order_release);
    for (std::size_t k = 0; !stop.load(std::memory_order_relaxed); ++k) {
      ns.push_back(timed([&] { index.match(all[k % all.size()], depths); }));
    }
  });
  while (!started.load(std::memory_order_acquire)) {
  }
  const auto start = SteadyTime::now();
  for (const Event& event : churn) event.apply(index);
  const double took_s = seconds_since(start);
  stop.store(true);
  reader.join();
  row(kOurs, cell, "mixed1w1r",
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
    row(kOurs, cell, mode,
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

/// How often the machine itself stops a thread that does nothing but look at the clock.
void stops_row(const Cell& cell) {
  constexpr auto kWatched = std::chrono::milliseconds(300);
  constexpr auto kStop = std::chrono::microseconds(1);
  std::vector<std::uint32_t> ns;
  const auto start = SteadyTime::now();
  auto last = start;
  while (last - start < kWatched) {
    const auto now = SteadyTime::now();
    const std::chrono::nanoseconds gone = now - std::exchange(last, now);
    if (gone >= kStop) ns.push_back(static_cast<std::uint32_t>(gone.count()));
  }
  std::sort(ns.begin(), ns.end());
  row("floor", cell, "stops",
      fmt::format(R"("per_s":{:.0f},"p50_ns":{})", ns.size() / seconds_since(start),
                  ns.empty() ? 0 : percentile(ns, 50)));
}

/// What the figures are seen beside: answers that need not be found, without anybody who writes;
/// events that are copied and no more; each distinct block's two hashes.
void floor_rows(const Cell& cell) {
  constexpr std::string_view kFloor = "floor";
  stops_row(cell);
  Workload work(cell);
  const auto lookups = [&](std::uint64_t base, std::size_t count, const auto& measure) {
    const Queries all = queries(work, base, count);
    std::vector<std::uint64_t> asked;
    for (std::uint64_t k = 0; k < count; ++k) asked.push_back(work.asked(k, base));
    const LookupFloor floor(work, base);
    measure([&](std::size_t k, std::vector<std::uint32_t>& depths) {
      floor.match(asked[k], all[k], depths);
    });
  };
  lookups(0, kQueries, [&](const auto& match) { query1_row(kFloor, cell, kQueries, match); });
  lookups(churn_steps(cell) / 2, kChurnQueries, [&](const auto& match) {
    std::vector<std::uint32_t> depths(cell.workers);
    std::vector<std::uint32_t> ns;
    for (std::size_t k = 0; k < 4 * kChurnQueries; ++k) {
      ns.push_back(timed([&] { match(k % kChurnQueries, depths); }));
    }
    row(kFloor, cell, "mixed1w1r", latency(ns));
  });

  std::vector<Event> events;
  std::size_t ops = 0;
  std::uint64_t distinct = cell.prefix * cell.groups;
  for (std::uint64_t q = 0; q < cell.conversations; ++q) {
    work.store(q, events);
    distinct += work.suffix(q);
  }
  for (const Event& event : events) ops += event.ops();
  std::vector<kv::StoredBlock> copied(ops);
  const auto start = SteadyTime::now();
  auto to = copied.begin();
  for (const Event& event : events) to = std::ranges::copy(event.blocks, to).out;
  row(kFloor, cell, "apply1", fmt::format(R"("Mops":{:.3f})", ops / seconds_since(start) / 1e6));
  row(kFloor, cell, "mem",
      fmt::format(R"("bytes_per_membership":{:.1f})",
                  static_cast<double>(distinct * sizeof(kv::StoredBlock)) / ops));
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
    if (mode == "floor") return floor_rows(cell), 0;
  }
  fmt::print(stderr, "index_rows s1|s2|s3|w7000 query|apply1|apply2|mixed|mem|floor\n");
  return 2;
}
