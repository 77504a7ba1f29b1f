// The way of a prompt from its prefill worker to its decode worker, in the order of Dynamo's
// replay for vLLM ("source first"):
//
//   the pass that ends the prompt is over: its blocks are held, a decode worker is chosen, and room
//     is claimed there (kReserve); a claim is looked at when that worker is between passes, one a
//     pass, one more whenever something was activated there
//   the claim is granted: the transfer begins (kTransfer)
//   the transfer is over and the decode worker between passes: the request joins its waiting queue,
//     computed (kActivate)
//   and after that, the prefill worker between passes: it lets the blocks go (kRelease)
//
// Actions of one moment are taken first in, first out; what finds its worker busy waits for the
// pass's end.

#include <cmath>

#include "sim/internal/player.h"

namespace penstock::sim {

bool Player::hand_over() {
  bool changed = false;
  while (!actions_.empty()) {
    const Action action = actions_.front();
    actions_.pop_front();
    if (action.tries != outcomes_[action.request].tries) continue;  // it is off these workers
    Live& live = live_of(action.request);
    switch (action.kind) {
      case Action::Kind::kReserve:
        reserve(live);
        changed = true;
        break;
      case Action::Kind::kTransfer:
        start_transfer(live);
        changed = true;
        break;
      case Action::Kind::kActivate: changed |= activate(live); break;
      case Action::Kind::kRelease: changed |= release_source(live); break;
    }
  }
  return changed;
}

/// Chooses the decode worker and claims room there.
void Player::reserve(Live& live) {
  const TraceRequest& request = trace_.requests[live.request];
  Result<router::Placement> placement = place(live, router::Stage::kDecode);
  if (!placement) return lose(live, kNone);
  live.lease = std::move(placement->lease);
  live.worker = fronts_[live.front]->workers[placement->worker];
  Worker& worker = *workers_[live.worker];
  if (worker.down) return lose(live, live.worker);
  live.id = worker.model->reserve({.tag = live.request,
                                   .keys = live.keys,
                                   .prompt_tokens = request.input_tokens,
                                   .output_tokens = request.output_tokens});
  live.on_worker = true;
  ++live.legs;
  ++worker.accepted[live.front];
  end_after_this_pass(live.worker);
  if (!worker.busy) grant(live.worker);
}

/// Where the KV of its prompt may go.
std::span<const Slot> Player::all_but_prefill_worker(const Live& live) {
  others_.clear();
  for (Slot slot = 0; slot < workers_.size(); ++slot) {
    if (fronts_[live.front]->workers[slot] != live.prefill_worker) others_.push_back(slot);
  }
  return others_;
}

bool Player::is_prompt_leg(const Worker& worker, const engine::simulated::Emission& emission) {
  if (worker.role != fleet::Role::kBoth) return worker.role == fleet::Role::kPrefill;
  if (!decides_) return false;
  const Live& live = live_of(emission.tag);
  return live.on_prefill && workers_[live.prefill_worker].get() == &worker;
}

void Player::grant(std::uint32_t index) {
  const auto granted = workers_[index]->model->grant_reservation();
  if (!granted) return;
  act(Action::Kind::kTransfer, static_cast<std::uint32_t>(granted->tag));
  tell_cache(index);
}

void Player::start_transfer(const Live& live) {
  const double bytes = static_cast<double>(trace_.requests[live.request].input_tokens) *
                       static_cast<double>(setup_.kv_bytes_per_token);
  const Nanos took(std::llround(bytes / setup_.transfer_bytes_per_ns));
  push_for(live, now_ + took, EventKind::kTransferEnd);
}

bool Player::activate(const Live& live) {
  Worker& worker = *workers_[live.worker];
  if (worker.busy) {
    defer(live.worker, Action::Kind::kActivate, live.request);
    return false;
  }
  worker.model->activate(live.id);
  touch(live.worker);
  act(Action::Kind::kRelease, live.request);
  grant(live.worker);
  tell_cache(live.worker);
  return true;
}

bool Player::release_source(Live& live) {
  Worker& worker = *workers_[live.prefill_worker];
  if (worker.busy) {
    defer(live.prefill_worker, Action::Kind::kRelease, live.request);
    return false;
  }
  worker.model->release_held(live.prefill_id);
  touch(live.prefill_worker);
  live.on_prefill = false;
  leave(live);
  return true;
}

void Player::defer(std::uint32_t index, Action::Kind kind, std::uint32_t request) {
  end_after_this_pass(index);
  workers_[index]->deferred.push_back({kind, request, outcomes_[request].tries});
}

/// The worker is between passes.
void Player::wake(Worker& worker) {
  actions_.insert(actions_.end(), worker.deferred.begin(), worker.deferred.end());
  worker.deferred.clear();
}

}  // namespace penstock::sim
