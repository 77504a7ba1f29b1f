#include "cells.h"

#include <chrono>

namespace penstock::bench {
namespace {

using sim::Setup;
using std::chrono::milliseconds;

/// 307,328 KV tokens a worker, as in llm-d's benchmark.
Setup b2b() {
  Setup setup{.workers = 8};
  setup.model.kv_blocks = 4802;
  return setup;
}

/// The clock slowed to 15,928 prompt tokens/s in full passes: llm-d's figure for Qwen3-32B on two
/// H100. A step with little in the pool then takes 17 ms.
Setup qwen(Setup setup) {
  setup.model.speedup = 0.329;
  return setup;
}

/// Three workers behind `routers` gateways, which hear of caches and load late.
Setup smg(std::uint32_t routers) {
  Setup setup{.workers = 3};
  setup.routers = routers;
  setup.event_delay = milliseconds(20);
  setup.load_delay = milliseconds(100);
  return setup;
}

/// Families with a prefix nobody has seen before, whose KV events come late.
Setup siblings() {
  Setup setup{.workers = 4};
  setup.event_delay = milliseconds(50);
  return setup;
}

constexpr std::string_view kSiblings = "siblings:rate=3";
constexpr std::string_view kRepetition = "prefix-repetition";

}  // namespace

std::span<const Cell> published_cells() {
  static const std::vector<Cell> cells = {
      {"llm-d b2b, 9 requests/s", "shared-prefix:rate=9", qwen(b2b())},
      {"smg#1771, 1 gateway", kRepetition, qwen(smg(1))},
      {"smg#1771, 2 gateways", kRepetition, qwen(smg(2))},
      {"smg#1771, 4 gateways", kRepetition, qwen(smg(4))},
      {"conversation, 8 workers", "conversation", {.workers = 8}},
      {"conversation, 4 workers", "conversation", {.workers = 4}},
      {"conversation, 4 workers, 4x", "conversation", {.workers = 4, .speed = 4}},
      {"conversation, 8 workers, 64 at once", "conversation", {.workers = 8, .concurrency = 64}},
  };
  return cells;
}

std::span<const Cell> scoreboard_cells() {
  static const std::vector<Cell> cells = {
      {"conv 8w 1x", "conversation", {.workers = 8}},
      {"conv 8w 2x", "conversation", {.workers = 8, .speed = 2}},
      {"conv 8w 4x", "conversation", {.workers = 8, .speed = 4}},
      {"conv 8w 8x", "conversation", {.workers = 8, .speed = 8}},
      {"conv 4w 1x", "conversation", {.workers = 4}},
      {"conv 4w 2x", "conversation", {.workers = 4, .speed = 2}},
      {"conv 4w 4x", "conversation", {.workers = 4, .speed = 4}},
      {"conv 8w c64", "conversation", {.workers = 8, .concurrency = 64}},
      {"conv 8w c256", "conversation", {.workers = 8, .concurrency = 256}},
      {"conv 4p+4d 1x", "conversation", {.workers = 0, .prefill_workers = 4, .decode_workers = 4}},
      {"azure 2w 1x", "azure", {.workers = 2}},
      {"azure 2w 4x", "azure", {.workers = 2, .speed = 4}},
      {"azure 4w 16x", "azure", {.workers = 4, .speed = 16}},
      {"b2b 10/s", "shared-prefix:rate=10,requests=1500", b2b()},
      {"b2b 30/s", "shared-prefix:rate=30,requests=3000", b2b()},
      {"b2b 60/s", "shared-prefix:rate=60,requests=4000", b2b()},
      {"b2b ladder", "llm-d-ladder", b2b()},
      {"b2b ladder, slow clock", "llm-d-ladder", qwen(b2b())},
      {"smg 1 router", kRepetition, smg(1)},
      {"smg 2 routers", kRepetition, smg(2)},
      {"smg 4 routers", kRepetition, smg(4)},
      {"smg 4 routers, slow clock", kRepetition, qwen(smg(4))},
      {"agentic 4w", "agentic", {.workers = 4}},
      {"agentic 4w, 3x", "agentic", {.workers = 4, .speed = 3}},
      {"siblings 4w", kSiblings, siblings()},
      {"bursts 4w", "bursts", {.workers = 4}},
      {"poisson 4w 10/s", "poisson:rate=10", {.workers = 4}},
  };
  return cells;
}

}  // namespace penstock::bench
