// What of a Generation deals with workers: where each choice's leg runs, and what becomes of it.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/log.h"
#include "serve/generation.h"
#include "serve/trace_context.h"

namespace penstock::serve {
namespace {

std::atomic<std::uint64_t> last_leg{0};

/// Whether another worker may take what one has refused so, whether it said so when it was asked or
/// (as one of another process does) later.
bool goes_elsewhere(Code refusal) {
  return refusal == Code::kUnavailable || refusal == Code::kOverloaded;
}

}  // namespace

/// To the worker that it has a place at, under a new name. It may be full; one of another process
/// may also say so later, or be lost on the way: what it gets is kept until then.
Result<void> Generation::give(Choice& choice, engine::GenerateRequest request) {
  if (choice.place.prompt_only()) {
    engine::GenerateRequest prompt{.sink = request.sink,
                                   .prompt = request.prompt,
                                   .cache_salt = request.cache_salt,
                                   .priority = request.priority,
                                   .tenant = request.tenant,
                                   .deadline = request.deadline,
                                   .arrived = request.arrived,
                                   .traceparent = request.traceparent,
                                   .prefill_only = true,
                                   .kv_lease = plan_.kv_lease};
    choice.answer =
        std::make_unique<engine::GenerateRequest>(std::exchange(request, std::move(prompt)));
  }
  // Workers elsewhere make them anew; of those here all with a store call them so.
  const bool named = !choice.place.engine().info().kv_tiers_key.empty();
  if (!choice.place.is_remote() && named) request.keys = blocks_.keys;
  // The KV of its prompt may be kept just there.
  if (choice.kv_at && choice.place.worker() == choice.kv_at.worker()) request.fetch.reset();
  choice.leg = request.id = RequestId{last_leg.fetch_add(1) + 1};
  choice.again.reset();
  if (!choice.answer) choice.again = std::make_unique<engine::GenerateRequest>(request);
  desk_.by_leg_.emplace(choice.leg, this);
  Result<void> queued = choice.place.engine().generate(std::move(request));
  if (queued) {
    choice.place.taken();
    if (choice.kv_at && !std::exchange(choice.handed_over, true)) {
      desk_.metrics().split("handed_over");
    }
    if (!choice.place.is_remote()) choice.again.reset();
    return queued;
  }
  choice.place.refused();
  choice.tried.push_back(choice.place.worker());
  desk_.by_leg_.erase(choice.leg);
  if (choice.answer) return give_whole(choice);
  if (!goes_elsewhere(queued.error().code)) choice.again.reset();
  return queued;
}

/// Its prompt could not be computed elsewhere, or not be kept.
Result<void> Generation::give_whole(Choice& choice) {
  engine::GenerateRequest request = std::move(*choice.answer);
  choice.answer.reset();
  desk_.metrics().split("recomputed");
  return give_at(choice, std::move(request), Part::kWhole);
}

Result<void> Generation::give_at(Choice& choice, engine::GenerateRequest request, Part part) {
  Result<Assignment> place = this->place(request, part, &choice);
  if (!place) return std::unexpected(place.error());
  choice.place = std::move(*place);
  return give(choice, std::move(request));
}

/// Its prompt is computed: now the answer, at whichever worker is best for it by now. Where it is
/// not taken it goes elsewhere, at last to who takes whole requests only.
Result<void> Generation::give_answer(Choice& choice, const engine::Output& prompt) {
  choice.place.handed_over(prompt.usage);
  if (prompt.kv == nullptr) return give_whole(choice);
  engine::GenerateRequest request = std::move(*choice.answer);
  choice.answer.reset();
  request.fetch = *prompt.kv;
  choice.prompt_cached = prompt.usage.cached_tokens;
  choice.kv_at = std::move(choice.place);
  choice.kv_leg = choice.leg;
  choice.kv_tokens =
      static_cast<std::uint32_t>(prompt.kv->blocks.size() * model_.info().block_tokens);
  Result<void> given;
  for (const Part part : {Part::kAnswer, Part::kAnswer, Part::kWhole}) {
    given = give_at(choice, request, part);
    if (given || !goes_elsewhere(given.error().code)) break;
  }
  return given;
}

void Generation::prompt_ended(Choice& choice, const engine::Output& output) {
  if (!output.finish) return;
  desk_.by_leg_.erase(choice.leg);
  Result<void> given;
  if (output.finish == engine::FinishReason::kLength) {
    note_admitted(choice, output.usage);
    given = give_answer(choice, output);
  } else if (deadline_.passed(desk_.clock().now())) {
    given = std::unexpected(late());
  } else {
    if (output.finish == engine::FinishReason::kError) {
      choice.place.failed(Error{output.error_code, output.error, "", 0}.fault());
    }
    choice.tried.push_back(choice.place.worker());
    given = give_whole(choice);
  }
  if (!given && !give_to_another(choice, given.error().code)) error_ = given.error();
}

/// The worker that computed the prompt may forget it.
void Generation::release_kv(Choice& choice) {
  if (!choice.kv_at) return;
  choice.kv_at.engine().abort(choice.kv_leg, engine::CancelReason::kClientGone);
  choice.kv_at.release();
}

Error Generation::late() const {
  return {Code::kDeadlineExceeded,
          fmt::format("the answer was not complete within {:.0f} s",
                      to_ms(desk_.options().request_timeout) / 1e3),
          "", 0};
}

/// Whose worker was lost or full before it gave a token has lost nothing but time. One that was
/// full or hangs is not asked again at once, nor one that is suspect; one that was lost may be
/// back.
bool Generation::give_to_another(Choice& choice, Code why) {
  while (choice.again && goes_elsewhere(why) && choice.tried.size() < kWorkersTried) {
    engine::GenerateRequest request = std::move(*choice.again);
    choice.again.reset();
    desk_.by_leg_.erase(choice.leg);
    const bool only_others = why == Code::kOverloaded || choice.place.hangs();
    Result<Assignment> place = this->place(request, Part::kWhole, &choice, only_others);
    if (!place) return false;
    choice.place = std::move(*place);
    const Result<void> given = give(choice, std::move(request));
    if (given) {
      desk_.metrics().moved();
      log_moved(choice, why == Code::kOverloaded ? "full" : "lost");
      return true;
    }
    why = given.error().code;
  }
  return false;
}

/// Of many at once, as when a worker with all its requests was lost, one is named.
void Generation::log_moved(const Choice& choice, std::string_view how) {
  const auto times = desk_.moves_.raise(desk_.clock().now());
  if (!times) return;
  const std::string_view trace = trace_id_of(plan_.traceparent);
  log::info("request {}{}{}{}: its worker was {} before the first token; now at worker {}", id_,
            trace.empty() ? "" : ", trace ", trace,
            *times > 1 ? fmt::format(", as {} before it", *times - 1) : "", how,
            choice.place.worker());
}

/// As give_to_another() will ask, should its worker be left.
bool Generation::another_may_take(const Choice& choice) {
  if (choice.tried.size() + 1 >= kWorkersTried) return false;
  std::vector<kv::Slot> not_at = choice.tried;
  not_at.push_back(choice.place.worker());
  return model_.dispatcher().another_is_ready({.rank = plan_.wishes.rank,
                                               .labels = plan_.wishes.labels,
                                               .not_at = not_at,
                                               .only_others = true});
}

/// Their legs end as those of lost workers do: without a token they go to another worker, and wait
/// here while none that is ready may have them.
void Generation::leave_hanging_workers() {
  for (const Choice& choice : choices_) {
    if (choice.ended || !choice.place.hangs()) continue;
    if (choice.again && !another_may_take(choice)) continue;
    choice.place.engine().abort(choice.leg, engine::CancelReason::kDeadline);
  }
}

/// Choices of one prompt had better share what is computed of it: the dispatcher is told where the
/// one before went.
Result<Assignment> Generation::place(const engine::GenerateRequest& request, Part part,
                                     const Choice* choice, bool only_others) {
  Dispatcher& dispatcher = model_.dispatcher();
  const TimePoint begin = desk_.clock().now();
  if (part != Part::kTwin) dispatcher.name_blocks(request.prompt, request.cache_salt, blocks_);
  DispatchRequest wanted{.id = id_,
                         .prompt = request.prompt,
                         .locals = blocks_.locals,
                         .keys = blocks_.keys,
                         .output_tokens_max = request.max_tokens,
                         .rank = plan_.wishes.rank,
                         .labels = plan_.wishes.labels,
                         .twin_at = {},
                         .not_at = {},
                         .only_others = only_others,
                         .first_token_by = deadline_.at()};
  if (plan_.wishes.ttft_max) {
    wanted.first_token_by = std::min(wanted.first_token_by, arrived_ + *plan_.wishes.ttft_max);
  }
  if (choice != nullptr) wanted.not_at = choice->tried;
  if (part == Part::kTwin) wanted.twin_at = choices_.back().place.worker();
  if (part == Part::kAnswer) {
    wanted.prompt_at = &choice->kv_at;
    wanted.kept_tokens = choice->kv_tokens;
  }
  wanted.may_split = part == Part::kFirstOfPrompt && plan_.choices == 1 &&
                     !plan_.wishes.rank.has_value() && plan_.wishes.labels.empty();
  Result<Assignment> placed = dispatcher.place(wanted);
  desk_.metrics().routed(to_ms(desk_.clock().now() - begin) / 1e3);
  return placed;
}

/// The leg may still run: it is cancelled, and what it delivers from now on finds nobody.
void Generation::release_leg(Choice& choice) {
  release_kv(choice);
  if (desk_.by_leg_.erase(choice.leg) == 0) return;
  if (!choice.ended) choice.place.engine().abort(choice.leg, engine::CancelReason::kClientGone);
  choice.place.release();
}

}  // namespace penstock::serve
