#include "serve/embedding.h"

#include <fmt/format.h>

#include <utility>

#include "base/clock.h"
#include "serve/desk.h"

namespace penstock::serve {

Embedding::Embedding(Desk& desk, ServedModel& model, Permit permit, Plan plan)
    : LiveRequest(desk, "embeddings", fmt::format("embd-{:016x}", desk.random()), plan.arrived,
                  std::move(permit)),
      model_(model),
      plan_(std::move(plan)) {
  for (const auto& input : plan_.inputs) tokens_ += static_cast<std::uint32_t>(input.size());
}

Embedding::~Embedding() {
  *alive_ = false;
  stop_.request_stop();  // of the one that is asked for
}

void Embedding::ask() {
  if (deadline_.passed(desk_.clock().now())) {
    return fail_with({Code::kDeadlineExceeded, "the embeddings were not complete in time", "", 0});
  }
  std::vector<Token> tokens = std::move(plan_.inputs[vectors_.size()]);
  const auto count = static_cast<std::uint32_t>(tokens.size());
  // The engine calls on its own thread, so the rest is posted to the loop.
  const Result<void> queued = model_.dispatcher().embed(
      {.tokens = std::move(tokens), .deadline = deadline_, .stop = stop_.get_token()},
      [this, alive = alive_, loop = &desk_.loop(), count](Result<std::vector<float>> vector) {
        loop->post([this, alive, count, vector = std::move(vector)]() mutable {
          if (!*alive) return;
          if (vector) tokens_done_ += count;
          take(std::move(vector));
        });
      },
      {.rank = plan_.wishes.rank, .labels = plan_.wishes.labels});
  if (!queued) fail_with(queued.error());
}

void Embedding::take(Result<std::vector<float>> vector) {
  // A client that left hears nothing: it was the worker that ended.
  if (!vector && vector.error().code == Code::kCancelled) {
    return fail_with(
        {Code::kUnavailable, "the worker stopped before the embeddings were complete", "", 1});
  }
  if (!vector) return fail_with(vector.error());
  vectors_.push_back(std::move(*vector));
  if (vectors_.size() < plan_.inputs.size()) return ask();
  ended(200);
  exchange_->respond(200, "application/json",
                     api::embedding_answer(model_.name(), vectors_, plan_.base64, tokens_));
}

api::UsageCounts Embedding::usage() const {
  return {.prompt_tokens = tokens_done_, .cached_tokens = 0, .completion_tokens = 0};
}

std::string Embedding::describe(TimePoint now) const {
  return fmt::format(R"({{"id":"{}","endpoint":"{}","stream":false,"age_ms":{:.0f},"choices":{},)"
                     R"("prompt_tokens":{},"completion_tokens":0,"state":"{}","held_tokens":0,)"
                     R"("unsent_bytes":{}}})",
                     id_, endpoint_, to_ms(now - arrived_), plan_.inputs.size(), tokens_,
                     vectors_.empty() ? "waiting" : "embedding", exchange_->unsent_bytes());
}

}  // namespace penstock::serve
