#include "serve/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <utility>

#include "api/openai.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/version.h"
#include "serve/desk.h"
#include "serve/workers_page.h"

namespace penstock::serve {
namespace {

using Method = net::HttpRequest::Method;

constexpr std::string_view kJson = "application/json";

/// Takes as long whatever the bytes are, so that a key cannot be guessed byte by byte.
bool same_secret(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference |=
        static_cast<unsigned char>(i < a.size() ? a[i] : 0) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

void refuse_method(net::Exchange& exchange, std::string_view allowed) {
  const Error error{Code::kMethodNotAllowed, fmt::format("this path takes {} only", allowed), "",
                    0};
  // Wherever GET is taken, HEAD is too.
  exchange.respond(405, kJson, api::error_body(error),
                   {{"allow", allowed == "GET" ? "GET, HEAD" : allowed}});
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
  for (const fleet::Role role : {fleet::Role::kBoth, fleet::Role::kPrefill, fleet::Role::kDecode}) {
    if (query.starts_with("to=") && query.substr(3) == to_string(role)) return role;
  }
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

void Service::set_model(ServedModel& model) { model_.store(&model); }
void Service::set_loading(float progress) { loading_.store(progress); }

void Service::set_failed(std::string message) {
  const std::lock_guard lock(failure_mutex_);
  failure_ = std::move(message);
}

void Service::drain() {
  draining_.store(true);
  if (ServedModel* model = model_.load()) model->dispatcher().drain();
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
  if (loading_.load() == kAwaitsWorker) return {Code::kUnavailable, "no worker has joined", "", 1};
  return {Code::kUnavailable,
          fmt::format("the model is still loading ({:.0f} %)", 100 * loading_.load()), "", 1};
}

bool Service::authorised(const net::HttpRequest& request) const {
  if (options_.api_keys.empty()) return true;
  constexpr std::string_view kScheme = "bearer ";
  std::string_view given = request.header("authorization");
  const bool bearer =
      given.size() > kScheme.size() &&
      std::ranges::equal(given.substr(0, kScheme.size()), kScheme, [](char a, char b) {
        return std::tolower(static_cast<unsigned char>(a)) == b;
      });
  if (!bearer) return false;
  given.remove_prefix(kScheme.size());
  bool known = false;
  for (const std::string& key : options_.api_keys) known |= same_secret(given, key);
  return known;
}

void Service::handle(net::Exchange& exchange) {
  const net::HttpRequest& request = exchange.request();
  const std::string_view path = request.path();
  const bool is_get = request.method == Method::kGet || request.method == Method::kHead;
  const auto is = [&](std::string_view p) { return path == p; };

  if (is("/health"))
    return is_get ? exchange.respond(200, kJson, R"({"status":"ok"})")
                  : refuse_method(exchange, "GET");
  if (is("/ready")) return is_get ? answer_ready(exchange) : refuse_method(exchange, "GET");
  if (is("/version")) {
    return is_get ? exchange.respond(200, kJson, fmt::format(R"({{"version":"{}"}})", kVersion))
                  : refuse_method(exchange, "GET");
  }
  if (is("/metrics")) return is_get ? answer_metrics(exchange) : refuse_method(exchange, "GET");
  if (server_.load() == nullptr) return answer_error(exchange, not_ready());
  if (path.starts_with("/debug/")) return answer_debug(exchange);
  if (!path.starts_with("/v1/")) {
    return answer_error(exchange, {Code::kNotFound,
                                   "no such path; see /v1/models, /v1/chat/completions, "
                                   "/v1/completions, /v1/embeddings, /health, /ready, "
                                   "/metrics",
                                   "", 0});
  }
  if (!authorised(request)) {
    const bool given = !request.header("authorization").empty();
    return answer_error(exchange, {Code::kUnauthorized,
                                   given ? "the API key is not known here"
                                         : "an API key is needed: Authorization: Bearer KEY",
                                   "", 0});
  }
  if (is("/v1/models") || path.starts_with("/v1/models/")) {
    return is_get ? answer_models(exchange,
                                  unescape(path.substr(std::min<std::size_t>(11, path.size()))))
                  : refuse_method(exchange, "GET");
  }
  const bool is_chat = is("/v1/chat/completions");
  const bool is_completion = is("/v1/completions");
  const bool is_embedding = is("/v1/embeddings");
  if (!is_chat && !is_completion && !is_embedding) {
    return answer_error(exchange,
                        {Code::kNotFound,
                         "no such path under /v1: this server has models, chat/completions, "
                         "completions and embeddings",
                         "", 0});
  }
  if (request.method != Method::kPost) return refuse_method(exchange, "POST");
  ServedModel* model = model_.load();
  if (draining_.load() || model == nullptr) return answer_error(exchange, not_ready());
  Desk& desk = *desks_[exchange.loop().index()];
  if (is_chat) return desk.chat(exchange, *model);
  if (is_completion) return desk.complete(exchange, *model);
  desk.embed(exchange, *model);
}

void Service::answer_ready(net::Exchange& exchange) {
  if (model_.load() != nullptr && !draining_.load()) {
    return exchange.respond(200, kJson, R"({"status":"ready"})");
  }
  const Error why = not_ready();
  std::string body = R"({"status":"not ready","reason":)";
  api::append_json_string(body, why.message);
  body += '}';
  exchange.respond(503, kJson, body, {{"retry-after", "1"}});
}

void Service::answer_metrics(net::Exchange& exchange) {
  Metrics::Gauges gauges;
  gauges.in_flight = in_flight_.load();
  gauges.ready = model_.load() != nullptr && !draining_.load();
  if (const net::HttpServer* server = server_.load()) {
    const net::HttpServerStats stats = server->stats();
    gauges.connections = static_cast<double>(stats.connections_open);
    gauges.connections_refused = static_cast<double>(stats.connections_refused);
    gauges.http_bad_requests = static_cast<double>(stats.bad_requests);
    gauges.loop_lag_max_s = to_seconds(stats.loop_lag_max);
  }
  metrics_.set(gauges);
  if (ServedModel* model = model_.load()) {
    metrics_.set(model->dispatcher().view());
    if (const tiers::Store* store = model->store()) metrics_.set(store->stats());
  }
  exchange.respond(200, "text/plain; version=0.0.4; charset=utf-8", metrics_.page());
}

void Service::answer_models(net::Exchange& exchange, std::string_view id) {
  std::vector<api::ModelCard> cards;
  if (ServedModel* model = model_.load()) {
    for (const std::string& name : model->names()) {
      cards.push_back({name, model->created(), model->info().context_tokens_max});
    }
  }
  if (id.empty()) return exchange.respond(200, kJson, api::model_list(cards));
  for (const api::ModelCard& card : cards) {
    if (card.id == id) return exchange.respond(200, kJson, api::model_body(card));
  }
  answer_error(exchange,
               {Code::kModelNotFound,
                fmt::format("the model \"{}\" is not served here", id.substr(0, 60)), "model", 0});
}

void Service::answer_debug(net::Exchange& exchange) {
  const net::HttpRequest& request = exchange.request();
  const std::string_view page = request.path().substr(std::string_view("/debug/").size());
  if (page.starts_with("workers/")) return command_worker(exchange, page);
  if (page != "requests" && page != "workers" && page != "decisions") {
    return answer_error(exchange, {Code::kNotFound,
                                   "no such page: there are /debug/requests, /debug/workers, "
                                   "/debug/decisions, POST /debug/workers/N/role?to=ROLE and "
                                   "POST /debug/workers/N/clear-cache",
                                   "", 0});
  }
  if (!authorised(request)) {
    return answer_error(
        exchange, {Code::kUnauthorized, "an API key is needed: Authorization: Bearer KEY", "", 0});
  }
  if (request.method != Method::kGet && request.method != Method::kHead) {
    return refuse_method(exchange, "GET");
  }
  if (page == "requests") return answer_requests(exchange);
  ServedModel* model = model_.load();
  if (model == nullptr) return answer_error(exchange, not_ready());
  Dispatcher& dispatcher = model->dispatcher();
  if (page == "workers") {
    return exchange.respond(200, kJson, workers_json(model->name(), dispatcher.view()));
  }
  exchange.respond(200, kJson,
                   decisions_json(dispatcher.policy(), dispatcher.terms(), dispatcher.decisions()));
}

/// POST /debug/workers/N/role?to=prefill, decode or both, and /debug/workers/N/clear-cache.
void Service::command_worker(net::Exchange& exchange, std::string_view page) {
  const net::HttpRequest& request = exchange.request();
  if (!authorised(request)) {
    return answer_error(
        exchange, {Code::kUnauthorized, "an API key is needed: Authorization: Bearer KEY", "", 0});
  }
  if (request.method != Method::kPost) return refuse_method(exchange, "POST");
  ServedModel* model = model_.load();
  if (model == nullptr) return answer_error(exchange, not_ready());
  page.remove_prefix(std::string_view("workers/").size());
  const std::string_view number = page.substr(0, page.find('/'));
  const std::string_view command = page.substr(std::min(page.size(), number.size() + 1));
  kv::Slot slot = 0;
  const auto read = std::from_chars(number.data(), number.data() + number.size(), slot);
  if (number.empty() || read.ec != std::errc{} || read.ptr != number.data() + number.size()) {
    return answer_error(exchange, {Code::kNotFound, "there is no such worker", "", 0});
  }
  if (command == "clear-cache") {
    const Result<void> asked = model->dispatcher().clear_cache(slot);
    if (!asked) return answer_error(exchange, asked.error());
    log::info("worker {} clears its cache", slot);
    return exchange.respond(202, kJson, fmt::format(R"({{"worker":{}}})", slot));
  }
  if (command != "role") {
    return answer_error(exchange, {Code::kNotFound,
                                   "a worker takes POST /debug/workers/N/role?to=ROLE and "
                                   "POST /debug/workers/N/clear-cache",
                                   "", 0});
  }
  const Result<fleet::Role> role = role_of(request.query());
  const Result<void> done =
      role ? model->dispatcher().set_role(slot, *role) : std::unexpected(role.error());
  if (!done) return answer_error(exchange, done.error());
  log::info("worker {} has the role {} from now on", slot, to_string(*role));
  exchange.respond(200, kJson,
                   fmt::format(R"({{"worker":{},"role":"{}"}})", slot, to_string(*role)));
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
