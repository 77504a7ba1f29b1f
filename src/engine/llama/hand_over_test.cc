// KV that one worker computes and another takes over: the same tokens, whatever happens on the way,
// and nothing kept that nobody will ask for.
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "base/rng.h"
#include "engine/kv_exchange.h"
#include "engine/llama/llama_engine.h"
#include "text/tiny_model.h"

namespace penstock::engine {
namespace {

using namespace std::chrono_literals;

struct HandedOver {
  std::vector<std::pair<Token, float>> tokens;  // with their log probabilities
  Usage usage;
  std::optional<FinishReason> finish;
  std::shared_ptr<const KvTicket> kv;
};

class HandOverSink final : public OutputSink {
 public:
  void deliver(std::span<Output> outputs) override {
    const std::lock_guard lock(mutex_);
    for (Output& o : outputs) {
      HandedOver& answer = answers_[o.request.value];
      EXPECT_FALSE(answer.finish.has_value()) << "an output after the end";
      if (o.token) answer.tokens.emplace_back(*o.token, o.logprob);
      if (!o.finish) continue;
      answer.usage = o.usage;
      answer.finish = o.finish;
      answer.kv = std::move(o.kv);
    }
    changed_.notify_all();
  }
  HandedOver wait(RequestId id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return answers_[id.value].finish.has_value(); });
    return answers_[id.value];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, HandedOver> answers_;
};

/// Waits for what another thread is about to do.
void wait_until(const std::function<bool()>& condition) {
  for (int i = 0; !condition(); ++i) {
    ASSERT_LT(i, 20000) << "it did not come";
    std::this_thread::sleep_for(1ms);
  }
}

std::uint64_t missed(const Engine& engine, FetchMiss why) {
  return engine.load().kv_blocks_missed[static_cast<std::size_t>(why)];
}
std::uint64_t missed(const Engine& engine) {
  std::uint64_t sum = 0;
  for (const std::uint64_t blocks : engine.load().kv_blocks_missed) sum += blocks;
  return sum;
}

class HandOver : public ::testing::Test {
 protected:
  HandOver() {
    options_.context_tokens = 1024;
    options_.sequences_max = 2;
    options_.threads = 1;
    options_.exact = true;
    options_.exchange = exchange_;
  }

  static std::vector<Token> prompt(std::size_t tokens, std::uint64_t seed = 3) {
    std::vector<Token> made(tokens);
    Rng rng(seed);
    for (Token& token : made) token = static_cast<Token>(rng.below(256));
    return made;
  }
  std::unique_ptr<Engine> worker() { return worker(options_); }
  std::unique_ptr<Engine> worker(const LlamaOptions& options) {
    return make_llama_engine(model_, options, clock_).value();
  }
  GenerateRequest request(std::span<const Token> prompt) {
    GenerateRequest made;
    made.id = RequestId{++last_id_};
    made.sink = &collector_;
    made.prompt.assign(prompt.begin(), prompt.end());
    made.max_tokens = 12;
    made.sampling.temperature = 0;
    made.ignore_eos = true;
    made.top_logprobs = 0;
    return made;
  }
  RequestId give(Engine& engine, GenerateRequest request) {
    const RequestId id = request.id;
    EXPECT_TRUE(engine.generate(std::move(request)).has_value());
    return id;
  }
  HandedOver ask(Engine& engine, std::span<const Token> prompt) {
    return collector_.wait(give(engine, request(prompt)));
  }
  /// The id, under which the lease runs, and the ticket.
  std::pair<RequestId, std::shared_ptr<const KvTicket>> prefill(Engine& engine,
                                                                std::span<const Token> prompt,
                                                                Nanos lease = 1h) {
    GenerateRequest r = request(prompt);
    r.prefill_only = true;
    r.max_tokens = 0;
    r.kv_lease = lease;
    const RequestId id = give(engine, std::move(r));
    const HandedOver answer = collector_.wait(id);
    EXPECT_EQ(answer.finish, FinishReason::kLength);
    EXPECT_TRUE(answer.tokens.empty());
    return {id, answer.kv};
  }
  HandedOver decode(Engine& engine, std::span<const Token> prompt, const KvTicket& ticket) {
    GenerateRequest r = request(prompt);
    r.fetch = ticket;
    return collector_.wait(give(engine, std::move(r)));
  }
  static void wait_for_leases(const Engine& engine, std::uint32_t leases) {
    wait_until([&] { return engine.load().kv_leases == leases; });
  }

  std::shared_ptr<const text::ModelFile> model_ = text::tiny_model();
  SteadyClock clock_;
  std::shared_ptr<KvExchange> exchange_ = std::make_shared<KvExchange>(clock_);
  LlamaOptions options_;
  HandOverSink collector_;
  std::uint64_t last_id_ = 0;
};

TEST_F(HandOver, TheAnswerIsThatOfOneWorkerWhereverThePromptEnds) {
  for (const bool exact : {true, false}) {
    options_.exact = exact;
    const auto whole = worker();
    const auto first = worker();
    const auto second = worker();
    std::uint64_t fetched = 0;
    for (const std::size_t tokens : {1, 63, 64, 65, 128, 200, 511, 512, 513, 575, 576, 577, 700}) {
      const std::vector<Token> p = prompt(tokens, tokens);
      const auto [id, ticket] = prefill(*first, p);
      const HandedOver alone = ask(*whole, p);
      const std::size_t blocks = ticket == nullptr ? 0 : ticket->blocks.size();
      if (tokens >= 200) {
        EXPECT_GT(blocks, 0U) << tokens;
      }
      const HandedOver split = ticket == nullptr ? ask(*second, p) : decode(*second, p, *ticket);
      if (exact) {
        EXPECT_EQ(split.tokens, alone.tokens) << tokens << " tokens";
      }
      // Whatever the ticket names is reused, but what has to be computed anew.
      EXPECT_LE(split.usage.cached_tokens, blocks * 64);
      EXPECT_GT(split.usage.cached_tokens + 64, blocks * 64);
      EXPECT_EQ(second->load().kv_blocks_fetched - fetched, blocks);
      fetched += blocks;
      first->abort(id, CancelReason::kClientGone);
    }
    EXPECT_EQ(missed(*second), 0U);
    wait_for_leases(*first, 0);
  }
}

TEST_F(HandOver, WhateverTheBlocksSizeWhatIsLeftIsThereTheNextTimeAndTheAnswerIsThatOfOneWorker) {
  for (const std::uint32_t block : {1, 10, 24, 48, 100}) {
    options_.block_tokens = block;
    const auto whole = worker();
    const auto first = worker();
    const auto second = worker();
    for (const std::size_t tokens : {105, 200, 511, 530, 540, 577, 700}) {
      const std::vector<Token> p = prompt(tokens, tokens);
      const HandedOver alone = ask(*whole, p);
      const auto [id, ticket] = prefill(*first, p);
      const std::uint64_t steps = first->load().steps;
      const auto [again, same] = prefill(*first, p);
      EXPECT_EQ(first->load().steps, steps) << tokens << " tokens in blocks of " << block;
      ASSERT_EQ(ticket == nullptr, same == nullptr);
      const HandedOver split = ticket == nullptr ? ask(*second, p) : decode(*second, p, *ticket);
      EXPECT_EQ(split.tokens, alone.tokens) << tokens << " tokens in blocks of " << block;
      if (tokens >= 200) {
        EXPECT_GT(split.usage.cached_tokens, 0U) << tokens << " tokens in blocks of " << block;
      }
      first->abort(id, CancelReason::kClientGone);
      first->abort(again, CancelReason::kClientGone);
    }
    EXPECT_EQ(missed(*second), 0U);
  }
}

TEST_F(HandOver, APromptThatIsCachedLeavesAtOnceAndWhatIsThereIsNotFetchedAgain) {
  const auto first = worker();
  const auto second = worker();
  const std::vector<Token> p = prompt(700);
  const HandedOver alone = ask(*first, p);
  const std::uint64_t steps = first->load().steps;
  const auto [id, ticket] = prefill(*first, p);
  EXPECT_EQ(first->load().steps, steps);
  ASSERT_NE(ticket, nullptr);
  ASSERT_EQ(ticket->blocks.size(), 10U);
  ask(*second, std::span(p).first(300));
  const std::uint64_t held = second->load().kv_blocks_used;
  EXPECT_EQ(decode(*second, p, *ticket).tokens, alone.tokens);
  const LoadReport load = second->load();
  EXPECT_EQ(load.kv_blocks_fetched, ticket->blocks.size() - held);
  const auto& by_path = load.kv_transfers[static_cast<std::size_t>(transfer::PathKind::kLocal)];
  EXPECT_EQ(by_path, (transfer::PathTraffic{.pulls = 1,
                                            .blocks = load.kv_blocks_fetched,
                                            .bytes = load.kv_bytes_fetched,
                                            .took = by_path.took}));
}

TEST_F(HandOver, LeasesEndWhenToldWhenTheirTimeIsOverAndWithTheirWorker) {
  auto first = worker();
  const auto second = worker();
  const std::vector<Token> p = prompt(700);
  const HandedOver alone = ask(*worker(), p);

  const auto told = prefill(*first, p);
  EXPECT_EQ(first->load().kv_leases, 1U);
  first->abort(told.first, CancelReason::kClientGone);
  wait_for_leases(*first, 0);
  EXPECT_EQ(first->load().kv_leases_lapsed, 0U);
  EXPECT_EQ(decode(*second, p, *told.second).tokens, alone.tokens);
  EXPECT_EQ(missed(*second, FetchMiss::kLeaseEnded), 10U);

  const auto third = worker();
  const auto late = prefill(*first, p, 1ms);
  wait_for_leases(*first, 0);  // nothing else wakes the worker
  EXPECT_EQ(first->load().kv_leases_lapsed, 1U);
  EXPECT_EQ(decode(*third, p, *late.second).tokens, alone.tokens);
  EXPECT_EQ(missed(*third, FetchMiss::kLeaseEnded), 10U);

  const auto fourth = worker();
  const auto orphan = prefill(*first, p);
  first.reset();
  EXPECT_EQ(decode(*fourth, p, *orphan.second).tokens, alone.tokens);
  EXPECT_EQ(missed(*fourth, FetchMiss::kUnreachable), 10U);
  EXPECT_EQ(fourth->load().kv_blocks_fetched, 0U);
}

/// As processes have it: an exchange each.
TEST_F(HandOver, BetweenProcessesAsWithinOne) {
  const std::string folder = ::testing::TempDir();
  const KvSharing memory{
      .socket_folder = folder, .tcp_listen = {}, .tcp_advertise = {}, .secret = {}};
  const KvSharing tcp{.socket_folder = {},
                      .tcp_listen = "127.0.0.1",
                      .tcp_advertise = "127.0.0.1",
                      .secret = "sixteen characters or more"};
  const auto process = [&](const KvSharing& sharing) {
    LlamaOptions options = options_;
    options.exchange = std::make_shared<KvExchange>(clock_, sharing);
    return worker(options);
  };
  const auto whole = worker();
  for (const KvSharing& sharing : {memory, tcp}) {
    auto first = process(sharing);
    const auto second = process(sharing);
    std::uint64_t named = 0;
    for (const std::size_t tokens : {200, 577, 700}) {
      const std::vector<Token> p = prompt(tokens, tokens);
      const auto [id, ticket] = prefill(*first, p);
      ASSERT_NE(ticket, nullptr);
      named += ticket->blocks.size();
      EXPECT_EQ(decode(*second, p, *ticket).tokens, ask(*whole, p).tokens);
      first->abort(id, CancelReason::kClientGone);
    }
    EXPECT_EQ(second->load().kv_blocks_fetched, named);
    EXPECT_EQ(missed(*second), 0U);
    wait_for_leases(*first, 0);

    const std::vector<Token> p = prompt(640, 9);
    const auto orphan = prefill(*first, p);
    first.reset();
    EXPECT_EQ(decode(*second, p, *orphan.second).tokens, ask(*whole, p).tokens);
    EXPECT_EQ(missed(*second), orphan.second->blocks.size());
  }
}

TEST_F(HandOver, ATicketForAnotherPromptGivesNothing) {
  options_.reuse_bytes = 192 << 10;  // twelve blocks
  const auto first = worker();
  const auto second = worker();
  const std::vector<Token> p = prompt(700);
  const std::vector<Token> other = prompt(700, 4);
  const HandedOver alone = ask(*worker(), other);
  const auto [id, ticket] = prefill(*first, p);
  EXPECT_EQ(decode(*second, other, *ticket).tokens, alone.tokens);
  EXPECT_EQ(missed(*second, FetchMiss::kStale), 10U);
  EXPECT_EQ(second->load().kv_blocks_used, 10U);  // there is room again for those computed
}

TEST_F(HandOver, AWorkerOfOtherSettingsGivesNothing) {
  const auto first = worker();
  LlamaOptions other = options_;
  other.exact = false;
  const auto second = worker(other);
  const std::vector<Token> p = prompt(300);
  const auto [id, ticket] = prefill(*first, p);
  decode(*second, p, *ticket);
  EXPECT_EQ(second->load().kv_blocks_fetched, 0U);
  EXPECT_GT(missed(*second, FetchMiss::kUnreachable), 0U);
}

TEST_F(HandOver, WhatIsKeptForOthersIsNotEvictedAndAFullPoolComputesInstead) {
  options_.reuse_bytes = 192 << 10;  // twelve blocks
  const auto first = worker();
  const auto second = worker();
  ASSERT_EQ(first->info().kv_blocks_max, 12U);
  const std::vector<Token> p = prompt(700);
  const HandedOver alone = ask(*worker(), p);
  const auto [id, ticket] = prefill(*first, p);
  ask(*first, prompt(700, 4));  // would have pushed it out
  EXPECT_EQ(decode(*second, p, *ticket).tokens, alone.tokens);
  EXPECT_EQ(second->load().kv_blocks_fetched, 10U);

  const auto held = prefill(*second, p);  // ten of its twelve blocks
  const std::uint64_t steps = second->load().steps;
  GenerateRequest other = request(prompt(700, 6));  // which others could not keep
  std::ranges::copy(std::span(p).first(320), other.prompt.begin());
  other.prefill_only = true;
  const HandedOver refused = collector_.wait(give(*second, std::move(other)));
  EXPECT_EQ(refused.kv, nullptr);
  EXPECT_EQ(refused.usage.cached_tokens, 320U);  // it says what it has all the same
  EXPECT_EQ(second->load().steps, steps);
  const std::vector<Token> q = prompt(700, 5);
  const HandedOver alone_q = ask(*worker(), q);
  first->abort(id, CancelReason::kClientGone);
  wait_for_leases(*first, 0);
  const auto ticket_q = prefill(*first, q);
  EXPECT_EQ(decode(*second, q, *ticket_q.second).tokens, alone_q.tokens);
  EXPECT_EQ(missed(*second, FetchMiss::kNoRoom), 8U);
}

TEST_F(HandOver, RequestsThatAreCancelledOnEitherSideLeaveNothing) {
  const auto first = worker();
  options_.reuse_bytes = 224 << 10;  // fourteen blocks
  const auto second = worker();
  const std::vector<Token> p = prompt(900);
  for (int i = 0; i < 20; ++i) {
    GenerateRequest r = request(p);
    r.prompt.back() = i;
    r.prompt.front() = i;
    r.prefill_only = true;
    const std::vector<Token> asked = r.prompt;
    const RequestId leg = give(*first, std::move(r));
    if (i % 2 == 0) first->abort(leg, CancelReason::kClientGone);
    const HandedOver prefilled = collector_.wait(leg);
    if (prefilled.kv != nullptr) {
      GenerateRequest d = request(asked);
      d.fetch = *prefilled.kv;
      const RequestId id = give(*second, std::move(d));
      second->abort(id, CancelReason::kClientGone);
      collector_.wait(id);
    }
    first->abort(leg, CancelReason::kClientGone);
  }
  wait_for_leases(*first, 0);
  // Every slot is of use still: the pool takes as much as it did before.
  EXPECT_EQ(ask(*second, p).tokens, ask(*first, p).tokens);
  EXPECT_EQ(second->load().kv_blocks_used, 14U);
}

}  // namespace
}  // namespace penstock::engine
