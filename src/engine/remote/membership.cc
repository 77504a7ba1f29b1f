#include "engine/remote/membership.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/complaint.h"
#include "base/host_port.h"
#include "base/log.h"
#include "engine/remote/internal/rpc.h"
#include "engine/remote/internal/wire.h"
#include "engine/remote/penstock.grpc.pb.h"

namespace penstock::engine {
namespace {

namespace ps = wire::ps;

constexpr std::uint32_t kRevision = 1;
constexpr auto kJoinTimeout = std::chrono::seconds(2);
constexpr auto kLeaveTimeout = std::chrono::seconds(1);
constexpr Nanos kRetry = std::chrono::milliseconds(200);  // while the front end is not there

constexpr int kMessageBytesMax = 64 << 10;  // a card takes less than 1 KiB
constexpr std::size_t kInstanceBytesMax = 64;

/// It goes into headers and names a worker in logs and pages.
bool is_instance(std::string_view name) {
  return !name.empty() && name.size() <= kInstanceBytesMax &&
         std::ranges::all_of(name, [](unsigned char c) { return c > ' ' && c < 0x7F; });
}

ps::Role role_of(Role role) {
  switch (role) {
    case Role::kPrefill: return ps::PREFILL;
    case Role::kDecode: return ps::DECODE;
    default: return ps::BOTH;
  }
}

std::optional<Role> role_of(ps::Role role) {
  switch (role) {
    case ps::BOTH: return Role::kBoth;
    case ps::PREFILL: return Role::kPrefill;
    case ps::DECODE: return Role::kDecode;
    default: return std::nullopt;
  }
}

Result<JoiningWorker> read(const ps::JoinRequest& request, const std::string& peer) {
  if (request.revision() != kRevision) {
    return fail(Code::kInvalidArgument,
                fmt::format("the worker speaks revision {}, this front end {}: use one build",
                            request.revision(), kRevision));
  }
  if (!is_instance(request.instance_id()) || request.port() == 0 || request.port() > 65535) {
    return fail(Code::kInvalidArgument, "the worker does not say who or where it is");
  }
  if (!request.host().empty() && !is_instance(request.host())) {
    return fail(Code::kInvalidArgument, "the worker's host is not one");
  }
  const std::optional<Role> role = role_of(request.role());
  if (!role) return fail(Code::kInvalidArgument, "the worker has a role that is unknown here");
  Result<Labels> labels = parse_labels(request.labels());
  if (!labels) return std::unexpected(labels.error());
  Result<EngineInfo> info = wire::read(request.card());
  if (!info) return std::unexpected(info.error());
  const std::string host = request.host().empty() ? rpc::host_of_peer(peer) : request.host();
  const std::string address = fmt::format("{}:{}", host, request.port());
  if (const Result<HostPort> at = parse_host_port(address); !at) {
    return fail(Code::kInvalidArgument, "the worker does not say where it is");
  }
  return JoiningWorker{.instance = request.instance_id(),
                       .address = address,
                       .info = std::move(*info),
                       .tells_kv_events = request.card().tells_kv_events(),
                       .labels = std::move(*labels),
                       .role = *role,
                       .draining = request.draining()};
}

class FrontEnd final : public JoinServer, ps::FrontEnd::CallbackService {
 public:
  FrontEnd(const JoinServerOptions& options, Membership& membership)
      : options_(options), membership_(membership) {}
  ~FrontEnd() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  }

  Result<void> listen() {
    auto server =
        rpc::start_server(options_.address, options_.secret, {this}, kMessageBytesMax, port_);
    if (!server) return std::unexpected(server.error());
    server_ = std::move(*server);
    return {};
  }
  [[nodiscard]] std::uint16_t port() const noexcept override {
    return static_cast<std::uint16_t>(port_);
  }

 private:
  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context,
                                 const ps::JoinRequest* request,
                                 ps::JoinResponse* response) override {
    return answer(context, [&]() -> Result<void> {
      const Result<JoiningWorker> worker = read(*request, context->peer());
      if (!worker) return std::unexpected(worker.error());
      response->set_heartbeat_ms(
          static_cast<std::uint32_t>(options_.heartbeat.count() / 1'000'000));
      response->set_lease_ms(static_cast<std::uint32_t>(options_.lease.count() / 1'000'000));
      return membership_.join(*worker);
    });
  }
  grpc::ServerUnaryReactor* Leave(grpc::CallbackServerContext* context,
                                  const ps::LeaveRequest* request, ps::LeaveResponse*) override {
    return answer(context, [&]() -> Result<void> {
      membership_.leave(request->instance_id());
      return {};
    });
  }

  template <class Do>
  grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, Do what) {
    const Result<void> done = what();
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(done ? grpc::Status::OK : rpc::to_status(done.error()));
    return reactor;
  }

  const JoinServerOptions options_;
  Membership& membership_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

class Worker final : public Joining {
 public:
  explicit Worker(const JoinOptions& options)
      : options_(options),
        bearer_(rpc::bearer_of(options.secret)),
        stub_(ps::FrontEnd::NewStub(rpc::open_channel(options.front_end))),
        thread_([this] { run(); }) {}

  ~Worker() override {
    {
      const std::lock_guard lock(mutex_);
      leaving_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  void drain() override {
    {
      const std::lock_guard lock(mutex_);
      draining_ = hurry_ = true;
    }
    changed_.notify_one();
  }
  [[nodiscard]] bool joined() const override {
    const std::lock_guard lock(mutex_);
    return joined_;
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (!leaving_) {
      const bool draining = draining_;
      hurry_ = false;
      lock.unlock();
      const Nanos pause = join(draining);
      lock.lock();
      changed_.wait_for(lock, pause, [this] { return leaving_ || hurry_; });
    }
    if (!was_joined_) return;  // nobody waits for its leaving
    lock.unlock();
    leave();
  }

  /// How long to wait before the next time.
  Nanos join(bool draining) {
    ps::JoinRequest request;
    request.set_revision(kRevision);
    request.set_instance_id(options_.instance);
    request.set_host(options_.host);
    request.set_port(options_.port);
    request.set_draining(draining);
    request.set_role(role_of(options_.role));
    request.set_labels(format_labels(options_.labels));
    wire::write(options_.info, options_.tells_kv_events, *request.mutable_card());
    ps::JoinResponse response;
    grpc::ClientContext context;
    rpc::add_headers(context, bearer_, {});
    context.set_deadline(std::chrono::system_clock::now() + kJoinTimeout);
    const grpc::Status status = stub_->Join(&context, request, &response);
    note(status);
    if (!status.ok()) return kRetry;
    const auto heartbeat = std::clamp(response.heartbeat_ms(), 10U, 60'000U);
    return std::chrono::milliseconds(heartbeat);
  }

  void note(const grpc::Status& status) {
    const bool joined = status.ok();
    {
      const std::lock_guard lock(mutex_);
      if (joined && !joined_) log::info("joined {}", options_.front_end);
      joined_ = joined;
      was_joined_ |= joined;
    }
    if (joined) trouble_ = {};
    if (joined || !trouble_.raise(SteadyClock().now(), status.error_message())) return;
    log::warn("cannot join {}: {}; trying again and again", options_.front_end,
              status.error_message());
  }

  void leave() {
    ps::LeaveRequest request;
    request.set_instance_id(options_.instance);
    ps::LeaveResponse response;
    grpc::ClientContext context;
    rpc::add_headers(context, bearer_, {});
    context.set_deadline(std::chrono::system_clock::now() + kLeaveTimeout);
    const grpc::Status status = stub_->Leave(&context, request, &response);
    if (!status.ok()) {
      log::warn("could not tell {} of leaving: {}", options_.front_end, status.error_message());
    }
  }

  const JoinOptions options_;
  const std::string bearer_;
  const std::unique_ptr<ps::FrontEnd::Stub> stub_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool leaving_ = false;
  bool draining_ = false;
  bool hurry_ = false;
  bool joined_ = false;
  bool was_joined_ = false;
  Complaint trouble_;   // the thread's
  std::thread thread_;  // last: it uses the others
};

}  // namespace

Result<std::unique_ptr<JoinServer>> JoinServer::start(const JoinServerOptions& options,
                                                      Membership& membership) {
  auto server = std::make_unique<FrontEnd>(options, membership);
  if (Result<void> listens = server->listen(); !listens) return std::unexpected(listens.error());
  return server;
}

std::unique_ptr<Joining> Joining::start(const JoinOptions& options) {
  return std::make_unique<Worker>(options);
}

std::string new_instance() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

}  // namespace penstock::engine
