#include "router/time_model.h"

#include <algorithm>
#include <cmath>

namespace penstock::router {
namespace {

// Terms are scaled to about 1, which keeps the covariance well conditioned.
constexpr double kTokens = 8192;
constexpr double kForget = 0.9999;
constexpr double kVarianceMax = 1e4;
constexpr double kRoughness = 3;           // of a rough prior: off by so many times itself
constexpr double kRoughNoise = 0.3;        // of a pass's time then: others compute beside it
constexpr std::uint32_t kDecodeEach = 16;  // of the passes that only decode, one in so many counts

}  // namespace

TimeModel::TimeModel(const fleet::PassCost& prior, bool is_rough)
    : weights_{prior.prefill_base_ms,
               prior.prefill_token_ms * kTokens,
               prior.prefill_token2_ms * kTokens * kTokens,
               prior.decode_base_ms,
               prior.decode_use_ms,
               prior.decode_use2_ms},
      covariance_{},
      is_rough_(is_rough) {
  variance_max_.fill(kVarianceMax);
  // Else the base takes what is wrong of a slow worker's tokens, and short prompts cost less than
  // nothing.
  const double off = kRoughness * weights_[1];
  if (is_rough) variance_max_[1] = std::max(kVarianceMax, off * off);
  for (std::size_t i = 0; i < kTerms; ++i) covariance_[i][i] = variance_max_[i];
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
  double denominator = kForget * noise(to_ms(took));
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
    if (covariance_[i][i] <= variance_max_[i]) continue;
    const double scale = std::sqrt(variance_max_[i] / covariance_[i][i]);
    for (std::size_t j = 0; j < kTerms; ++j) {
      covariance_[i][j] *= scale;
      covariance_[j][i] *= scale;
    }
  }
}

/// Of a pass's time, as a variance in ms^2.
double TimeModel::noise(double took_ms) const noexcept {
  if (!is_rough_) return 1;
  const double off_ms = kRoughNoise * took_ms;
  return std::max(1.0, off_ms * off_ms);
}

fleet::PassCost TimeModel::cost() const noexcept {
  const auto sure = [this](double weight) { return is_rough_ ? std::max(0.0, weight) : weight; };
  return {.prefill_base_ms = sure(weights_[0]),
          .prefill_token_ms = sure(weights_[1]) / kTokens,
          .prefill_token2_ms = sure(weights_[2]) / (kTokens * kTokens),
          .decode_base_ms = weights_[3],
          .decode_use_ms = weights_[4],
          .decode_use2_ms = weights_[5]};
}

}  // namespace penstock::router
