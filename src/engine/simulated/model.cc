#include "engine/simulated/model.h"

#include <algorithm>

#include "base/check.h"

namespace penstock::engine::simulated {

SchedulerModel::SchedulerModel(const ModelOptions& options, PoolListener* listener)
    : options_(options), pool_(options.kv_blocks, listener) {
  CHECK_GE(options.block_tokens, 1U);
  CHECK_LE(options.block_tokens, 1U << 16);
  CHECK_GE(options.sequences_max, 1U);
  CHECK_GE(options.pass_tokens_max, 1U);
  CHECK(options.speedup > 0 && options.decode_speedup > 0);
}

bool SchedulerModel::can_run(std::uint32_t prompt_tokens, std::uint32_t output_tokens) const {
  // The last token is emitted and never computed.
  const std::uint64_t tokens = std::uint64_t{prompt_tokens} + output_tokens - 1;
  const std::uint64_t room = std::uint64_t{options_.kv_blocks} * options_.block_tokens;
  return tokens <= room && tokens < UINT32_MAX - options_.block_tokens &&
         (options_.chunked_prefill || tokens <= options_.pass_tokens_max);
}

SequenceId SchedulerModel::submit(const Submission& submission) {
  const SequenceId id = add(submission, State::kWaiting);
  prompt_tokens_left_ += submission.prompt_tokens;
  enqueue_waiting(id);
  return id;
}

SequenceId SchedulerModel::reserve(const Submission& submission) {
  const SequenceId id = add(submission, State::kReserving);
  insert_before(reserving_, id, kNone);
  return id;
}

SequenceId SchedulerModel::add(const Submission& submission, State state) {
  CHECK_GE(submission.prompt_tokens, 1U);
  CHECK_GE(submission.output_tokens, 1U);
  CHECK(can_run(submission.prompt_tokens, submission.output_tokens));
  CHECK(!options_.prefix_caching ||
        submission.keys.size() >= submission.prompt_tokens / options_.block_tokens);
  if (unused_.empty()) {
    unused_.push_back(static_cast<SequenceId>(sequences_.size()));
    sequences_.emplace_back();
  }
  const SequenceId id = unused_.back();
  unused_.pop_back();
  Sequence& s = sequences_[id];
  s.tag = submission.tag;
  s.known = s.prompt = submission.prompt_tokens;
  s.computed = s.owned_tokens = s.cached = 0;
  s.complete_at = options_.block_tokens;
  s.output_left = submission.output_tokens;
  s.state = state;
  s.materialised = s.removed = false;
  s.hold = submission.hold;
  s.loading = submission.loading;
  s.keys = submission.keys;
  s.root = submission.root;
  s.priority = submission.priority;
  return id;
}

/// `next` kNone: at the end.
void SchedulerModel::insert_before(Queue& queue, SequenceId id, SequenceId next) {
  const SequenceId previous = next == kNone ? queue.last : sequences_[next].previous;
  sequences_[id].previous = previous;
  sequences_[id].next = next;
  (previous == kNone ? queue.first : sequences_[previous].next) = id;
  (next == kNone ? queue.last : sequences_[next].previous) = id;
  ++queue.count;
}

void SchedulerModel::unlink(Queue& queue, SequenceId id) {
  const Sequence& s = sequences_[id];
  (s.previous == kNone ? queue.first : sequences_[s.previous].next) = s.next;
  (s.next == kNone ? queue.last : sequences_[s.next].previous) = s.previous;
  --queue.count;
}

void SchedulerModel::enqueue_waiting(SequenceId id) {
  SequenceId next = kNone;
  SequenceId previous = waiting_.last;
  while (previous != kNone && sequences_[previous].priority < sequences_[id].priority) {
    next = previous;
    previous = sequences_[previous].previous;
  }
  insert_before(waiting_, id, next);
}

const Pass& SchedulerModel::start_pass() {
  CHECK(!in_pass_);
  budget_ = options_.pass_tokens_max;
  preempted_ = 0;
  prefill_ = {};
  emission_count_ = 0;
  admitted_.clear();
  room_ = UINT32_MAX;
  const std::size_t running_before = running_.size();
  schedule_running();
  if (preempted_ == 0) admit_waiting();
  // Whatever ran used budget, except a sequence that came with everything computed.
  pass_.progress = budget_ < options_.pass_tokens_max || emission_count_ > 0 || preempted_ > 0 ||
                   running_.size() != running_before;
  pass_.prefill_tokens = prefill_tokens();
  pass_.duration = pass_duration();
  pass_.emissions = std::span(emissions_).first(emission_count_);
  pass_.admitted = admitted_;
  // Whoever waits was not admitted, and will not be while no block is taken or let go; but a claim
  // is to be looked at after each pass.
  const bool alike = prefill_.sequences == 0 && preempted_ == 0 && reserving_.count == 0 &&
                     emission_count_ == running_.size();
  pass_.repeats = alike && pass_.progress ? 1 + room_ : 1;
  in_pass_ = pass_.progress;
  passes_ += pass_.progress ? 1 : 0;
  return pass_;
}

void SchedulerModel::schedule_running() {
  // running_ may get shorter from its end, never before `i`.
  for (std::size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    const SequenceId id = running_[i];
    const Sequence& s = sequences_[id];
    const std::uint32_t tokens = std::min(s.known - s.computed, budget_);
    while (i < running_.size() && !schedule(id, tokens, s.computed)) preempt_newest();
  }
}

void SchedulerModel::admit_waiting() {
  while (running_.size() < options_.sequences_max) {
    SequenceId id = waiting_.first;
    // A reservation that waits for blocks goes before all whose prompts are still to be computed.
    while (id != kNone &&
           (sequences_[id].loading || (reserving_.count > 0 && !sequences_[id].materialised))) {
      id = sequences_[id].next;
    }
    if (id == kNone) return;
    if (sequences_[id].materialised) {
      admit_materialised(id);
    } else if (budget_ == 0 || !admit(id)) {
      return;
    }
  }
}

/// Moves the head of the waiting queue to the running ones, if it fits.
bool SchedulerModel::admit(SequenceId id) {
  Sequence& s = sequences_[id];
  // At least one token is computed, so that there is something to sample from.
  const std::uint32_t referenced = match(s, (s.known - 1) / options_.block_tokens);
  const auto hit_blocks = static_cast<std::uint32_t>(matched_.size());
  const std::uint32_t hit_tokens = hit_blocks * options_.block_tokens;
  // The whole known sequence must fit, though only the scheduled part takes blocks now.
  if (blocks_for(s.known) - referenced > pool_.available()) return false;
  if (!options_.chunked_prefill && s.known - hit_tokens > budget_) return false;

  unlink(waiting_, id);
  start_running(id);
  pool_.acquire(matched_);
  s.slots.assign(matched_.begin(), matched_.end());
  s.owned_tokens = s.computed = hit_tokens;
  s.complete_at = hit_tokens + options_.block_tokens;
  const std::uint32_t cached_prompt = std::min(hit_tokens, s.prompt);
  s.cached = std::max(s.cached, cached_prompt);
  prompt_tokens_left_ -= cached_prompt;
  const bool scheduled = schedule(id, std::min(s.known - hit_tokens, budget_), hit_tokens);
  CHECK(scheduled);
  return true;
}

void SchedulerModel::admit_materialised(SequenceId id) {
  Sequence& s = sequences_[id];
  unlink(waiting_, id);
  start_running(id);
  s.materialised = false;
  emit(id);
}

/// Gives a running sequence `tokens` of the budget. False, and nothing changed, without blocks.
bool SchedulerModel::schedule(SequenceId id, std::uint32_t tokens, std::uint32_t from) {
  Sequence& s = sequences_[id];
  const std::uint32_t to = from + tokens;
  if (to > s.owned_tokens) {
    const auto owned = static_cast<std::uint32_t>(s.slots.size());
    const std::uint32_t wanted = blocks_for(to);
    if (!pool_.allocate(wanted - owned, s.slots)) return false;
    s.owned_tokens = wanted * options_.block_tokens;
  }
  s.computed = to;
  budget_ -= tokens;
  if (to >= s.complete_at) complete_blocks(s);
  if (from < s.prompt) {
    const std::uint32_t prompt_to = std::min(to, s.prompt);
    ++prefill_.sequences;
    prefill_.positions_before += from;
    prefill_.positions_after += prompt_to;
    prompt_tokens_left_ -= prompt_to - from;
  }
  if (to == s.known) emit(id);
  return true;
}

void SchedulerModel::start_running(SequenceId id) {
  sequences_[id].state = State::kRunning;
  admitted_.push_back(sequences_[id].tag);
  running_.push_back(id);
  if (emissions_.size() < running_.size()) emissions_.resize(running_.size());
}

void SchedulerModel::emit(SequenceId id) {
  const Sequence& s = sequences_[id];
  emissions_[emission_count_++] = {s.tag, id, s.cached, s.output_left == 1};
  room_ = std::min({room_, s.owned_tokens - s.computed, s.output_left - 1});
}

/// Names the blocks that `computed` has filled.
void SchedulerModel::complete_blocks(Sequence& s) {
  const std::uint32_t begin = s.complete_at / options_.block_tokens - 1;
  const std::uint32_t end = s.computed / options_.block_tokens;
  s.complete_at = (end + 1) * options_.block_tokens;
  if (!options_.prefix_caching) return;
  StoredRun run{
      .tag = s.tag, .first_block = begin, .parent = begin == 0 ? s.root : key_of(s, begin - 1)};
  if (end <= s.keys.size()) {
    run.keys = s.keys.subspan(begin, end - begin);
  } else {
    keys_.clear();
    for (std::uint32_t block = begin; block < end; ++block) keys_.push_back(key_of(s, block));
    run.keys = keys_;
  }
  pool_.complete(std::span(s.slots).subspan(begin, end - begin), run);
}

void SchedulerModel::preempt_newest() {
  const SequenceId id = running_.back();
  running_.pop_back();
  Sequence& s = sequences_[id];
  // Not scheduled in this pass: those were taken in order, and this one is the last.
  prompt_tokens_left_ += std::min(s.computed, s.prompt);
  release_blocks(s);
  s.state = State::kWaiting;
  insert_before(waiting_, id, waiting_.first);
  ++preempted_;
  ++preemptions_;
}

std::uint64_t SchedulerModel::prefill_tokens() const noexcept {
  const std::uint64_t k = prefill_.sequences;
  if (k == 0) return 0;
  // The means are whole numbers before they are multiplied again.
  return k * (prefill_.positions_after / k - prefill_.positions_before / k);
}

std::uint64_t SchedulerModel::running_prompt_tokens_left() const noexcept {
  std::uint64_t tokens = 0;
  for (const SequenceId id : running_) {
    const Sequence& s = sequences_[id];
    tokens += s.prompt - std::min(s.computed, s.prompt);
  }
  return tokens;
}

Nanos SchedulerModel::pass_duration() const {
  Nanos duration{0};
  if (prefill_.sequences > 0 && options_.role != Role::kDecodeOnly) {
    const auto tokens = static_cast<double>(pass_.prefill_tokens);
    duration += pass_time(options_.clock.prefill_ms(tokens), options_.speedup);
  }
  if (emission_count_ > 0 && options_.role != Role::kPrefillOnly) {
    const double kv_use = static_cast<double>(pool_.active()) / pool_.capacity();
    duration +=
        pass_time(options_.clock.decode_ms(kv_use), options_.speedup * options_.decode_speedup);
  }
  return duration;
}

std::span<const Emission> SchedulerModel::finish_pass(std::uint32_t passes) {
  CHECK(in_pass_);
  CHECK(passes == 1 || (passes >= 1 && passes <= pass_.repeats && !removals_));
  in_pass_ = false;
  passes_ += passes - 1;
  bool ended = removals_;
  for (Emission& e : std::span(emissions_).first(emission_count_)) {
    Sequence& s = sequences_[e.id];
    s.known += passes;
    s.output_left -= passes;
    s.computed += passes - 1;
    if (s.computed >= s.complete_at) complete_blocks(s);
    e.last = s.output_left == 0;
    if (!e.last || s.removed) continue;
    ended = true;
    if (s.hold) {
      s.state = State::kHeld;
    } else {
      retire(e.id);
    }
  }
  if (ended) {
    if (removals_) {
      const auto removed = [&](const Emission& e) { return sequences_[e.id].removed; };
      const auto end = emissions_.begin() + static_cast<std::ptrdiff_t>(emission_count_);
      const auto kept = std::remove_if(emissions_.begin(), end, removed);
      pass_.emissions = std::span(emissions_.begin(), kept);
      for (const SequenceId id : running_) {
        if (sequences_[id].removed) retire(id);
      }
      removals_ = false;
    }
    std::erase_if(running_, [&](SequenceId id) { return sequences_[id].state != State::kRunning; });
  }
  return pass_.emissions;
}

void SchedulerModel::remove(SequenceId id) {
  Sequence& s = sequences_[id];
  switch (s.state) {
    case State::kRunning:
      if (in_pass_) {
        s.removed = removals_ = true;
        return;
      }
      std::erase(running_, id);
      break;
    case State::kWaiting: unlink(waiting_, id); break;
    case State::kReserving: unlink(reserving_, id); break;
    case State::kReserved:
    case State::kHeld: break;
    case State::kGone: CHECK(s.state != State::kGone);
  }
  retire(id);
}

void SchedulerModel::loaded(SequenceId id) {
  CHECK(sequences_[id].state == State::kWaiting && sequences_[id].loading);
  sequences_[id].loading = false;
}

void SchedulerModel::take_in(std::span<const kv::BlockHash> keys, const kv::BlockHash& root) {
  if (!options_.prefix_caching) return;
  std::vector<BlockPool::Slot> slots;
  pool_.match(
      static_cast<std::uint32_t>(keys.size()), [&](std::uint32_t i) { return keys[i]; }, slots);
  pool_.acquire(slots);
  const std::size_t held = slots.size();
  const std::size_t count = std::min<std::size_t>(keys.size() - held, pool_.available());
  if (count > 0 && pool_.allocate(static_cast<std::uint32_t>(count), slots)) {
    pool_.complete(std::span(slots).subspan(held), {.first_block = static_cast<std::uint32_t>(held),
                                                    .parent = held == 0 ? root : keys[held - 1],
                                                    .keys = keys.subspan(held, count)});
  }
  pool_.release(slots);
}

void SchedulerModel::release_held(SequenceId id) {
  CHECK(!in_pass_);
  CHECK(sequences_[id].state == State::kHeld);
  retire(id);
}

std::optional<Reservation> SchedulerModel::grant_reservation() {
  if (reserving_.first == kNone || running_.size() >= options_.sequences_max) return std::nullopt;
  const SequenceId id = reserving_.first;
  Sequence& s = sequences_[id];
  const std::uint32_t referenced = match(s, s.prompt / options_.block_tokens);
  const std::uint32_t blocks = blocks_for(s.prompt);
  if (blocks - referenced > pool_.available()) return std::nullopt;
  unlink(reserving_, id);
  pool_.acquire(matched_);
  const auto hit_blocks = static_cast<std::uint32_t>(matched_.size());
  s.slots.assign(matched_.begin(), matched_.end());
  const bool allocated = pool_.allocate(blocks - hit_blocks, s.slots);
  CHECK(allocated);
  s.owned_tokens = blocks * options_.block_tokens;
  s.complete_at = (hit_blocks + 1) * options_.block_tokens;
  s.state = State::kReserved;
  return Reservation{s.tag, id};
}

void SchedulerModel::activate(SequenceId id) {
  CHECK(!in_pass_);
  Sequence& s = sequences_[id];
  CHECK(s.state == State::kReserved);
  s.state = State::kWaiting;
  s.materialised = true;
  s.computed = s.prompt;
  if (s.computed >= s.complete_at) complete_blocks(s);
  enqueue_waiting(id);
}

kv::BlockHash SchedulerModel::key_of(const Sequence& s, std::uint32_t block) const noexcept {
  if (block < s.keys.size()) return s.keys[block];
  return {.high = s.tag + 1, .low = (s.tag * 0x9E3779B97F4A7C15ULL) + block};
}

/// Leaves in matched_ the leading blocks that are held; returns how many are referenced.
std::uint32_t SchedulerModel::match(const Sequence& s, std::uint32_t blocks_max) {
  matched_.clear();
  if (!options_.prefix_caching) return 0;
  return pool_.match(blocks_max, [&](std::uint32_t i) { return key_of(s, i); }, matched_);
}

void SchedulerModel::release_blocks(Sequence& s) {
  pool_.release(s.slots);
  s.computed = s.owned_tokens = 0;
  s.complete_at = options_.block_tokens;
}

/// The end of a sequence that is in no queue any more.
void SchedulerModel::retire(SequenceId id) {
  Sequence& s = sequences_[id];
  const bool counted = s.state == State::kWaiting || s.state == State::kRunning;
  if (counted && !s.materialised) prompt_tokens_left_ -= s.prompt - std::min(s.computed, s.prompt);
  release_blocks(s);
  s.keys = {};
  s.materialised = false;
  s.state = State::kGone;
  unused_.push_back(id);
}

void SchedulerModel::check_invariants() const {
  std::vector<std::span<const BlockPool::Slot>> owned;
  std::uint64_t prompt_tokens_left = 0;
  std::uint32_t waiting = 0;
  std::uint32_t running = 0;
  for (const Sequence& s : sequences_) {
    owned.emplace_back(s.slots);
    CHECK_EQ(s.owned_tokens, s.slots.size() * options_.block_tokens);
    CHECK_LE(s.computed, s.owned_tokens);
    if (s.state == State::kGone || (s.state == State::kWaiting && !s.materialised)) {
      CHECK(s.slots.empty());
    }
    waiting += s.state == State::kWaiting ? 1 : 0;
    running += s.state == State::kRunning ? 1 : 0;
    if (s.state == State::kRunning || (s.state == State::kWaiting && !s.materialised)) {
      prompt_tokens_left += s.prompt - std::min(s.computed, s.prompt);
    }
  }
  CHECK_EQ(waiting, waiting_.count);
  CHECK_EQ(running, running_.size());
  CHECK_LE(running, options_.sequences_max);
  CHECK_EQ(prompt_tokens_left, prompt_tokens_left_);
  pool_.check_invariants(owned);
}

}  // namespace penstock::engine::simulated
