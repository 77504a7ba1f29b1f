#include "engine/simulated/core.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace penstock::engine::simulated {

Core::Core(const SimulatedOptions& options, KvEventLog& events)
    : options_(options),
      events_(events),
      model_(options.worker, this),
      unsalted_root_(kv::chain_root(options.model, {}, {})) {
  block_.reserve(options.worker.block_tokens);
}

void Core::accept(GenerateRequest given) {
  if (unused_.empty()) {
    unused_.push_back(static_cast<std::uint32_t>(requests_.size()));
    requests_.emplace_back();
  }
  const std::uint32_t index = unused_.back();
  unused_.pop_back();
  const bool fresh = by_id_.try_emplace(given.id, index).second;
  CHECK(fresh);
  ++accepted_;

  Request& r = requests_[index];
  r.given = std::move(given);
  r.answer = Answer(r.given.prompt, r.given.cache_salt,
                    r.given.sampling.seed ? *r.given.sampling.seed : options_.seed);
  r.generated.clear();
  r.cached = 0;
  r.queued.reset();
  r.live = true;
  r.mailbox = mailbox_of(r.given.sink);
  ++mailboxes_[r.mailbox].requests;
  next_deadline_ = std::min(next_deadline_, r.given.deadline.at());

  const auto prompt = static_cast<std::uint32_t>(r.given.prompt.size());
  const std::uint32_t output = output_tokens_max(options_, r.given);
  r.keys.clear();
  r.named = 0;
  if (options_.worker.prefix_caching) {
    r.root = r.given.cache_salt.empty() ? unsalted_root_
                                        : kv::chain_root(options_.model, {}, r.given.cache_salt);
    r.locals = kv::LocalHasher({}, r.given.cache_salt);
    r.keys.resize((prompt + output - 1) / options_.worker.block_tokens);
    name_blocks(r);
  }
  r.sequence = model_.submit({.tag = index,
                              .keys = r.keys,
                              .root = r.root,
                              .prompt_tokens = prompt,
                              .output_tokens = output,
                              .priority = r.given.priority});
}

std::uint32_t Core::mailbox_of(OutputSink* sink) {
  const auto [place, fresh] = by_sink_.try_emplace(sink, 0);
  if (!fresh) return place->second;
  if (unused_mailboxes_.empty()) {
    unused_mailboxes_.push_back(static_cast<std::uint32_t>(mailboxes_.size()));
    mailboxes_.emplace_back();
  }
  place->second = unused_mailboxes_.back();
  unused_mailboxes_.pop_back();
  mailboxes_[place->second].sink = sink;
  return place->second;
}

void Core::abort(RequestId id) {
  const auto found = by_id_.find(id);
  if (found != by_id_.end()) cancel(found->second);
}

void Core::abort_all() {
  for (std::uint32_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i].live) cancel(i);
  }
}

void Core::expire(TimePoint now) {
  if (now < next_deadline_) return;
  next_deadline_ = TimePoint::max();
  for (std::uint32_t i = 0; i < requests_.size(); ++i) {
    const Request& r = requests_[i];
    if (!r.live) continue;
    if (r.given.deadline.passed(now)) {
      cancel(i);
    } else {
      next_deadline_ = std::min(next_deadline_, r.given.deadline.at());
    }
  }
}

void Core::cancel(std::uint32_t index) {
  model_.remove(requests_[index].sequence);
  end(index, add_output(requests_[index]), FinishReason::kCancelled);
}

void Core::clear_cache() {
  const std::span<const kv::BlockHash> gone = model_.clear_cache();
  if (model_.pool().names() > 0) {
    removed(gone);
  } else if (!gone.empty()) {
    events_.cleared();
  }
}

Nanos Core::start_pass(TimePoint now) {
  const Pass& pass = model_.start_pass();
  for (const std::uint64_t tag : pass.admitted) {
    Request& r = requests_[tag];
    if (!r.queued) r.queued = std::max(Nanos::zero(), now - r.given.arrived);
  }
  // Nothing is held or reserved here, so the head of the queue always fits once nothing runs.
  CHECK(pass.progress);
  pass_ = {.prefill_tokens = static_cast<std::uint32_t>(pass.prefill_tokens),
           .decodes = !pass.emissions.empty(),
           .kv_use = static_cast<double>(model_.pool().active()) / model_.pool().capacity()};
  return pass.duration;
}

void Core::finish_pass() {
  for (const Emission& emission : model_.finish_pass()) emit(emission);
}

void Core::emit(const Emission& emission) {
  const auto index = static_cast<std::uint32_t>(emission.tag);
  Request& r = requests_[index];
  const auto position = static_cast<std::uint32_t>(r.generated.size());
  if (position == 0) {
    r.cached = emission.cached_tokens;
    prompt_tokens_ += r.given.prompt.size();
    cached_tokens_ += r.cached;
  }
  const std::optional<std::uint32_t> drawn = step(options_, r.answer, r.given, position);
  if (!drawn) {
    if (!emission.last) model_.remove(emission.id);
    end(index, add_output(r), FinishReason::kStop);
    return;
  }
  const Token token = options_.vocabulary[*drawn];
  r.generated.push_back(token);
  ++completion_tokens_;
  Output& output = add_output(r);
  output.token = token;
  if (r.given.top_logprobs) {
    output.logprob = kDrawnLogprob;
    if (*r.given.top_logprobs > 0) {
      output.top = top_logprobs(options_.vocabulary, *drawn, *r.given.top_logprobs);
    }
  }
  if (emission.last) {
    end(index, output, FinishReason::kLength);
  } else if ((r.given.prompt.size() + position + 1) % options_.worker.block_tokens == 0) {
    name_blocks(r);
  }
}

/// Names the blocks that the known tokens fill and that can be completed.
void Core::name_blocks(Request& r) {
  const std::size_t known = r.given.prompt.size() + r.generated.size();
  const std::size_t full = std::min(known / options_.worker.block_tokens, r.keys.size());
  for (; r.named < full; ++r.named) {
    r.keys[r.named] =
        kv::chain_next(r.named == 0 ? r.root : r.keys[r.named - 1], block_tokens(r, r.named));
  }
}

/// Valid until the next call.
std::span<const Token> Core::block_tokens(const Request& r, std::uint32_t block) {
  const std::size_t size = options_.worker.block_tokens;
  const std::size_t begin = block * size;
  const std::span<const Token> prompt = r.given.prompt;
  if (begin + size <= prompt.size()) return prompt.subspan(begin, size);
  block_.clear();
  for (std::size_t i = begin; i < begin + size; ++i) {
    block_.push_back(i < prompt.size() ? prompt[i] : r.generated[i - prompt.size()]);
  }
  return block_;
}

void Core::stored(const StoredRun& run) {
  const Request& r = requests_[run.tag];
  kv::BlockHash parent = run.parent;
  for (std::uint32_t i = 0; i < run.keys.size(); ++i) {
    const std::span<const Token> tokens = block_tokens(r, run.first_block + i);
    kv::Event block{.hash = run.keys[i],
                    .parent = parent,
                    .begins_chain = run.first_block + i == 0,
                    .local = r.locals.block(tokens),
                    .tokens = {}};
    if (events_.keeps_tokens()) block.tokens.assign(tokens.begin(), tokens.end());
    events_.stored(std::move(block));
    parent = run.keys[i];
  }
}

void Core::removed(std::span<const kv::BlockHash> keys) {
  for (const kv::BlockHash& key : keys) events_.removed(key);
}

Output& Core::add_output(const Request& r) {
  Mailbox& mailbox = mailboxes_[r.mailbox];
  if (mailbox.outputs.empty()) filled_.push_back(r.mailbox);
  ++undelivered_;
  Output& output = mailbox.outputs.emplace_back();
  output.request = r.given.id;
  output.usage = {.prompt_tokens = static_cast<std::uint32_t>(r.given.prompt.size()),
                  .cached_tokens = r.cached,
                  .completion_tokens = static_cast<std::uint32_t>(r.generated.size()),
                  .queued = r.queued.value_or(Nanos::zero())};
  return output;
}

/// The request's last output; it is gone from the model already.
void Core::end(std::uint32_t index, Output& output, FinishReason reason) {
  output.finish = reason;
  Request& r = requests_[index];
  r.live = false;
  r.given.prompt = {};  // the largest part, and the caller's allocation
  by_id_.erase(r.given.id);
  --mailboxes_[r.mailbox].requests;
  ended_.push_back(r.given.id);
  unused_.push_back(index);
}

void Core::deliver() {
  for (const std::uint32_t index : filled_) {
    Mailbox& mailbox = mailboxes_[index];
    OutputSink* const sink = mailbox.sink;
    if (mailbox.requests == 0) {
      // The sink may be gone as soon as it has seen its last request end.
      by_sink_.erase(sink);
      unused_mailboxes_.push_back(index);
    }
    sink->deliver(mailbox.outputs);
    mailbox.outputs.clear();
  }
  filled_.clear();
  undelivered_ = 0;
  ended_.clear();
}

LoadReport Core::load() const {
  return {.running = model_.running(),
          .waiting = model_.waiting(),
          .accepted = accepted_,
          .waiting_prefill_tokens = model_.prompt_tokens_left(),
          .running_prefill_tokens = model_.running_prompt_tokens_left(),
          .kv_blocks_used = model_.pool().names(),
          .kv_blocks_max = model_.pool().capacity(),
          .kv_blocks_active = model_.pool().active(),
          .kv_blocks_active_max = model_.pool().capacity(),
          .steps = model_.passes(),
          .prompt_tokens = prompt_tokens_,
          .cached_tokens = cached_tokens_,
          .completion_tokens = completion_tokens_,
          .preemptions = model_.preemptions(),
          .blocks_evicted = model_.pool().evictions(),
          .pass_tokens_max = options_.worker.pass_tokens_max};
}

}  // namespace penstock::engine::simulated
