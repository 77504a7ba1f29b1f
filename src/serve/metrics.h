#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace penstock::tiers {
struct Stats;
}

namespace penstock::serve {

struct DispatcherView;

/// What the service counts, in Prometheus' terms. Thread: any.
class Metrics final {
 public:
  Metrics();
  ~Metrics();

  void request_done(std::string_view endpoint, int status, double duration_s);
  void first_token(double since_request_s);
  void token_gap(double gap_s, std::uint32_t tokens);  // `tokens` came `gap_s` apart each
  void tokens(std::uint32_t prompt, std::uint32_t cached, std::uint32_t completion);
  void cancelled(std::string_view reason);  // "client_gone", "deadline", "shutdown"
  void moved();  // a request, to another worker because its own was lost before the first token
  void split(std::string_view outcome);  // prompt elsewhere: "handed_over", "recomputed"
  void unknown_fields(std::size_t count);
  void routed(double duration_s);  // a worker was chosen, or none found

  /// Set when a page is asked for: things that others count.
  struct Gauges {
    double in_flight = 0;
    double connections = 0;
    double connections_refused = 0;
    double http_bad_requests = 0;
    double loop_lag_max_s = 0;
    bool ready = false;
  };
  void set(const Gauges& gauges);

  /// The workers and their router, as they are when a page is asked for.
  void set(const DispatcherView& view);

  /// The KV store behind the workers, likewise.
  void set(const tiers::Stats& stats);

  /// The page, in text exposition format 0.0.4.
  [[nodiscard]] std::string page() const;

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace penstock::serve
