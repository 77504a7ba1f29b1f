#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/llama/embedder.h"
#include "engine/request_inbox.h"

namespace penstock::engine::llama {

/// The embeddings that a worker has taken: the first is under way. The worker's thread.
class EmbeddingQueue final {
 public:
  /// Null: the model makes none, and none may be added.
  explicit EmbeddingQueue(Embedder* embedder) : embedder_(embedder) {}

  void add(std::vector<EmbedJob>& jobs) {
    for (EmbedJob& job : jobs) jobs_.push_back(std::move(job));
  }
  [[nodiscard]] bool empty() const noexcept { return jobs_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return jobs_.size(); }

  /// Computes a part of the first, of `rows_max` rows at most where that can be, unless it is late
  /// or stopped; and lets it go if that was the last.
  void step(TimePoint now, std::uint32_t rows_max) {
    if (jobs_.empty()) return;
    const EmbedRequest& request = jobs_.front().request;
    if (const Result<void> fine = goes_on(request, now); !fine) {
      return end(std::unexpected(fine.error()));
    }
    Result<std::vector<float>> vector = embedder_->advance(request.tokens, rows_max);
    if (!vector || !vector->empty()) end(std::move(vector));
  }

  void end_all(const Error& why) {
    while (!jobs_.empty()) end(std::unexpected(why));
  }

 private:
  void end(Result<std::vector<float>> vector) {
    embedder_->reset();
    EmbedJob ended = std::move(jobs_.front());
    jobs_.pop_front();
    ended.done(std::move(vector));
  }

  Embedder* const embedder_;
  std::deque<EmbedJob> jobs_;
};

}  // namespace penstock::engine::llama
