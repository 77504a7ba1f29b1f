#include "engine/remote/remote_engine.h"

#include <fmt/format.h>
#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <random>
#include <stop_token>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/host_port.h"
#include "base/log.h"
#include "engine/kv_event_log.h"
#include "engine/remote/internal/asking_call.h"
#include "engine/remote/internal/rpc.h"
#include "engine/remote/internal/tier_picture.h"
#include "engine/remote/internal/wire.h"
#include "engine/remote/openengine.grpc.pb.h"
#include "engine/remote/penstock.grpc.pb.h"

namespace penstock::engine {
namespace {

using namespace wire;  // NOLINT(google-build-using-namespace): oe and ps, on every line
using Context = std::shared_ptr<grpc::ClientContext>;

constexpr auto kAskTimeout = std::chrono::seconds(2);

class Remote final : public RemoteEngine, public AskedRequests {
 public:
  Remote(RemoteOptions options, const Clock& clock)
      : options_(std::move(options)),
        clock_(clock),
        host_(bare_host(options_.address)),
        bearer_(rpc::bearer_of(options_.secret)),
        nonce_(std::random_device{}()),
        channel_(rpc::open_channel(options_.address)),
        inference_(oe::Inference::NewStub(channel_)),
        control_(oe::Control::NewStub(channel_)),
        worker_(ps::Worker::NewStub(channel_)) {
    const std::lock_guard lock(mutex_);
    open(load_stream_, Nanos::zero());
  }

  ~Remote() override {
    give_up();
    for (Stream* stream : {&load_stream_, &kv_stream_, &tier_stream_}) {
      Context context;
      {
        const std::lock_guard lock(mutex_);
        if (stream->alarm != nullptr) stream->alarm->Cancel();
        context = stream->context.lock();
      }
      if (context != nullptr) context->TryCancel();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return pending_ == 0; });
  }

  [[nodiscard]] const EngineInfo& info() const override { return options_.info; }
  [[nodiscard]] bool connected() const override { return connected_.load(); }
  Result<void> generate(GenerateRequest request) override;
  void abort(RequestId id, CancelReason) override {
    if (const Context context = context_of(id)) context->TryCancel();
  }
  Result<void> embed(EmbedRequest request, EmbedDone done) override;
  Result<void> clear_cache() override;
  [[nodiscard]] LoadReport load() const override;
  [[nodiscard]] const kv::EventSource* kv_events() const override {
    return options_.tells_kv_events ? &events_ : nullptr;
  }
  [[nodiscard]] bool announces_changes() const override { return true; }
  [[nodiscard]] tiers::LoadChoice foresee_load(std::span<const tiers::Key> keys,
                                               std::size_t have) const override {
    return tier_picture_.foresee(keys, have);
  }
  [[nodiscard]] TierState tier_state() const override {
    const std::lock_guard lock(mutex_);
    return {.stats = tiers_, .costs = {}, .followed_blocks = tier_picture_.blocks()};
  }
  void probe(std::move_only_function<void(bool)> done) override;
  void give_up() override;

  void ending(RequestId id, bool leaves_kv) override {
    const std::lock_guard lock(mutex_);
    auto ended = live_.extract(id);
    change_.set();
    if (leaves_kv && ended) kv_leases_.insert(std::move(ended));
  }
  void lease_over(RequestId id) override {
    const std::lock_guard lock(mutex_);
    kv_leases_.erase(id);
  }
  void over() override {
    const std::lock_guard lock(mutex_);
    --pending_;
    changed_.notify_all();
  }

 private:
  /// A stream from the worker that is opened again whenever it ends.
  struct Stream {
    explicit Stream(void (Remote::*s)()) : start(s) {}
    void (Remote::* const start)();
    std::unique_ptr<grpc::Alarm> alarm;  // a new one each time: the last may still be ringing
    std::weak_ptr<grpc::ClientContext> context;
    Nanos pause = Nanos::zero();  // before it is opened the next time
    bool useless = false;         // it is not opened again
  };

  [[nodiscard]] Context new_context() const {
    auto context = std::make_shared<grpc::ClientContext>();
    rpc::add_headers(*context, bearer_, options_.instance);
    return context;
  }
  void set_deadline(grpc::ClientContext& context, const Deadline& deadline) const {
    const TimePoint at = deadline.at();
    if (at == TimePoint::max()) return;
    context.set_deadline(std::chrono::system_clock::now() + (at - clock_.now()));
  }
  [[nodiscard]] Context context_of(RequestId id) const {
    const std::lock_guard lock(mutex_);
    for (const auto* calls : {&live_, &kv_leases_}) {
      if (const auto found = calls->find(id); found != calls->end()) return found->second;
    }
    return nullptr;
  }
  static std::unexpected<Error> not_connected() {
    return std::unexpected(Error{Code::kUnavailable, "the worker is not connected", "", 1});
  }

  bool ask(const Context& context);
  void open(Stream& stream, Nanos after);
  void ended(Stream& stream);
  void watch_load();
  void watch_events();
  void watch_tiers();
  Context begin(Stream& stream);
  void take(const ps::LoadReport& report);
  bool take(const oe::SubscribeKvEventsResponse& response);
  bool take(const ps::TierBlocks& blocks);
  bool too_many();
  [[nodiscard]] std::uint64_t held_max() const noexcept {
    return std::min(options_.info.kv_blocks_max,
                    options_.kv_picture_bytes_max / KvEventLog::kHeldBlockBytes);
  }

  const RemoteOptions options_;
  const Clock& clock_;
  const std::string host_;  // of the worker, as tickets name it
  const std::string bearer_;
  const std::uint32_t nonce_;  // of the names that requests have there: others ask it as well
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<oe::Inference::Stub> inference_;
  const std::unique_ptr<oe::Control::Stub> control_;
  const std::unique_ptr<ps::Worker::Stub> worker_;

  std::atomic<bool> connected_ = false;  // a report has come over the stream that is open
  KvEventLog events_{KvEventLog::kEventsMax, false, &change_};  // the worker's, by its stream
  // Its stream's:
  std::vector<kv::Event> held_;  // of a list that is not complete yet
  bool fits_ = false;            // something came over this stream, and fitted what is known
  bool resync_ = false;          // what came did not: all that is held, please

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool given_up_ = false;
  std::size_t pending_ = 0;  // calls, streams and alarms that gRPC has not done with
  std::unordered_map<RequestId, Context> live_;
  std::unordered_map<RequestId, Context> kv_leases_;       // ended; the worker keeps their KV
  std::vector<std::weak_ptr<grpc::ClientContext>> asked_;  // calls but requests; some are over
  std::uint64_t given_ = 0;                                // requests, since the start
  LoadReport report_;                                      // the last
  std::optional<tiers::Stats> tiers_;                      // as last told
  std::uint64_t others_ = 0;  // requests the worker had taken before, or from others
  mutable std::uint64_t generation_ = 0;
  Stream load_stream_{&Remote::watch_load};
  Stream kv_stream_{&Remote::watch_events};
  Stream tier_stream_{&Remote::watch_tiers};
  bool follows_ = false;  // from the first connection on: events and tiers
  TierPicture tier_picture_{options_.tier_picture_bytes_max};
};

Result<void> Remote::generate(GenerateRequest request) {
  CHECK(request.sink != nullptr);
  if (!connected_.load()) return not_connected();
  Context context = new_context();
  if (request.priority != 0) {
    context->AddMetadata("openengine-priority", std::to_string(request.priority));
  }
  if (!request.traceparent.empty()) context->AddMetadata("traceparent", request.traceparent);
  set_deadline(*context, request.deadline);
  {
    const std::lock_guard lock(mutex_);
    if (given_up_) return not_connected();
    if (live_.size() >= std::size_t{options_.info.sequences_max} + options_.info.queue_max) {
      return std::unexpected(
          Error{Code::kOverloaded, "the worker's queue is full; try again later", "", 1});
    }
    if (!live_.try_emplace(request.id, context).second) {
      return fail(Code::kInvalidArgument,
                  fmt::format("a request with id {} is already being served", request.id.value));
    }
    ++given_;
    ++pending_;
    change_.set();
  }
  wire::Expected expected{.request = request.id,
                          .vocabulary_size = options_.info.vocabulary_size,
                          .tokens_left = request.prefill_only ? 0 : request.max_tokens,
                          .kv_blocks_max = 0,
                          .worker_host = {},
                          .waited = clock_.now() - request.arrived};
  if (request.prefill_only) {
    expected.kv_blocks_max =
        static_cast<std::uint32_t>(request.prompt.size() / options_.info.block_tokens);
    expected.worker_host = host_;
  }
  auto* call = new AskingCall(*this, request.sink, std::move(expected), std::move(context));
  call->start(*inference_, request, fmt::format("{:x}-{}", nonce_, request.id.value));
  return {};
}

Result<void> Remote::embed(EmbedRequest request, EmbedDone done) {
  if (options_.info.embedding_size == 0) {
    return fail(Code::kUnprocessable, "this model does not make embeddings", "model");
  }
  if (!connected_.load()) return not_connected();
  struct Call {
    Context context;
    ps::EmbedRequest request;
    ps::EmbedResponse response;
    EmbedDone done;
    std::optional<std::stop_callback<std::function<void()>>> on_stop;  // last: gone before context
  };
  auto call = std::make_shared<Call>();
  call->context = new_context();
  set_deadline(*call->context, request.deadline);
  call->done = std::move(done);
  call->request.mutable_token_ids()->Assign(request.tokens.begin(), request.tokens.end());
  if (!ask(call->context)) return not_connected();
  call->on_stop.emplace(request.stop, [context = call->context.get()] { context->TryCancel(); });
  worker_->async()->Embed(
      call->context.get(), &call->request, &call->response,
      [this, call](const grpc::Status& status) {
        const auto& values = call->response.values();
        if (status.ok() && values.size() == static_cast<int>(options_.info.embedding_size)) {
          call->done(std::vector<float>(values.begin(), values.end()));
        } else {
          call->done(std::unexpected(rpc::to_error(status)));
        }
        over();
      });
  return {};
}

/// Whether it was done is told by the events.
Result<void> Remote::clear_cache() {
  if (options_.info.kv_blocks_max == 0) return Engine::clear_cache();
  if (!connected_.load()) return not_connected();
  struct Call {
    Context context;
    ps::ClearCacheRequest request;
    ps::ClearCacheResponse response;
  };
  auto call = std::make_shared<Call>();
  call->context = new_context();
  call->context->set_deadline(std::chrono::system_clock::now() + kAskTimeout);
  if (!ask(call->context)) return not_connected();
  worker_->async()->ClearCache(call->context.get(), &call->request, &call->response,
                               [this, call](const grpc::Status& status) {
                                 if (!status.ok()) {
                                   log::warn("worker {}: its cache was not cleared: {}",
                                             options_.address, status.error_message());
                                 }
                                 over();
                               });
  return {};
}

/// The worker counts the requests of all who ask it, and does not say which are this one's. What is
/// certain: those that have ended it had taken (or refused), and no more than were given.
LoadReport Remote::load() const {
  const std::lock_guard lock(mutex_);
  LoadReport report = report_;
  const std::uint64_t taken = report.accepted - std::min(report.accepted, others_);
  report.accepted = std::clamp(taken, given_ - live_.size(), given_);
  report.generation = ++generation_;
  return report;
}

void Remote::probe(std::move_only_function<void(bool)> done) {
  struct Call {
    Context context;
    oe::HealthRequest request;
    oe::HealthResponse response;
    std::move_only_function<void(bool)> done;
  };
  auto call = std::make_shared<Call>();
  call->context = new_context();
  call->context->set_deadline(std::chrono::system_clock::now() + kAskTimeout);
  call->done = std::move(done);
  if (!ask(call->context)) return call->done(false);
  control_->async()->Health(call->context.get(), &call->request, &call->response,
                            [this, call](const grpc::Status& status) {
                              call->done(status.ok());
                              over();
                            });
}

/// Counts a call that is not a request; false: too late.
bool Remote::ask(const Context& context) {
  const std::lock_guard lock(mutex_);
  if (given_up_) return false;
  std::erase_if(asked_, [](const auto& asked) { return asked.expired(); });
  asked_.push_back(context);
  ++pending_;
  return true;
}

void Remote::give_up() {
  std::vector<Context> contexts;
  {
    const std::lock_guard lock(mutex_);
    given_up_ = true;
    connected_ = false;
    change_.set();
    for (const auto* calls : {&live_, &kv_leases_}) {
      for (const auto& [id, context] : *calls) contexts.push_back(context);
    }
    for (const auto& asked : asked_) {
      if (Context context = asked.lock()) contexts.push_back(std::move(context));
    }
  }
  for (const Context& context : contexts) context->TryCancel();
}

/// Under the lock.
void Remote::open(Stream& stream, Nanos after) {
  if (given_up_ || stream.useless) return;
  ++pending_;
  stream.alarm = std::make_unique<grpc::Alarm>();
  stream.alarm->Set(std::chrono::system_clock::now() + after, [this, &stream](bool due) {
    if (due) (this->*stream.start)();
    over();
  });
}

void Remote::ended(Stream& stream) {
  const std::lock_guard lock(mutex_);
  stream.pause = std::clamp(2 * stream.pause, options_.reconnect_first, options_.reconnect_max);
  open(stream, stream.pause);
  --pending_;
  changed_.notify_all();
}

/// Counts a stream that is opened now; null: too late.
Context Remote::begin(Stream& stream) {
  Context context = new_context();
  const std::lock_guard lock(mutex_);
  if (given_up_) return nullptr;
  stream.context = context;
  ++pending_;
  return context;
}

void Remote::watch_load() {
  const Context context = begin(load_stream_);
  if (context == nullptr) return;
  static const ps::WatchLoadRequest kRequest;
  auto* call = new WatchingCall<ps::LoadReport>(
      context,
      [this](const ps::LoadReport& report) {
        take(report);
        return true;
      },
      [this](const grpc::Status& status) {
        if (connected_.exchange(false)) {
          change_.set();
          log::warn("worker {}: the connection broke: {}", options_.address,
                    status.error_message());
        }
        ended(load_stream_);
      });
  worker_->async()->WatchLoad(context.get(), &kRequest, call);
  call->start();
}

void Remote::take(const ps::LoadReport& message) {
  const std::lock_guard lock(mutex_);
  if (given_up_) return;
  const bool first = !connected_.exchange(true);
  report_ = wire::read(message, clock_.now());
  if (message.has_tiers()) tiers_ = wire::read(message.tiers());
  if (message.has_tier_costs()) tier_picture_.take(wire::read(message.tier_costs()));
  if (live_.empty()) others_ = report_.accepted - std::min(report_.accepted, given_);
  change_.set();
  load_stream_.pause = Nanos::zero();
  if (!first || std::exchange(follows_, true)) return;
  if (options_.tells_kv_events) open(kv_stream_, Nanos::zero());
  if (!options_.info.kv_tiers_key.empty()) open(tier_stream_, Nanos::zero());
}

void Remote::watch_events() {
  const Context context = begin(kv_stream_);
  if (context == nullptr) return;
  auto request = std::make_shared<oe::SubscribeKvEventsRequest>();
  request->set_start_sequence_number(events_.last_sequence() + 1);
  request->set_include_snapshot(resync_);
  held_ = {};
  fits_ = false;
  auto* call = new WatchingCall<oe::SubscribeKvEventsResponse>(
      context,
      [this](const oe::SubscribeKvEventsResponse& response) {
        const bool taken = take(response);
        // What broke off is asked for again from where it did, once.
        if (!taken) resync_ = !fits_;
        return taken;
      },
      [this, request](const grpc::Status&) { ended(kv_stream_); });
  control_->async()->SubscribeKvEvents(context.get(), request.get(), call);
  call->start();
}

bool Remote::take(const oe::SubscribeKvEventsResponse& response) {
  const oe::KvEventBatch& batch = response.batch();
  std::vector<kv::Event> events;
  for (const oe::KvEvent& event : batch.events()) {
    Result<kv::Event> read = wire::read(event);
    if (!read) return false;
    read->tokens = {};  // nobody reads them here: a block is known by its hashes
    events.push_back(std::move(*read));
  }
  const bool all_held =
      !held_.empty() || (!events.empty() && events.front().kind == kv::Event::Kind::kCleared);
  if (all_held) {
    if (held_.empty() && batch.goes_on()) held_.reserve(held_max() + 1);
    std::ranges::move(events, std::back_inserter(held_));
    if (held_.size() > held_max() + 1) return too_many();
    if (batch.goes_on()) return true;
    if (held_.size() == 1 && batch.sequence_number() == events_.last_sequence() + 1) {
      events_.cleared();
    } else {
      // The first only says that the others are all.
      events_.reset(batch.sequence_number(), std::span(held_).subspan(1));
    }
    held_ = {};
  } else {
    if (batch.sequence_number() != events_.last_sequence() + events.size()) return false;
    for (kv::Event& event : events) {
      if (event.kind == kv::Event::Kind::kStored) {
        events_.stored(std::move(event));
        if (events_.held() > held_max()) return too_many();
      } else {
        events_.removed(event.hash);
      }
    }
    // A block that was removed but never held leaves a hole.
    if (events_.last_sequence() != batch.sequence_number()) return false;
  }
  fits_ = true;
  resync_ = false;
  const std::lock_guard lock(mutex_);
  kv_stream_.pause = Nanos::zero();
  return true;
}

void Remote::watch_tiers() {
  const Context context = begin(tier_stream_);
  if (context == nullptr) return;
  static const ps::WatchTiersRequest kRequest;
  auto* call = new WatchingCall<ps::TierBlocks>(
      context, [this](const ps::TierBlocks& blocks) { return take(blocks); },
      [this](const grpc::Status&) { ended(tier_stream_); });
  worker_->async()->WatchTiers(context.get(), &kRequest, call);
  call->start();
}

bool Remote::take(const ps::TierBlocks& blocks) {
  constexpr int kKeysMax = 1 << 16;  // a worker sends some hundred at once
  const int keys = blocks.in_host_size() + blocks.on_disk_size() + blocks.nowhere_size();
  const bool fits = keys <= kKeysMax && tier_picture_.take(wire::read(blocks));
  if (!fits) {
    tier_picture_.clear();
    log::warn(
        "worker {}: tells of more KV blocks in lower tiers than the {} that a front end follows, "
        "or of too many at once; what it has there is not foreseen",
        options_.address, tier_picture_.blocks_max());
  }
  const std::lock_guard lock(mutex_);
  tier_stream_.pause = Nanos::zero();
  tier_stream_.useless = !fits;
  return fits;
}

/// It tells of more blocks than it has room for, and is not believed any more; or of more than
/// there is room for here, and a part of them would be a wrong picture.
bool Remote::too_many() {
  log::warn("worker {}: tells of more KV blocks than {}; its events are left aside",
            options_.address,
            held_max() == options_.info.kv_blocks_max
                ? "it has room for"
                : fmt::format("the {} that a front end follows", held_max()));
  held_ = {};
  events_.reset(events_.last_sequence() + 1, {});
  const std::lock_guard lock(mutex_);
  kv_stream_.useless = true;
  return false;
}

}  // namespace

std::unique_ptr<RemoteEngine> RemoteEngine::connect(RemoteOptions options, const Clock& clock) {
  return std::make_unique<Remote>(std::move(options), clock);
}

}  // namespace penstock::engine
