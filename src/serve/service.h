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
};

class Desk;

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

  [[nodiscard]] Permit admit();
  [[nodiscard]] std::uint32_t in_flight() const noexcept { return in_flight_.load(); }

  void handle(net::Exchange& exchange) override;

 private:
  friend class Desk;

  void answer_ready(net::Exchange& exchange);
  void answer_metrics(net::Exchange& exchange);
  void answer_models(net::Exchange& exchange, std::string_view id);
  void answer_requests(net::Exchange& exchange);
  void answer_debug(net::Exchange& exchange);
  void command_worker(net::Exchange& exchange, std::string_view page);
  [[nodiscard]] bool authorised(const net::HttpRequest& request) const;
  [[nodiscard]] Error not_ready() const;

  const ServiceOptions options_;
  const Clock& clock_;
  Metrics metrics_;
  std::atomic<net::HttpServer*> server_{nullptr};
  std::vector<std::unique_ptr<Desk>> desks_;  // by loop index
  std::atomic<ServedModel*> model_{nullptr};
  std::atomic<bool> draining_{false};
  std::atomic<float> loading_{0};
  std::atomic<std::uint32_t> in_flight_{0};
  mutable std::mutex failure_mutex_;
  std::string failure_;
};

/// Answers with an error in OpenAI's shape, its status and Retry-After.
void answer_error(net::Exchange& exchange, const Error& error);

}  // namespace penstock::serve
