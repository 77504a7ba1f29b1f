#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "text/model_file.h"

namespace penstock::engine {

class KvExchange;   // kv_exchange.h
class SharedStore;  // shared_store.h

struct LlamaOptions {
  std::uint32_t sequences_max = 8;      // running at once; each has its own KV of context_tokens
  std::uint32_t context_tokens = 4096;  // prompt + completion of one request
  std::uint32_t block_tokens = 64;
  std::uint64_t reuse_bytes = 1ULL
                              << 30;   // host memory for KV blocks of earlier prompts; 0: no reuse
  std::uint32_t queue_max = 256;       // requests waiting; more are refused
  std::uint32_t threads = 0;           // compute threads; 0: one a core
  std::uint32_t step_tokens = 512;     // prompt rows a step at most
  std::uint32_t slice_ms = 300;        // prompt work a step aims at while others decode
  bool exact = false;                  // every token as if the request ran alone (README)
  bool quantized_kv = false;           // q8_0 instead of f16
  bool kv_event_tokens = true;         // KV events carry their blocks' tokens
  std::shared_ptr<SharedStore> store;  // KV behind the reusable blocks; may be empty
  /// How much computing a block counts against keeping and loading it; other than 1 to measure what
  /// deciding by cost is worth (bench/tiers): 1e4 keeps and loads everything, and waits for it.
  double recompute_weight = 1;
  std::shared_ptr<KvExchange> exchange;  // workers that KV is handed over to and from; may be empty
};

/// A worker over llama.cpp: one context, one compute thread, continuous batching, KV reuse by
/// content. Several workers may share one ModelFile (weights in memory once). Fails when the
/// context does not fit in memory, the model cannot generate or the store cannot be opened; the
/// message says what to lower.
Result<std::unique_ptr<Engine>> make_llama_engine(std::shared_ptr<const text::ModelFile> model,
                                                  const LlamaOptions& options, const Clock& clock);

}  // namespace penstock::engine
