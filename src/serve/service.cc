#include "serve/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <memory>
#include <utility>

#include "api/openai.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "base/version.h"
#include "engine/role.h"
#include "serve/desk.h"
#include "serve/process_stats.h"
#include "serve/workers_page.h"

namespace penstock::serve {
namespace {

using Method = net::HttpRequest::Method;

constexpr std::string_view kJson = "application/json";
constexpr std::string_view kChat = "/v1/chat/completions";
constexpr std::string_view kCompletions = "/v1/completions";
constexpr std::string_view kEmbeddings = "/v1/embeddings";
constexpr std::string_view kModels = "/v1/models";
constexpr std::string_view kDebug = "/debug/";

/// What metrics call it.
std::string_view endpoint_of(std::string_view path) {
  if (path == kChat) return "chat_completions";
  if (path == kCompletions) return "completions";
  if (path == kEmbeddings) return "embeddings";
  if (path.starts_with(kModels)) return "models";
  return path.starts_with(kDebug) ? "debug" : "other";
}

bool commands_worker(std::string_view path) { return path.starts_with("/debug/workers/"); }

/// Wherever GET is taken, HEAD is too.
std::string_view methods_of(std::string_view path) {
  const bool takes_post =
      path == kChat || path == kCompletions || path == kEmbeddings || commands_worker(path);
  return takes_post ? "POST" : "GET, HEAD";
}

/// Of paths that exist.
Result<void> check_method(const net::HttpRequest& request) {
  const std::string_view allowed = methods_of(request.path());
  const bool is_get = request.method == Method::kGet || request.method == Method::kHead;
  if (allowed == "POST" ? request.method == Method::kPost : is_get) return {};
  return fail(Code::kMethodNotAllowed,
              fmt::format("this path takes {} only", allowed.substr(0, allowed.find(','))));
}

/// A part of a path with its escapes resolved: clients write a model's "org/name" as "org%2Fname".
/// What is no escape stays as it is.
std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned char code = 0;
    const char* end = text.data() + std::min(i + 3, text.size());
    const bool escaped = text[i] == '%' && end == text.data() + i + 3 &&
                         std::from_chars(text.data() + i + 1, end, code, 16).ptr == end;
    out += escaped ? static_cast<char>(code) : text[i];
    if (escaped) i += 2;
  }
  return out;
}

Result<fleet::Role> role_of(std::string_view query) {
  const auto role = query.starts_with("to=") ? engine::find_role(query.substr(3)) : std::nullopt;
  if (role) return *role;
  return fail(Code::kInvalidArgument, "expected ?to=prefill, ?to=decode or ?to=both", "to");
}

}  // namespace

void answer_error(net::Exchange& exchange, const Error& error) {
  const std::string body = api::error_body(error);
  if (error.retry_after_s > 0) {
    const std::string after = std::to_string(error.retry_after_s);
    exchange.respond(http_status(error.code), kJson, body, {{"retry-after", after}});
  } else if (error.code == Code::kUnauthorized) {
    exchange.respond(401, kJson, body, {{"www-authenticate", "Bearer"}});
  } else if (error.code == Code::kMethodNotAllowed) {
    exchange.respond(405, kJson, body, {{"allow", methods_of(exchange.request().path())}});
  } else {
    exchange.respond(http_status(error.code), kJson, body);
  }
}

Service::Service(const ServiceOptions& options, const Clock& clock)
    : options_(options), clock_(clock) {}

Service::~Service() = default;

void Service::open(net::HttpServer& server) {
  const std::size_t segment_bytes_max = options_.segment_bytes_max / server.loop_count();
  for (std::size_t i = 0; i < server.loop_count(); ++i) {
    desks_.push_back(std::make_unique<Desk>(*this, server.loop(i), segment_bytes_max));
  }
  server_.store(&server);
}

void Service::close() {
  server_.store(nullptr);
  desks_.clear();
}

void Service::set_model(ServedModel& model) {
  const std::string identity = fmt::format("{} {}", kVersion, model.info().model);
  fingerprint_ = fmt::format("fp_{:012x}", std::hash<std::string>{}(identity) & 0xFFFF'FFFF'FFFFU);
  model_.store(&model);
}
void Service::set_loading(float progress) { loading_.store(progress); }

void Service::set_failed(std::string message) {
  const std::lock_guard lock(failure_mutex_);
  failure_ = std::move(message);
}

void Service::drain() {
  draining_.store(true);
  if (ServedModel* model = model_.load()) model->dispatcher().drain();
}

void Service::shut_down() {
  for (const std::unique_ptr<Desk>& desk : desks_) {
    desk->loop().post([&desk = *desk] {
      desk.shut_down({Code::kUnavailable, "the server is shutting down", "", 1});
    });
  }
}

ServedModel* Service::model_in_service() const {
  return draining_.load() ? nullptr : model_.load();
}

/// Workers of other processes come and go.
bool Service::can_answer() const {
  ServedModel* model = model_in_service();
  return model != nullptr && model->dispatcher().requests_max() > 0;
}

Permit Service::admit() {
  if (in_flight_.fetch_add(1) < options_.in_flight_max) return Permit(in_flight_);
  in_flight_.fetch_sub(1);
  return {};
}

Error Service::not_ready() const {
  if (draining_.load()) return {Code::kUnavailable, "the server is shutting down", "", 1};
  const std::lock_guard lock(failure_mutex_);
  if (!failure_.empty())
    return {Code::kUnavailable, fmt::format("the model could not be loaded: {}", failure_), "", 0};
  if (model_.load() != nullptr) return {Code::kUnavailable, "no worker takes requests", "", 1};
  if (loading_.load() == kAwaitsWorker) return {Code::kUnavailable, "no worker has joined", "", 1};
  return {Code::kUnavailable,
          fmt::format("the model is still loading ({:.0f} %)", 100 * loading_.load()), "", 1};
}

Result<void> Service::authorise(const net::HttpRequest& request) const {
  if (options_.api_keys.empty()) return {};
  constexpr std::string_view kScheme = "bearer ";
  std::string_view given = request.header("authorization");
  const bool bearer =
      given.size() > kScheme.size() &&
      std::ranges::equal(given.substr(0, kScheme.size()), kScheme, [](char a, char b) {
        return std::tolower(static_cast<unsigned char>(a)) == b;
      });
  bool known = false;
  if (bearer) {
    given.remove_prefix(kScheme.size());
    for (const std::string& key : options_.api_keys) known |= same_secret(given, key);
  }
  if (known) return {};
  return fail(Code::kUnauthorized, given.empty() ? "an API key is needed: Authorization: Bearer KEY"
                                                 : "the API key is not known here");
}

void Service::handle(net::Exchange& exchange) {
  const std::string_view endpoint = endpoint_of(exchange.request().path());
  if (Result<void> done = route(exchange); !done) {
    metrics_.refused(endpoint, http_status(done.error().code));
    answer_error(exchange, done.error());
  }
}

Result<void> Service::route(net::Exchange& exchange) {
  const net::HttpRequest& request = exchange.request();
  const std::string_view path = request.path();
  const auto is = [&](std::string_view p) { return path == p; };

  if (request.method == Method::kOptions && !options_.cors_origin.empty()) {
    answer_preflight(exchange);
    return {};
  }
  if (is("/health") || is("/ready") || is("/version") || is("/metrics")) {
    if (Result<void> fine = check_method(request); !fine) return fine;
    if (is("/ready")) {
      answer_ready(exchange);
    } else if (is("/metrics")) {
      answer_metrics(exchange);
    } else {
      exchange.respond(
          200, kJson,
          is("/health") ? R"({"status":"ok"})" : fmt::format(R"({{"version":"{}"}})", kVersion));
    }
    return {};
  }
  if (server_.load() == nullptr) return std::unexpected(not_ready());
  if (path.starts_with(kDebug)) return answer_debug(exchange);
  if (!path.starts_with("/v1/")) {
    return fail(Code::kNotFound,
                "no such path; see /v1/models, /v1/chat/completions, /v1/completions, "
                "/v1/embeddings, /health, /ready, /metrics");
  }
  if (Result<void> known = authorise(request); !known) return known;
  if (is(kModels) || path.starts_with("/v1/models/")) {
    if (Result<void> fine = check_method(request); !fine) return fine;
    return answer_models(exchange, unescape(path.substr(std::min<std::size_t>(11, path.size()))));
  }
  return generate(exchange);
}

Result<void> Service::generate(net::Exchange& exchange) {
  const std::string_view path = exchange.request().path();
  if (path != kChat && path != kCompletions && path != kEmbeddings) {
    return fail(Code::kNotFound,
                "no such path under /v1: this server has models, chat/completions, completions "
                "and embeddings");
  }
  if (Result<void> fine = check_method(exchange.request()); !fine) return fine;
  ServedModel* model = model_in_service();
  if (model == nullptr) return std::unexpected(not_ready());
  Desk& desk = *desks_[exchange.loop().index()];
  if (path == kChat) return desk.chat(exchange, *model);
  if (path == kCompletions) return desk.complete(exchange, *model);
  return desk.embed(exchange, *model);
}

/// What a browser asks before a page of another origin may ask. Which origin may, every answer says
/// (net::HttpServerOptions::answer_headers).
void Service::answer_preflight(net::Exchange& exchange) const {
  const std::string wanted(exchange.request().header("access-control-request-headers"));
  exchange.respond(204, "", "",
                   {{"access-control-allow-methods", "GET, POST, OPTIONS"},
                    {"access-control-allow-headers", wanted.empty() ? "*" : wanted},
                    {"access-control-max-age", "86400"}});
}

void Service::answer_ready(net::Exchange& exchange) {
  if (can_answer()) return exchange.respond(200, kJson, R"({"status":"ready"})");
  const Error why = not_ready();
  std::string body = R"({"status":"not ready","reason":)";
  api::append_json_string(body, why.message);
  body += '}';
  exchange.respond(503, kJson, body, {{"retry-after", "1"}});
}

void Service::answer_metrics(net::Exchange& exchange) {
  Metrics::Gauges gauges;
  gauges.in_flight = in_flight_.load();
  gauges.ready = can_answer();
  if (ServedModel* model = model_.load()) {
    gauges.requests_max = static_cast<double>(model->dispatcher().requests_max());
  }
  metrics_.set(gauges);
  if (const net::HttpServer* server = server_.load()) metrics_.set(server->stats());
  metrics_.set(read_process_stats());
  if (ServedModel* model = model_.load()) metrics_.set(model->dispatcher().view());
  exchange.respond(200, "text/plain; version=0.0.4; charset=utf-8", metrics_.page());
}

Result<void> Service::answer_models(net::Exchange& exchange, std::string_view id) {
  std::vector<api::ModelCard> cards;
  if (ServedModel* model = model_.load()) {
    for (const std::string& name : model->names()) {
      cards.push_back({name, model->created(), model->info().context_tokens_max});
    }
  }
  if (id.empty()) {
    exchange.respond(200, kJson, api::model_list(cards));
    return {};
  }
  for (const api::ModelCard& card : cards) {
    if (card.id != id) continue;
    exchange.respond(200, kJson, api::model_body(card));
    return {};
  }
  return fail(Code::kModelNotFound,
              fmt::format("the model \"{}\" is not served here", id.substr(0, 60)), "model");
}

Result<void> Service::answer_debug(net::Exchange& exchange) {
  const net::HttpRequest& request = exchange.request();
  const std::string_view page = request.path().substr(kDebug.size());
  const bool is_command = commands_worker(request.path());
  if (page != "requests" && page != "workers" && page != "decisions" && !is_command) {
    return fail(Code::kNotFound,
                "no such page: there are /debug/requests, /debug/workers, /debug/decisions, "
                "POST /debug/workers/N/role?to=ROLE and POST /debug/workers/N/clear-cache");
  }
  if (Result<void> known = authorise(request); !known) return known;
  if (Result<void> fine = check_method(request); !fine) return fine;
  if (page == "requests") {
    answer_requests(exchange);
    return {};
  }
  ServedModel* model = model_.load();
  if (model == nullptr) return std::unexpected(not_ready());
  Dispatcher& dispatcher = model->dispatcher();
  if (is_command) return command_worker(exchange, dispatcher, page);
  if (page == "workers") {
    exchange.respond(200, kJson, workers_json(model->name(), dispatcher.view()));
  } else {
    exchange.respond(
        200, kJson,
        decisions_json(dispatcher.policy(), dispatcher.terms(), dispatcher.decisions()));
  }
  return {};
}

/// POST /debug/workers/N/role?to=prefill, decode or both, and /debug/workers/N/clear-cache.
Result<void> Service::command_worker(net::Exchange& exchange, Dispatcher& dispatcher,
                                     std::string_view page) {
  page.remove_prefix(std::string_view("workers/").size());
  const std::string_view number = page.substr(0, page.find('/'));
  const std::string_view command = page.substr(std::min(page.size(), number.size() + 1));
  kv::Slot slot = 0;
  const auto read = std::from_chars(number.data(), number.data() + number.size(), slot);
  if (number.empty() || read.ec != std::errc{} || read.ptr != number.data() + number.size()) {
    return fail(Code::kNotFound, "there is no such worker");
  }
  if (command == "clear-cache") {
    if (Result<void> asked = dispatcher.clear_cache(slot); !asked) return asked;
    log::info("worker {} clears its cache", slot);
    exchange.respond(202, kJson, fmt::format(R"({{"worker":{}}})", slot));
    return {};
  }
  if (command != "role") {
    return fail(Code::kNotFound,
                "a worker takes POST /debug/workers/N/role?to=ROLE and "
                "POST /debug/workers/N/clear-cache");
  }
  const Result<fleet::Role> role = role_of(exchange.request().query());
  if (!role) return std::unexpected(role.error());
  const Result<fleet::Role> now = dispatcher.set_role(slot, *role);
  if (!now) return std::unexpected(now.error());
  log::info("worker {} has the role {} from now on", slot, to_string(*now));
  exchange.respond(200, kJson,
                   fmt::format(R"({{"worker":{},"role":"{}"}})", slot, to_string(*now)));
  return {};
}

/// Asks every loop for its live requests; the last one to answer sends the page.
void Service::answer_requests(net::Exchange& exchange) {
  struct Page : net::Transaction {
    explicit Page(std::shared_ptr<bool> a) : alive(std::move(a)) {}
    ~Page() override { *alive = false; }
    void on_client_gone() override {}
    std::shared_ptr<bool> alive;
  };
  struct Gathered {
    std::atomic<std::size_t> left;
    std::mutex mutex;
    std::string list;
  };
  auto alive = std::make_shared<bool>(true);  // touched on the asking loop only
  auto gathered = std::make_shared<Gathered>();
  gathered->left = desks_.size();
  exchange.own(std::make_unique<Page>(alive));
  net::Loop& asking = exchange.loop();
  for (const std::unique_ptr<Desk>& desk : desks_) {
    desk->loop().post([&desk = *desk, &asking, &exchange, alive, gathered] {
      {
        const std::string part = desk.describe();
        const std::lock_guard lock(gathered->mutex);
        if (!part.empty() && !gathered->list.empty()) gathered->list += ',';
        gathered->list += part;
      }
      if (gathered->left.fetch_sub(1) > 1) return;
      asking.post([&exchange, alive, gathered] {
        if (*alive)
          exchange.respond(200, kJson, fmt::format(R"({{"requests":[{}]}})", gathered->list));
      });
    });
  }
}

}  // namespace penstock::serve
