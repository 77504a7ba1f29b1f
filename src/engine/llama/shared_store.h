#pragma once

#include <memory>
#include <mutex>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "tiers/store.h"

namespace penstock::engine {

/// The one KV store of all workers of a process: opened when the first of them knows what its
/// blocks look like. Thread: any.
class SharedStore final {
 public:
  /// `options`: all but `compatibility` and `block_bytes`. `clock` lives longer.
  SharedStore(tiers::Options options, const Clock& clock)
      : options_(std::move(options)), clock_(clock) {}

  /// Fails as Store::open does, and with kUnprocessable when it is open for other blocks.
  Result<tiers::Store*> open(std::string_view compatibility, std::uint32_t block_bytes);

 private:
  std::mutex mutex_;
  tiers::Options options_;
  const Clock& clock_;
  std::unique_ptr<tiers::Store> store_;
};

}  // namespace penstock::engine
