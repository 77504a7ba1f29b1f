#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "engine/engine.h"

namespace penstock::engine {

struct RemoteOptions {
  std::string address;   // HOST:PORT of the worker
  std::string instance;  // the life of the worker that is meant; empty: any
  std::string secret;    // shown with every call; empty: none
  EngineInfo info;       // its card
  bool tells_kv_events = true;
  /// What the worker tells of its KV takes at most: a million blocks.
  std::uint64_t kv_picture_bytes_max = 256ULL << 20;
  /// And what it tells of its lower tiers: a million blocks as well.
  std::uint64_t tier_picture_bytes_max = 64ULL << 20;
  Nanos reconnect_first = std::chrono::milliseconds(50);  // then twice as long, up to ...
  Nanos reconnect_max = std::chrono::seconds(1);
};

/// A worker in another process, through an EngineServer of its own. What it reports, what it caches
/// and what lies in its lower tiers are streamed here, so that load(), kv_events() and
/// foresee_load() ask nobody; they are behind by the time the news takes.
///
/// What differs from an engine of this process:
/// - A refusal by the worker comes as the request's last Output (kError, with its code). generate()
///   itself fails only when the worker is not connected or as many requests are given to it as it
///   takes.
/// - A connection that breaks ends every request given to the worker (kError, kUnavailable), since
///   nobody can say what became of it. It is opened again, for as long as this lives.
/// - Sinks are called on gRPC's threads; of one request one call after the other.
///
/// - KV that a prefill_only request leaves is kept for as long as its call lives: until abort(), or
///   the connection breaks, or this is gone. Its lease runs at the worker as well.
/// - clear_cache() asks the worker and waits for nothing: what is given to it right afterwards may
///   begin before.
///
/// abort() and deadlines take effect at once, whatever the worker does. Destruction cancels what
/// runs and waits only for gRPC.
class RemoteEngine : public Engine {
 public:
  /// Does not wait for the connection. `clock` must outlive it.
  static std::unique_ptr<RemoteEngine> connect(RemoteOptions options, const Clock& clock);

  /// Asks the worker how it is. `done` hears within two seconds whether it answered well; on one of
  /// gRPC's threads.
  virtual void probe(std::move_only_function<void(bool)> done) = 0;
  /// Cancels what was given to it, probes included, and takes nothing any more. Does not wait.
  virtual void give_up() = 0;
};

}  // namespace penstock::engine
