#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/labels.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/role.h"

namespace penstock::engine {

/// A worker that wants to be used, as it says itself.
struct JoiningWorker {
  std::string instance;  // names one life of it
  std::string address;   // HOST:PORT of its EngineServer
  EngineInfo info;
  bool tells_kv_events = false;
  Labels labels;
  Role role = Role::kBoth;  // at first: the front end may change it
  bool draining = false;    // takes nothing new, and leaves when it is done
};

/// What a front end does with workers. Thread: any, several at once.
class Membership {
 public:
  virtual ~Membership() = default;
  /// Takes the worker in; or, of one that is known, hears that it lives. Fails with what the worker
  /// is told: kUnavailable not yet, kInvalidArgument it does not fit here.
  virtual Result<void> join(const JoiningWorker& worker) = 0;
  virtual void leave(const std::string& instance) = 0;
};

struct JoinServerOptions {
  std::string address;                        // HOST:PORT to listen on; port 0: any free one
  std::string secret;                         // that workers must show; empty: whoever can connect
  Nanos heartbeat = std::chrono::seconds(1);  // workers are told to be heard so often
  Nanos lease = std::chrono::seconds(15);     // and that they are forgotten after so long
};

/// The front end's door for workers.
class JoinServer {
 public:
  /// `membership` must outlive it. Fails with kUnavailable when it cannot listen.
  static Result<std::unique_ptr<JoinServer>> start(const JoinServerOptions& options,
                                                   Membership& membership);
  virtual ~JoinServer() = default;
  [[nodiscard]] virtual std::uint16_t port() const noexcept = 0;
};

struct JoinOptions {
  std::string front_end;  // HOST:PORT of its JoinServer
  std::string secret;     // shown to it; empty: none
  std::string instance;
  std::string host;  // where this worker listens; empty: where its calls come from
  std::uint16_t port = 0;
  EngineInfo info;
  bool tells_kv_events = false;
  Labels labels;
  Role role = Role::kBoth;
};

/// A worker's place at a front end: asked for again and again, so that a front end that was
/// restarted, or was out of reach, knows the worker as soon as it can. Its own thread. What goes
/// wrong is logged at once, and then once a minute.
class Joining {
 public:
  static std::unique_ptr<Joining> start(const JoinOptions& options);

  /// Leaves, if that can be told within a second.
  virtual ~Joining() = default;
  /// The front end is told at once to send nothing new. Thread: any.
  virtual void drain() = 0;
  /// The front end has taken this worker, and answered the last time. Thread: any.
  [[nodiscard]] virtual bool joined() const = 0;
};

/// A name for one life of a worker, that no other has.
[[nodiscard]] std::string new_instance();

}  // namespace penstock::engine
