#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "net/http_server.h"
#include "serve/process_stats.h"
#include "text/tokenizer.h"

namespace penstock::serve {

struct DispatcherView;

/// What the service counts, in Prometheus' terms. Thread: any.
class Metrics final {
 public:
  Metrics();
  ~Metrics();

  void request_done(std::string_view endpoint, int status, double duration_s);
  void refused(std::string_view endpoint, int status);  // at once: it has no duration to speak of
  void queued(double since_request_s);                  // a choice, until its admission by a worker
  void first_token(double since_request_s);
  void token_gap(double gap_s, std::uint32_t tokens);  // `tokens` came `gap_s` apart each
  void tokens(std::uint32_t prompt, std::uint32_t cached, std::uint32_t completion);
  void cancelled(std::string_view reason);  // "client_gone", "deadline", "shutdown"
  void moved();  // a request: its worker was lost, full or hung before the first token
  void split(std::string_view outcome);  // prompt elsewhere: "handed_over", "recomputed"
  void unknown_fields(std::size_t count);
  /// What one prompt has made of a loop's tokenizer cache.
  void looked_up(const text::TokenizerCache::Stats& before,
                 const text::TokenizerCache::Stats& after);
  void routed(double duration_s);  // a worker was chosen, or none found

  /// Set when a page is asked for: things that others count.
  struct Gauges {
    double in_flight = 0;
    double requests_max = 0;  // that the workers take at once
    bool ready = false;
  };
  void set(const Gauges& gauges);
  void set(const net::HttpServerStats& stats);
  void set(const ProcessStats& stats);

  /// The workers, what lies behind them and their router, as they are when a page is asked for.
  void set(const DispatcherView& view);

  /// The page, in text exposition format 0.0.4.
  [[nodiscard]] std::string page() const;

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace penstock::serve
