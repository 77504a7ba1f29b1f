#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "api/openai.h"
#include "base/clock.h"
#include "net/http_server.h"
#include "serve/service.h"

namespace penstock::serve {

class Desk;

/// A request from its admission to the end of its answer: it holds the permit, is on its desk's
/// list, and its end is counted once. Owned by its exchange from Desk::launch() on. Loop thread
/// only.
class LiveRequest : public net::Transaction {
 public:
  ~LiveRequest() override;
  LiveRequest(const LiveRequest&) = delete;
  LiveRequest& operator=(const LiveRequest&) = delete;

  /// Answers with the error, if need be behind what was sent already. Destroys this.
  void fail_with(const Error& error);
  /// What time brings, now and then; false: it ended by that, and this is gone.
  virtual bool sweep(TimePoint now);
  void on_client_gone() override;

  /// A JSON object, for /debug/requests.
  [[nodiscard]] virtual std::string describe(TimePoint now) const = 0;

 protected:
  /// `endpoint`: a literal, as metrics name it. `id`: of the answer, as clients are told it.
  LiveRequest(Desk& desk, std::string_view endpoint, std::string id, TimePoint arrived,
              Permit permit);

  /// Before the answer ends and destroys this: what was begun of it is counted, and how it ended.
  void ended(int status);
  /// Of what was begun.
  [[nodiscard]] virtual api::UsageCounts usage() const = 0;
  virtual void send(const Error& error);  // destroys this

  Desk& desk_;
  const std::string_view endpoint_;
  const std::string id_;
  const TimePoint arrived_;
  const Deadline deadline_;
  net::Exchange* exchange_ = nullptr;  // null: not launched

 private:
  friend class Desk;

  Permit permit_;
  bool ended_ = false;
};

}  // namespace penstock::serve
