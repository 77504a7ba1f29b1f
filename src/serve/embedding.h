#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "serve/live_request.h"
#include "serve/routing_wishes.h"
#include "serve/served_model.h"

namespace penstock::serve {

/// The vectors of one request, asked for one after the other: what a client can have waiting at the
/// workers is bounded by the requests in flight, and nothing is computed for one that has left.
/// Loop thread only.
class Embedding final : public LiveRequest {
 public:
  struct Plan {
    TimePoint arrived;
    bool base64 = false;
    RoutingWishes wishes;  // where; when counts for nothing, since no time is predicted
    std::vector<std::vector<Token>> inputs;  // at least one
  };

  Embedding(Desk& desk, ServedModel& model, Permit permit, Plan plan);
  ~Embedding() override;

  /// Asks for the next vector. May end the exchange, and with it this.
  void ask();

  [[nodiscard]] std::string describe(TimePoint now) const override;

 private:
  void take(Result<std::vector<float>> vector);
  [[nodiscard]] api::UsageCounts usage() const override;

  ServedModel& model_;
  Plan plan_;
  std::vector<std::vector<float>> vectors_;
  std::uint32_t tokens_ = 0;                                    // of the inputs
  std::uint32_t tokens_done_ = 0;                               // of those whose vectors are there
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // read and written on the loop only
  std::stop_source stop_;
};

}  // namespace penstock::serve
