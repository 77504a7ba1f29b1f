#include <utility>

#include "sim/internal/player.h"

namespace penstock::sim {

/// Routers hear of the cache at a pass's start: what it will have computed counts as there.
void Player::tell_cache(std::uint32_t index) {
  Worker& worker = *workers_[index];
  if (worker.feed == nullptr || worker.feed->batch.empty()) return;
  if (observer_ != nullptr) observer_->told(index, worker.feed->batch);
  if (faulty_) {
    publish(index);
  } else if (setup_.event_delay == Nanos::zero()) {
    for (const auto& front : fronts_) worker.feed->batch.apply(front->index, index);
  } else {
    const std::uint32_t message = new_message(index);
    std::swap(messages_[message]->kv, worker.feed->batch);
    events_.push(now_ + setup_.event_delay, EventKind::kKvEvents, message);
  }
  worker.feed->batch.clear();
}

void Player::tell_load(std::uint32_t index) {
  if (!needs_.reports) return;
  Worker& worker = *workers_[index];
  fleet::WorkerReport report = report_of(worker);
  if (setup_.load_delay == Nanos::zero()) {
    for (std::size_t i = 0; i < fronts_.size(); ++i) {
      report.accepted = worker.accepted[i];
      fronts_[i]->router.report(fronts_[i]->slots[index], report);
    }
    return;
  }
  const std::uint32_t message = new_message(index);
  messages_[message]->report = report;
  messages_[message]->accepted = worker.accepted;
  events_.push(now_ + setup_.load_delay, EventKind::kReport, message);
}

fleet::WorkerReport Player::report_of(Worker& worker) {
  const engine::simulated::SchedulerModel& model = *worker.model;
  fleet::WorkerReport report{.generation = ++worker.reports,
                             .prefill_tokens_left = model.prompt_tokens_left(),
                             .running_prefill_tokens_left = model.running_prompt_tokens_left(),
                             .running = model.running(),
                             .waiting = model.waiting(),
                             .kv_blocks_used = model.pool().active(),
                             .kv_blocks_max = model.pool().capacity(),
                             .last_pass_took = worker.last_pass_took,
                             .last_pass = worker.last_pass};
  if (worker.busy) {
    report.pass = worker.pass;
    report.pass_started = time_point(worker.pass_started);
  }
  return report;
}

std::uint32_t Player::new_message(std::uint32_t worker) {
  if (messages_unused_.empty()) {
    messages_unused_.push_back(static_cast<std::uint32_t>(messages_.size()));
    messages_.push_back(std::make_unique<Message>());
  }
  const std::uint32_t message = messages_unused_.back();
  messages_unused_.pop_back();
  Message& of = *messages_[message];
  of.worker = worker;
  of.life = workers_[worker]->life;
  of.front = kNone;
  of.kv.clear();
  of.replay.clear();
  return message;
}

void Player::deliver(const Message& message, EventKind kind) {
  if (faulty_ && kind != EventKind::kReport) return deliver_cache(message, kind);
  for (std::size_t i = 0; i < fronts_.size(); ++i) {
    Front& front = *fronts_[i];
    if (kind == EventKind::kKvEvents) {
      message.kv.apply(front.index, message.worker);
      continue;
    }
    if (faulty_ && front.lives[message.worker] != message.life) continue;
    fleet::WorkerReport report = message.report;
    report.accepted = message.accepted[i];
    front.router.report(front.slots[message.worker], report);
  }
}

}  // namespace penstock::sim
