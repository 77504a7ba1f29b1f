#include "router/time_model.h"

#include <cmath>

namespace penstock::router {
namespace {

// Terms are scaled to about 1, which keeps the covariance well conditioned.
constexpr double kTokens = 8192;
constexpr double kForget = 0.9999;
constexpr double kVarianceMax = 1e4;
constexpr std::uint32_t kDecodeEach = 16;  // of the passes that only decode, one in so many counts

}  // namespace

TimeModel::TimeModel(const fleet::PassCost& prior)
    : weights_{prior.prefill_base_ms,
               prior.prefill_token_ms * kTokens,
               prior.prefill_token2_ms * kTokens * kTokens,
               prior.decode_base_ms,
               prior.decode_use_ms,
               prior.decode_use2_ms},
      covariance_{} {
  for (std::size_t i = 0; i < kTerms; ++i) covariance_[i][i] = kVarianceMax;
}

void TimeModel::observe(const fleet::PassWork& pass, Nanos took) noexcept {
  if (took <= Nanos::zero()) return;
  observed_ = true;
  if (pass.prefill_tokens == 0 && decode_passes_++ % kDecodeEach != 0) return;
  const double t = pass.prefill_tokens / kTokens;
  const double u = pass.kv_use;
  const double prefill = pass.prefill_tokens > 0 ? 1 : 0;
  const double decode = pass.decodes ? 1 : 0;
  const Vector x = {prefill, t, t * t, decode, decode * u, decode * u * u};

  Vector gain{};
  double denominator = kForget;
  double error = to_ms(took);
  for (std::size_t i = 0; i < kTerms; ++i) {
    for (std::size_t j = 0; j < kTerms; ++j) gain[i] += covariance_[i][j] * x[j];
    denominator += gain[i] * x[i];
    error -= weights_[i] * x[i];
  }
  for (std::size_t i = 0; i < kTerms; ++i) {
    weights_[i] += gain[i] / denominator * error;
    for (std::size_t j = 0; j < kTerms; ++j) {
      covariance_[i][j] = (covariance_[i][j] - gain[i] * gain[j] / denominator) / kForget;
    }
  }
  // What never varies must not become ever less certain: it stays as uncertain as at first, and
  // what is known of the others stays known.
  for (std::size_t i = 0; i < kTerms; ++i) {
    if (covariance_[i][i] <= kVarianceMax) continue;
    const double scale = std::sqrt(kVarianceMax / covariance_[i][i]);
    for (std::size_t j = 0; j < kTerms; ++j) {
      covariance_[i][j] *= scale;
      covariance_[j][i] *= scale;
    }
  }
}

fleet::PassCost TimeModel::cost() const noexcept {
  return {.prefill_base_ms = weights_[0],
          .prefill_token_ms = weights_[1] / kTokens,
          .prefill_token2_ms = weights_[2] / (kTokens * kTokens),
          .decode_base_ms = weights_[3],
          .decode_use_ms = weights_[4],
          .decode_use2_ms = weights_[5]};
}

}  // namespace penstock::router
