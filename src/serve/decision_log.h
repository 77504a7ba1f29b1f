#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "router/router.h"

namespace penstock::serve {

/// One choice of a worker, and what came of it.
struct Decision {
  std::uint64_t number = 0;  // from 1; 0: none
  std::int64_t unix_ms = 0;
  std::string request;    // its id, as the client sees it
  std::string_view rule;  // static text
  std::uint32_t ties = 1;
  kv::Slot worker = 0;
  router::Stage stage{};  // which part of the request this places
  bool shed = false;      // not given to the worker: it would have come too late
  std::uint32_t prompt_tokens = 0;
  std::uint32_t predicted_cached_tokens = 0;
  std::optional<router::KvSource> fetch;  // of those and of others, what comes from elsewhere
  double predicted_ttft_ms = 0;           // NaN: not predicted
  bool began = false;                     // the first token has come, and what follows is known
  std::uint32_t reported_cached_tokens = 0;
  double ttft_ms = 0;  // from the choice on

  struct Candidate {
    kv::Slot worker = 0;
    std::uint32_t cached_tokens = 0;
    router::Stage stage{};
    double cost = 0;  // in the policy's unit; NaN: it has none
    std::array<double, router::Explanation::kTermsMax> terms{};
  };
  std::vector<Candidate> candidates;
};

/// The last choices, each in a place of a ring whose memory is used again. Not thread safe.
class DecisionLog final {
 public:
  explicit DecisionLog(std::uint32_t decisions_max) : ring_(decisions_max) {}

  [[nodiscard]] bool keeps_any() const noexcept { return !ring_.empty(); }
  /// The place of the next decision, numbered, everything else as an older one left it. The log
  /// must keep any.
  Decision& add() noexcept;
  /// The newest's number; 0: there was none yet.
  [[nodiscard]] std::uint64_t last() const noexcept { return last_; }
  /// Null: it has been written over.
  [[nodiscard]] Decision* find(std::uint64_t number) noexcept;
  /// Newest first.
  [[nodiscard]] std::vector<Decision> copy() const;

 private:
  std::vector<Decision> ring_;
  std::uint64_t last_ = 0;
};

/// {"policy":...,"decisions":[...]}, as GET /debug/decisions answers.
[[nodiscard]] std::string decisions_json(std::string_view policy,
                                         std::span<const std::string_view> terms,
                                         std::span<const Decision> decisions);

}  // namespace penstock::serve
