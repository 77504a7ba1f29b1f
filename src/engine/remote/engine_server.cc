#include "engine/remote/engine_server.h"

#include <atomic>
#include <charconv>
#include <mutex>
#include <stop_token>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/version.h"
#include "engine/remote/internal/rpc.h"
#include "engine/remote/internal/serving_call.h"
#include "engine/remote/internal/watches.h"
#include "engine/remote/internal/wire.h"
#include "engine/remote/openengine.grpc.pb.h"
#include "engine/remote/penstock.grpc.pb.h"

namespace penstock::engine {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using namespace wire;  // NOLINT(google-build-using-namespace): oe and ps, on every line

grpc::ServerUnaryReactor* answer(CallbackServerContext* context, const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

/// A stream that is over before it began.
template <class Response>
class Refusal final : public grpc::ServerWriteReactor<Response> {
 public:
  explicit Refusal(const grpc::Status& status) { this->Finish(status); }
  void OnDone() override { delete this; }
};

/// The caller may leave before the engine is done, and the engine be done before it is heard.
class EmbedCall final : public ServerUnaryReactor {
 public:
  /// `open`: how many are not answered.
  EmbedCall(ps::EmbedResponse* response, std::atomic<std::size_t>& open)
      : response_(response), open_(open) {
    ++open_;
  }

  void done(Result<std::vector<float>> values) {
    if (!answered_.exchange(true)) {
      if (values) response_->mutable_values()->Assign(values->begin(), values->end());
      --open_;
      Finish(values ? grpc::Status::OK : rpc::to_status(values.error()));
    }
    release();
  }
  [[nodiscard]] std::stop_token stop_token() const noexcept { return stop_.get_token(); }
  void OnCancel() override {
    stop_.request_stop();
    if (answered_.exchange(true)) return;
    --open_;
    Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { release(); }

 private:
  ~EmbedCall() override = default;
  void release() {
    if (users_.fetch_sub(1) == 1) delete this;
  }

  ps::EmbedResponse* const response_;  // gRPC's, until answered
  std::atomic<std::size_t>& open_;     // the server's, which outlives what is not answered
  std::stop_source stop_;
  std::atomic<bool> answered_ = false;
  std::atomic<int> users_ = 2;
};

/// When nobody wants the answer any more, by this machine's steady clock.
Deadline deadline_of(const CallbackServerContext& context, TimePoint now) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  constexpr auto kNever = std::chrono::hours(24 * 365);
  return left > kNever ? Deadline() : Deadline(now + std::chrono::duration_cast<Nanos>(left));
}

Result<std::int32_t> priority_of(const CallbackServerContext& context) {
  const std::string_view text = rpc::header(context, "openengine-priority");
  std::int32_t priority = 0;
  const auto end = text.data() + text.size();
  if (text.empty() || std::from_chars(text.data(), end, priority).ptr == end) return priority;
  return fail(Code::kInvalidArgument, "openengine-priority: expected a whole number");
}

class Server final : public EngineServer, public CallRegistry {
 public:
  Server(const EngineServerOptions& options, Engine& engine, const Clock& clock)
      : options_(options), engine_(engine), clock_(clock), pump_(clock) {}

  ~Server() override {
    // Cancels what runs, and waits until gRPC has let go of every call.
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  }

  Result<void> listen() {
    auto server =
        rpc::start_server(options_.address, options_.secret, {&inference_, &control_, &worker_},
                          rpc::kMessageBytesMax, port_);
    if (!server) return std::unexpected(server.error());
    server_ = std::move(*server);
    return {};
  }

  [[nodiscard]] std::uint16_t port() const noexcept override {
    return static_cast<std::uint16_t>(port_);
  }
  void drain() noexcept override { draining_.store(true); }
  [[nodiscard]] std::size_t live() const override {
    const std::lock_guard lock(mutex_);
    return live_.size() + embeds_;
  }
  void ended(const std::string& request_id) override {
    const std::lock_guard lock(mutex_);
    live_.erase(request_id);
  }

 private:
  class Inference final : public oe::Inference::CallbackService {
   public:
    explicit Inference(Server& server) : server_(server) {}
    grpc::ServerWriteReactor<oe::GenerateResponse>* Generate(
        CallbackServerContext* context, const oe::GenerateRequest* request) override {
      return server_.generate(*context, *request);
    }

   private:
    Server& server_;
  };

  class Control final : public oe::Control::CallbackService {
   public:
    explicit Control(Server& server) : server_(server) {}
    ServerUnaryReactor* GetServerInfo(CallbackServerContext* context,
                                      const oe::GetServerInfoRequest*,
                                      oe::ServerInfo* info) override {
      return server_.tell(context, [&] { server_.describe(*info); });
    }
    ServerUnaryReactor* GetModelInfo(CallbackServerContext* context,
                                     const oe::GetModelInfoRequest* request,
                                     oe::ModelInfo* info) override {
      return answer(context, server_.describe(*context, request->model(), *info));
    }
    ServerUnaryReactor* GetLoad(CallbackServerContext* context, const oe::GetLoadRequest*,
                                oe::LoadInfo* info) override {
      return server_.tell(context, [&] { server_.describe(*info); });
    }
    ServerUnaryReactor* Health(CallbackServerContext* context, const oe::HealthRequest*,
                               oe::HealthResponse* health) override {
      return server_.tell(context, [&] {
        health->set_state(server_.draining_ ? oe::HEALTH_STATE_DRAINING : oe::HEALTH_STATE_READY);
      });
    }
    ServerUnaryReactor* Abort(CallbackServerContext* context, const oe::AbortRequest* request,
                              oe::AbortResponse* response) override {
      return answer(context, server_.abort(*context, *request, *response));
    }
    grpc::ServerWriteReactor<oe::SubscribeKvEventsResponse>* SubscribeKvEvents(
        CallbackServerContext* context, const oe::SubscribeKvEventsRequest* request) override {
      return server_.subscribe(*context, *request);
    }

   private:
    Server& server_;
  };

  class Worker final : public ps::Worker::CallbackService {
   public:
    explicit Worker(Server& server) : server_(server) {}
    grpc::ServerWriteReactor<ps::LoadReport>* WatchLoad(CallbackServerContext* context,
                                                        const ps::WatchLoadRequest*) override {
      if (const grpc::Status fine = server_.check(*context); !fine.ok()) {
        return new Refusal<ps::LoadReport>(fine);
      }
      return server_.watch(std::make_unique<LoadWatch>(server_.pump_, server_.engine_));
    }
    grpc::ServerWriteReactor<ps::TierBlocks>* WatchTiers(CallbackServerContext* context,
                                                         const ps::WatchTiersRequest*) override {
      return server_.watch_tiers(*context);
    }
    ServerUnaryReactor* Embed(CallbackServerContext* context, const ps::EmbedRequest* request,
                              ps::EmbedResponse* response) override {
      return server_.embed(context, *request, response);
    }
    ServerUnaryReactor* ClearCache(CallbackServerContext* context, const ps::ClearCacheRequest*,
                                   ps::ClearCacheResponse*) override {
      return answer(context, server_.clear_cache(*context));
    }

   private:
    Server& server_;
  };

  [[nodiscard]] grpc::Status check(const CallbackServerContext& context) const {
    return rpc::check_instance(context, options_.instance);
  }
  [[nodiscard]] static Error draining() {
    return {Code::kUnavailable, "the worker is stopping", "", 1};
  }

  grpc::ServerWriteReactor<oe::GenerateResponse>* generate(const CallbackServerContext& context,
                                                           const oe::GenerateRequest& request);
  ServerUnaryReactor* embed(CallbackServerContext* context, const ps::EmbedRequest& request,
                            ps::EmbedResponse* response);
  grpc::Status clear_cache(const CallbackServerContext& context);
  grpc::Status abort(const CallbackServerContext& context, const oe::AbortRequest& request,
                     oe::AbortResponse& response);
  grpc::ServerWriteReactor<oe::SubscribeKvEventsResponse>* subscribe(
      const CallbackServerContext& context, const oe::SubscribeKvEventsRequest& request);
  grpc::ServerWriteReactor<ps::TierBlocks>* watch_tiers(const CallbackServerContext& context);
  void describe(oe::ServerInfo& info) const;
  void describe(oe::LoadInfo& info) const;
  grpc::Status describe(const CallbackServerContext& context, const std::string& model,
                        oe::ModelInfo& info) const;

  template <class Tell>
  ServerUnaryReactor* tell(CallbackServerContext* context, Tell tell) {
    const grpc::Status fine = check(*context);
    if (fine.ok()) tell();
    return answer(context, fine);
  }
  template <class Call>
  Call* watch(std::unique_ptr<Call> call) {
    Call* started = call.get();
    pump_.add(std::move(call));
    return started;
  }

  const EngineServerOptions options_;
  Engine& engine_;
  const Clock& clock_;
  Pump pump_;
  std::atomic<bool> draining_ = false;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, RequestId> live_;  // by the caller's name for it
  std::uint64_t last_id_ = 0;
  std::atomic<std::size_t> embeds_ = 0;  // not answered
  Inference inference_{*this};
  Control control_{*this};
  Worker worker_{*this};
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

grpc::ServerWriteReactor<oe::GenerateResponse>* Server::generate(
    const CallbackServerContext& context, const oe::GenerateRequest& request) {
  using Refused = Refusal<oe::GenerateResponse>;
  if (const grpc::Status fine = check(context); !fine.ok()) return new Refused(fine);
  if (draining_) return new Refused(rpc::to_status(draining()));
  Result<GenerateRequest> wanted = wire::read(request);
  const Result<std::int32_t> priority = priority_of(context);
  if (!wanted || !priority) {
    return new Refused(rpc::to_status(wanted ? priority.error() : wanted.error()));
  }
  RequestId id;
  {
    const std::lock_guard lock(mutex_);
    id = RequestId{++last_id_};
    if (!live_.try_emplace(request.request_id(), id).second) {
      return new Refused(rpc::to_status(
          {Code::kInvalidArgument, "a request of this id is already being served", "", 0}));
    }
  }
  auto* call = new ServingCall(engine_, pump_, *this, id, request.request_id());
  wanted->id = id;
  wanted->sink = call;
  wanted->priority = *priority;
  wanted->arrived = clock_.now();
  wanted->deadline = deadline_of(context, wanted->arrived);
  wanted->traceparent = rpc::header(context, "traceparent");
  if (Result<void> taken = engine_.generate(std::move(*wanted)); !taken) {
    call->refuse(taken.error());
  }
  return call;
}

ServerUnaryReactor* Server::embed(CallbackServerContext* context, const ps::EmbedRequest& request,
                                  ps::EmbedResponse* response) {
  if (const grpc::Status fine = check(*context); !fine.ok()) return answer(context, fine);
  if (draining_) return answer(context, rpc::to_status(draining()));
  auto* call = new EmbedCall(response, embeds_);
  EmbedRequest wanted{.tokens = {request.token_ids().begin(), request.token_ids().end()},
                      .deadline = deadline_of(*context, clock_.now()),
                      .stop = call->stop_token()};
  Result<void> taken = engine_.embed(std::move(wanted), [call](Result<std::vector<float>> values) {
    call->done(std::move(values));
  });
  if (!taken) call->done(std::unexpected(taken.error()));
  return call;
}

grpc::Status Server::clear_cache(const CallbackServerContext& context) {
  if (grpc::Status fine = check(context); !fine.ok()) return fine;
  const Result<void> asked = engine_.clear_cache();
  return asked ? grpc::Status::OK : rpc::to_status(asked.error());
}

grpc::Status Server::abort(const CallbackServerContext& context, const oe::AbortRequest& request,
                           oe::AbortResponse& response) {
  if (grpc::Status fine = check(context); !fine.ok()) return fine;
  std::vector<RequestId> found;
  {
    const std::lock_guard lock(mutex_);
    if (request.has_all_requests()) {
      for (const auto& [name, id] : live_) found.push_back(id);
    } else if (const auto named =
                   live_.find(request.has_kv_session() ? request.kv_session().session_id()
                                                       : request.request_id());
               named != live_.end()) {
      found.push_back(named->second);
    }
  }
  if (request.target_case() == oe::AbortRequest::TARGET_NOT_SET) {
    return rpc::to_status({Code::kInvalidArgument, "which request?", "", 0});
  }
  if (found.empty() && !request.has_all_requests()) {
    return rpc::to_status({Code::kNotFound, "no such request", "", 0});
  }
  for (const RequestId id : found) engine_.abort(id, CancelReason::kClientGone);
  response.set_status(oe::ABORT_STATUS_ABORTED);
  return grpc::Status::OK;
}

grpc::ServerWriteReactor<oe::SubscribeKvEventsResponse>* Server::subscribe(
    const CallbackServerContext& context, const oe::SubscribeKvEventsRequest& request) {
  using Refused = Refusal<oe::SubscribeKvEventsResponse>;
  if (const grpc::Status fine = check(context); !fine.ok()) return new Refused(fine);
  if (engine_.kv_events() == nullptr) {
    return new Refused(
        rpc::to_status({Code::kUnimplemented, "this worker tells no KV events", "", 0}));
  }
  const std::uint64_t next = request.include_snapshot() ? 0 : request.start_sequence_number();
  return watch(std::make_unique<KvWatch>(pump_, *engine_.kv_events(), next));
}

grpc::ServerWriteReactor<ps::TierBlocks>* Server::watch_tiers(
    const CallbackServerContext& context) {
  using Refused = Refusal<ps::TierBlocks>;
  if (const grpc::Status fine = check(context); !fine.ok()) return new Refused(fine);
  const tiers::Store* store = engine_.tier_state().store;
  if (store == nullptr) {
    return new Refused(
        rpc::to_status({Code::kUnimplemented, "this worker has no lower tiers", "", 0}));
  }
  return watch(std::make_unique<TierWatch>(pump_, *store));
}

void Server::describe(oe::ServerInfo& info) const {
  const EngineInfo& engine = engine_.info();
  info.set_engine_name("penstock");
  info.set_engine_version(kVersion);
  info.set_engine_role(oe::ENGINE_ROLE_AGGREGATED);
  info.set_instance_id(options_.instance);
  info.add_supported_models(engine.model);
  info.set_schema_revision(1);
  info.set_minimum_client_revision(1);
  info.mutable_capacity()->set_kv_block_size(engine.block_tokens);
  info.mutable_capacity()->set_total_kv_blocks(engine.kv_blocks_max);
  info.mutable_capacity()->set_max_running_requests(engine.sequences_max);
  wire::write(engine, engine_.kv_events() != nullptr, *info.mutable_card());
}

void Server::describe(oe::LoadInfo& info) const {
  const LoadReport load = engine_.load();
  info.set_instance_id(options_.instance);
  info.set_running_requests(load.running);
  info.set_queued_requests(load.waiting);
  info.set_used_kv_blocks(load.kv_blocks_used);
  info.set_total_kv_blocks(load.kv_blocks_max);
}

grpc::Status Server::describe(const CallbackServerContext& context, const std::string& model,
                              oe::ModelInfo& info) const {
  if (grpc::Status fine = check(context); !fine.ok()) return fine;
  const EngineInfo& engine = engine_.info();
  if (model != engine.model) return rpc::to_status({Code::kNotFound, "no such model", "", 0});
  info.set_model_id(engine.model);
  info.set_served_model_name(engine.model);
  info.set_max_context_length(engine.context_tokens_max);
  info.set_supports_text_input(false);
  info.set_supports_token_ids_input(true);
  return grpc::Status::OK;
}

}  // namespace

Result<std::unique_ptr<EngineServer>> EngineServer::start(const EngineServerOptions& options,
                                                          Engine& engine, const Clock& clock) {
  CHECK(!options.instance.empty());
  auto server = std::make_unique<Server>(options, engine, clock);
  if (Result<void> listens = server->listen(); !listens) {
    return std::unexpected(listens.error());
  }
  return server;
}

}  // namespace penstock::engine
