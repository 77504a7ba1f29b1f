#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"

namespace penstock::engine {

struct EngineServerOptions {
  std::string address = "127.0.0.1:0";  // HOST:PORT; port 0: any free one
  std::string instance;                 // names this life of the worker; never empty
  std::string secret;                   // that callers must show; empty: whoever can connect
};

/// Serves an engine of this process to others, as openengine.v1 and penstock.v1 over gRPC
/// (openengine.proto, penstock.proto). What is sent is started by one thread of its own, so that
/// the engine's thread spends on a step no more than on any other sink. What waits for a slow
/// reader is bounded by what its requests may say.
///
/// Whoever may call is trusted with what this project's front end says of a grammar (that it has
/// checked it).
class EngineServer {
 public:
  /// `engine` and `clock` must outlive it. Fails with kUnavailable when it cannot listen.
  static Result<std::unique_ptr<EngineServer>> start(const EngineServerOptions& options,
                                                     Engine& engine, const Clock& clock);

  /// Ends what still runs, without waiting for the engine to notice.
  virtual ~EngineServer() = default;

  [[nodiscard]] virtual std::uint16_t port() const noexcept = 0;
  /// New generations and embeddings are refused from now on; what runs goes on. Thread: any.
  virtual void drain() noexcept = 0;
  /// Generations and embeddings accepted and not ended. Thread: any.
  [[nodiscard]] virtual std::size_t live() const = 0;
};

}  // namespace penstock::engine
