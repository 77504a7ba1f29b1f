#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace penstock::engine {

/// Keeps all it is given; a test waits for what it needs.
class TestSink final : public OutputSink {
 public:
  void deliver(std::span<Output> outputs) override {
    const std::lock_guard lock(mutex_);
    ++calls_;
    for (Output& output : outputs) {
      const std::uint64_t id = output.request.value;
      EXPECT_FALSE(ends_.contains(id)) << "an output after the end";
      if (output.token) {
        tokens_[id].push_back(*output.token);
        logprobs_[id].push_back(output.logprob);
      }
      if (output.finish) ends_.emplace(id, std::move(output));
    }
    changed_.notify_all();
  }

  FinishReason wait(std::uint64_t id) { return *wait_for_end(id).finish; }
  /// The output with the end.
  Output wait_for_end(std::uint64_t id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ends_.contains(id); });
    return ends_.at(id);
  }
  void wait_for_tokens(std::uint64_t id, std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tokens_[id].size() >= count; });
  }
  std::vector<Token> tokens(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    return tokens_[id];
  }
  std::vector<float> logprobs(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    return logprobs_[id];
  }
  std::size_t finished() {
    const std::lock_guard lock(mutex_);
    return ends_.size();
  }
  int calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int calls_ = 0;
  std::map<std::uint64_t, std::vector<Token>> tokens_;
  std::map<std::uint64_t, std::vector<float>> logprobs_;
  std::map<std::uint64_t, Output> ends_;
};

}  // namespace penstock::engine
