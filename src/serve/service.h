#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "net/http_server.h"
#include "serve/metrics.h"
#include "serve/served_model.h"

namespace penstock::serve {

struct ServiceOptions {
  std::vector<std::string> api_keys;                 // none: open to whoever can connect
  Nanos request_timeout = std::chrono::minutes(10);  // from the whole request read to its end
  Nanos heartbeat = std::chrono::seconds(10);        // a comment line in a stream silent so long
  std::uint32_t in_flight_max = 2048;                // generations at once; more are answered 429
  std::size_t segment_bytes_max = 4 << 20;    // tokens of earlier messages kept, all loops together
  Nanos kv_lease = std::chrono::seconds(30);  // a prompt's KV is kept for an answer elsewhere
  std::uint32_t max_tokens_default = 0;  // when the client names none; 0: what the context holds
  std::string cors_origin;  // pages of it may ask: preflights are answered; empty: they are not
};

class Desk;
class Dispatcher;

/// The right to be in flight; given back when destroyed. Empty: refused.
class Permit final {
 public:
  Permit() = default;
  explicit Permit(std::atomic<std::uint32_t>& in_flight) : in_flight_(&in_flight) {}
  Permit(Permit&& other) noexcept : in_flight_(std::exchange(other.in_flight_, nullptr)) {}
  Permit& operator=(Permit&& other) noexcept {
    std::swap(in_flight_, other.in_flight_);
    return *this;
  }
  ~Permit() {
    if (in_flight_ != nullptr) in_flight_->fetch_sub(1);
  }
  explicit operator bool() const noexcept { return in_flight_ != nullptr; }

 private:
  std::atomic<std::uint32_t>* in_flight_ = nullptr;
};

/// The OpenAI front end: routes, admission, and the life of each request. It is ready once it has a
/// model; until then, and while draining, it says 503. Thread: any (one Desk an event loop holds
/// what that loop's requests need).
class Service final : public net::HttpHandler {
 public:
  Service(const ServiceOptions& options, const Clock& clock);
  ~Service() override;

  /// After the server has started and before the first request is to be answered: makes a desk for
  /// each loop. Requests that come earlier get 503.
  void open(net::HttpServer& server);
  /// After the server has stopped and the workers have ended, before the server is destroyed.
  void close();
  /// The model to serve from now on. It must outlive the service's loops.
  void set_model(ServedModel& model);
  void set_loading(float progress);  // what /ready says while there is no model; as in load()
  void set_failed(std::string message);
  /// New work is refused from now on; what runs goes on.
  void drain();
  /// What still runs is answered with an error, as soon as each loop comes to it. Before the server
  /// is stopped.
  void shut_down();

  [[nodiscard]] Permit admit();
  [[nodiscard]] std::uint32_t in_flight() const noexcept { return in_flight_.load(); }

  void handle(net::Exchange& exchange) override;

  /// Of build and model, for answers: the same as long as equal requests have equal answers. Once
  /// there is a model.
  [[nodiscard]] const std::string& fingerprint() const noexcept { return fingerprint_; }

 private:
  friend class Desk;

  // Answer now or later, or say why not: handle() does that then, and counts it.
  Result<void> route(net::Exchange& exchange);
  Result<void> generate(net::Exchange& exchange);
  Result<void> answer_models(net::Exchange& exchange, std::string_view id);
  Result<void> answer_debug(net::Exchange& exchange);
  static Result<void> command_worker(net::Exchange& exchange, Dispatcher& dispatcher,
                                     std::string_view page);
  void answer_preflight(net::Exchange& exchange) const;
  void answer_ready(net::Exchange& exchange);
  void answer_metrics(net::Exchange& exchange);
  void answer_requests(net::Exchange& exchange);
  [[nodiscard]] Result<void> authorise(const net::HttpRequest& request) const;
  /// Null: no request can be answered now; see not_ready().
  [[nodiscard]] ServedModel* model_in_service() const;
  [[nodiscard]] bool can_answer() const;
  [[nodiscard]] Error not_ready() const;

  const ServiceOptions options_;
  const Clock& clock_;
  Metrics metrics_;
  std::atomic<net::HttpServer*> server_{nullptr};
  std::vector<std::unique_ptr<Desk>> desks_;  // by loop index
  std::string fingerprint_;                   // set before model_
  std::atomic<ServedModel*> model_{nullptr};
  std::atomic<bool> draining_{false};
  std::atomic<float> loading_{0};
  std::atomic<std::uint32_t> in_flight_{0};
  mutable std::mutex failure_mutex_;
  std::string failure_;
};

/// Answers with an error in OpenAI's shape, its status, and the header that the status wants.
void answer_error(net::Exchange& exchange, const Error& error);

}  // namespace penstock::serve
