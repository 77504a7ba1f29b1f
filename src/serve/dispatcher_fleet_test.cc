#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "engine/kv_event_log.h"
#include "kv/block.h"
#include "kv/local_hash.h"
#include "serve/dispatcher.h"

namespace penstock::serve {
namespace {

using fleet::WorkerState;
using testing::ElementsAre;

constexpr std::uint32_t kBlockTokens = 16;

/// What a test sees of a worker elsewhere, also after its end.
struct Seen {
  bool connected = true;
  bool given_up = false;
  bool destroyed = false;
  std::uint32_t embeddings = 0;
  engine::KvEventLog events;
  engine::LoadReport load{.generation = 1};
  std::set<tiers::Key> on_disk;
};

class FakeRemote final : public engine::RemoteEngine {
 public:
  explicit FakeRemote(std::shared_ptr<Seen> seen, const std::string& kv_tiers_key = {})
      : seen_(std::move(seen)) {
    info_.kv_tiers_key = kv_tiers_key;
  }
  ~FakeRemote() override { seen_->destroyed = true; }

  [[nodiscard]] const engine::EngineInfo& info() const override { return info_; }
  Result<void> generate(engine::GenerateRequest) override { return {}; }
  void abort(RequestId, engine::CancelReason) override {}
  Result<void> embed(engine::EmbedRequest, engine::EmbedDone) override {
    ++seen_->embeddings;
    return {};
  }
  [[nodiscard]] engine::LoadReport load() const override { return seen_->load; }
  [[nodiscard]] bool connected() const override { return seen_->connected; }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return &seen_->events; }
  [[nodiscard]] tiers::LoadChoice foresee_load(std::span<const tiers::Key> keys,
                                               std::size_t have) const override {
    const auto lies = [this](const tiers::Key& key) { return seen_->on_disk.contains(key); };
    const auto rest = keys.subspan(have);
    const auto blocks = std::ranges::find_if_not(rest, lies) - rest.begin();
    const std::vector<tiers::Tier> there(static_cast<std::size_t>(blocks), tiers::Tier::kDisk);
    return choose_load(there,
                       {.host_ns = 1e4, .disk_ns = 1e5, .disk_queue_ns = 0, .recompute_ns = 4e6});
  }
  void probe(std::move_only_function<void(bool)> done) override { done(seen_->connected); }
  void give_up() override { seen_->given_up = true; }

  engine::EngineInfo info_{.model = "fake",
                           .block_tokens = kBlockTokens,
                           .context_tokens_max = 1000,
                           .sequences_max = 4,
                           .kv_blocks_max = 1000,
                           .vocabulary_size = 10,
                           .hands_kv_over = true};

 private:
  const std::shared_ptr<Seen> seen_;
};

class DispatcherFleetTest : public testing::Test {
 protected:
  DispatcherFleetTest() = default;
  explicit DispatcherFleetTest(std::string policy) : policy_(std::move(policy)) {}

  std::shared_ptr<Seen> join(const std::string& instance, const std::string& address,
                             const Labels& labels = {}, const std::string& kv_tiers_key = {}) {
    auto seen = std::make_shared<Seen>();
    const Result<void> joined =
        dispatcher_.join({.instance = instance, .address = address, .labels = labels}, info_,
                         [&] { return std::make_unique<FakeRemote>(seen, kv_tiers_key); });
    EXPECT_TRUE(joined.has_value());
    return seen;
  }
  /// One whose disk has the prompt, under the names that go with the key.
  std::shared_ptr<Seen> join_with_disk(const std::string& instance, const std::string& key) {
    const auto seen = join(instance, instance + ":1", {}, key);
    std::vector<tiers::Key> keys;
    tiers::name_blocks(tiers::root_key(key, {}), prompt_, kBlockTokens, keys);
    seen->on_disk.insert(keys.begin(), keys.end());
    return seen;
  }
  std::vector<WorkerState> states() {
    std::vector<WorkerState> all;
    for (const WorkerView& worker : dispatcher_.view().workers) all.push_back(worker.state);
    return all;
  }
  std::vector<std::string> instances() {
    std::vector<std::string> all;
    for (const WorkerView& worker : dispatcher_.view().workers) all.push_back(worker.instance);
    return all;
  }
  Result<Assignment> place(std::vector<kv::Slot> not_at = {}) {
    PromptBlocks blocks;
    dispatcher_.name_blocks(prompt_, {}, blocks);
    return dispatcher_.place({.id = {},
                              .prompt = prompt_,
                              .locals = blocks.locals,
                              .keys = blocks.keys,
                              .not_at = not_at});
  }
  /// Looked at twice a second; canaries that are asked for are kept, and not answered. Who is said
  /// to beat lives.
  void pass(Nanos time, const std::string& beats = {}) {
    constexpr Nanos kStep = std::chrono::milliseconds(500);
    const TimePoint until = clock_.now() + time;
    do {
      clock_.advance(std::min(kStep, until - clock_.now()));
      if (!beats.empty()) dispatcher_.heartbeat(beats, false);
      for (Dispatcher::Chore& chore : dispatcher_.chores()) {
        if (chore.canary) canaries_.push_back(std::move(chore.canary));
      }
    } while (clock_.now() < until);
  }

  const std::string policy_ = DispatchOptions().policy;
  ManualClock clock_;
  const std::vector<Token> prompt_ = std::vector<Token>(10 * kBlockTokens, 7);
  DispatchOptions options_{.policy = policy_,
                           .joins_max = 3,
                           .health = {.silence_max = std::chrono::seconds(4),
                                      .canary_after = std::chrono::hours(1),
                                      .canary_timeout = std::chrono::seconds(5),
                                      .gone_after = std::chrono::seconds(10)}};
  const engine::EngineInfo info_ = FakeRemote(std::make_shared<Seen>()).info_;
  Dispatcher dispatcher_{info_, {}, options_, clock_};
  std::vector<Assignment> canaries_;  // that are under way
};

TEST_F(DispatcherFleetTest, WithoutWorkersNothingIsPlaced) {
  for (const Error& error : {place().error(), dispatcher_.embed({}, {}).error()}) {
    EXPECT_EQ(error.code, Code::kUnavailable);
    EXPECT_EQ(error.retry_after_s, 1);
  }
  join("a", "host:1");
  EXPECT_EQ(place()->worker(), 0U);
}

TEST_F(DispatcherFleetTest, APromptGoesWhereItsDiskIs) {
  join("a", "a:1", {}, "this build");
  join_with_disk("b", "this build");
  EXPECT_EQ(place()->worker(), 1U);
  const Decision decision = dispatcher_.decisions()[0];
  ASSERT_TRUE(decision.fetch.has_value());
  EXPECT_EQ(decision.fetch->tier, tiers::Tier::kDisk);
  EXPECT_EQ(decision.fetch->blocks, 10U);
}

TEST_F(DispatcherFleetTest, BlocksOnDiskAreNamedAsMostWorkersNameThem) {
  const auto on_disk = [&] {
    const Result<Assignment> placed = place();
    const Decision decision = dispatcher_.decisions()[0];
    return decision.fetch ? std::optional(placed->worker()) : std::nullopt;
  };
  join("none", "none:1");
  EXPECT_EQ(on_disk(), std::nullopt);
  join_with_disk("old", "the last build");
  EXPECT_EQ(on_disk(), 1U);
  dispatcher_.leave("none");
  join_with_disk("new", "this build");
  join_with_disk("newer", "this build");
  EXPECT_THAT(on_disk(), testing::AnyOf(0U, 2U));
  dispatcher_.leave("new");
  EXPECT_EQ(on_disk(), 2U);  // as many of each: it stays as it is
  dispatcher_.leave("newer");
  EXPECT_EQ(on_disk(), 1U);
  dispatcher_.leave("old");
  join("plain", "plain:1");
  EXPECT_EQ(on_disk(), std::nullopt);
}

TEST_F(DispatcherFleetTest, WhatIsNotLoadedAsForeseenDoesNotMakeTheCachePictureDoubtful) {
  const auto seen = join_with_disk("a", "this build");
  const kv::LocalHasher locals;
  for (int i = 0; i < 50; ++i) {
    Result<Assignment> placed = place();
    EXPECT_EQ(dispatcher_.decisions()[0].predicted_cached_tokens, 9 * kBlockTokens);
    // It computes them after all, and says what it has before its first token.
    kv::BlockHash parent = kv::chain_root(info_.model, {}, {});
    for (std::size_t at = 0; at < prompt_.size(); at += kBlockTokens) {
      const auto tokens = std::span(prompt_).subspan(at, kBlockTokens);
      const kv::BlockHash hash = kv::chain_next(parent, tokens);
      seen->events.stored({.hash = hash,
                           .parent = parent,
                           .begins_chain = at == 0,
                           .local = locals.block(tokens),
                           .tokens = {tokens.begin(), tokens.end()}});
      parent = hash;
    }
    placed->first_token({.prompt_tokens = 10 * kBlockTokens, .cached_tokens = 0});
    seen->events.cleared();
  }
  EXPECT_EQ(dispatcher_.view().workers[0].trust, fleet::Trust::kExact);
}

TEST_F(DispatcherFleetTest, AWorkerWhoseConnectionBrokeGetsNothingWhileThereIsAnother) {
  const auto a = join("a", "host:1");
  const auto b = join("b", "host:2");
  a->connected = false;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(place()->worker(), 1U);
  EXPECT_THAT(states(), ElementsAre(WorkerState::kSuspect, WorkerState::kReady));
  // Though its heartbeats still come.
  EXPECT_TRUE(dispatcher_.heartbeat("a", false));
  EXPECT_EQ(place()->worker(), 1U);
  a->connected = true;
  b->connected = false;
  EXPECT_EQ(place()->worker(), 0U);
}

TEST_F(DispatcherFleetTest, WhatTheWorkersTakeAtOnceIsThatOfThoseThatAnswer) {
  EXPECT_EQ(dispatcher_.requests_max(), 0U);
  const auto a = join("a", "host:1");
  join("b", "host:2");
  EXPECT_EQ(dispatcher_.requests_max(), 2U * info_.sequences_max);
  EXPECT_TRUE(dispatcher_.set_role(1, fleet::Role::kPrefill));
  EXPECT_EQ(dispatcher_.requests_max(), info_.sequences_max);
  a->connected = false;
  EXPECT_EQ(dispatcher_.requests_max(), 0U);
  a->connected = true;
  dispatcher_.leave("a");
  EXPECT_EQ(dispatcher_.requests_max(), 0U);
}

TEST_F(DispatcherFleetTest, WhatTheyTookAtMostStaysKnownWhileTheyRestart) {
  EXPECT_EQ(dispatcher_.requests_ever_max(), 0U);
  const auto a = join("a", "host:1");
  join("b", "host:2");
  pass(std::chrono::seconds(0));
  dispatcher_.leave("b");
  EXPECT_EQ(dispatcher_.requests_ever_max(), 2U * info_.sequences_max);
  a->connected = false;
  EXPECT_EQ(dispatcher_.requests_max(), 0U);
  EXPECT_EQ(dispatcher_.requests_ever_max(), 2U * info_.sequences_max);
  join("its next life", "host:1");
  EXPECT_EQ(dispatcher_.requests_ever_max(), 2U * info_.sequences_max);
}

TEST_F(DispatcherFleetTest, ARoleThatWasSetIsThatOfTheProcessAlsoWhenItIsStartedAgain) {
  const auto roles = [&] {
    std::map<std::string, fleet::Role> all;
    for (const WorkerView& worker : dispatcher_.view().workers) {
      all[worker.instance] = worker.role;
    }
    return all;
  };
  using Roles = std::map<std::string, fleet::Role>;
  join("a", "host:1", {{"process", "0"}});
  join("b", "host:2");
  EXPECT_TRUE(dispatcher_.set_role(0, fleet::Role::kPrefill));
  dispatcher_.leave("a");
  join("c", "host:3", {{"process", "0"}});
  EXPECT_EQ(roles(), (Roles{{"b", fleet::Role::kBoth}, {"c", fleet::Role::kPrefill}}));
  EXPECT_TRUE(dispatcher_.set_role(1, fleet::Role::kDecode));
  dispatcher_.leave("b");
  join("d", "host:2");  // another one, for all that is known
  EXPECT_EQ(roles(), (Roles{{"c", fleet::Role::kPrefill}, {"d", fleet::Role::kBoth}}));
}

TEST_F(DispatcherFleetTest, EmbeddingsHeedRankAndLabelsAsWell) {
  const auto eu = join("a", "host:1", {{"zone", "eu"}});
  const auto us = join("b", "host:2", {{"zone", "us"}});
  const Labels in_us{{"zone", "us"}};
  const Labels nowhere{{"zone", "mars"}};
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(dispatcher_.embed({}, {}, {.labels = in_us}));
  EXPECT_EQ(us->embeddings, 4U);
  EXPECT_TRUE(dispatcher_.embed({}, {}, {.rank = 0}));
  EXPECT_EQ(eu->embeddings, 1U);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(dispatcher_.embed({}, {}));
  EXPECT_EQ(eu->embeddings, 3U);
  EXPECT_EQ(dispatcher_.embed({}, {}, {.labels = nowhere}).error().code, Code::kUnavailable);
  EXPECT_EQ(dispatcher_.embed({}, {}, {.rank = 9}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(dispatcher_.embed({}, {}, {.rank = 0, .labels = in_us}).error().code,
            Code::kInvalidArgument);
  us->connected = false;  // suspect: asked if there is no other
  EXPECT_TRUE(dispatcher_.embed({}, {}, {.labels = in_us}));
  const std::uint32_t before = us->embeddings;
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(dispatcher_.embed({}, {}));
  EXPECT_EQ(us->embeddings, before);
  dispatcher_.heartbeat("b", true);
  EXPECT_EQ(dispatcher_.embed({}, {}, {.labels = in_us}).error().code, Code::kUnavailable);
}

TEST_F(DispatcherFleetTest, LabelsAreAskedFor) {
  join("a", "host:1", {{"zone", "eu"}, {"gpu", "h100"}});
  join("b", "host:2", {{"zone", "us"}, {"gpu", "h100"}});
  const auto with = [&](const Labels& labels, std::optional<std::uint32_t> rank = {},
                        std::vector<kv::Slot> not_at = {}) {
    PromptBlocks blocks;
    dispatcher_.name_blocks(prompt_, {}, blocks);
    return dispatcher_.place({.id = {},
                              .prompt = prompt_,
                              .locals = blocks.locals,
                              .rank = rank,
                              .labels = labels,
                              .not_at = not_at});
  };
  std::vector<Assignment> placed;  // however much waits there
  for (int i = 0; i < 10; ++i) {
    placed.push_back(*with({{"zone", "us"}}));
    EXPECT_EQ(placed.back().worker(), 1U);
  }
  EXPECT_EQ(with({{"gpu", "h100"}})->worker(), 0U);
  EXPECT_EQ(with({{"gpu", "h100"}, {"zone", "us"}})->worker(), 1U);
  EXPECT_EQ(with({{"gpu", "h100"}}, {}, {0})->worker(), 1U);
  EXPECT_EQ(with({{"zone", "eu"}}, {}, {0})->worker(), 0U);  // lost or not, there is no other
  EXPECT_EQ(with({{"zone", "eu"}}, 0)->worker(), 0U);
  EXPECT_EQ(with({{"zone", "eu"}}, 1).error().code, Code::kInvalidArgument);
  EXPECT_EQ(with({{"zone", "mars"}}).error().code, Code::kUnavailable);
  EXPECT_EQ(dispatcher_.view().workers[1].labels, (Labels{{"zone", "us"}, {"gpu", "h100"}}));
}

TEST_F(DispatcherFleetTest, WhoIsAskedForIsTriedThoughSuspect) {
  const auto eu = join("a", "host:1", {{"zone", "eu"}});
  join("b", "host:2", {{"zone", "us"}});
  eu->connected = false;
  PromptBlocks blocks;
  dispatcher_.name_blocks(prompt_, {}, blocks);
  const Labels in_eu = {{"zone", "eu"}};
  const DispatchRequest any{.prompt = prompt_, .locals = blocks.locals};
  DispatchRequest labelled = any;
  labelled.labels = in_eu;
  DispatchRequest ranked = any;
  ranked.rank = 0;
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(dispatcher_.place(any)->worker(), 1U);
    for (const DispatchRequest& wanted : {labelled, ranked}) {
      const Result<Assignment> placed = dispatcher_.place(wanted);
      ASSERT_TRUE(placed.has_value()) << placed.error().message;
      EXPECT_EQ(placed->worker(), 0U);
    }
  }
  EXPECT_EQ(states()[0], WorkerState::kSuspect);
  EXPECT_TRUE(dispatcher_.heartbeat("a", true));  // it does not want to be asked
  EXPECT_EQ(dispatcher_.place(labelled).error().code, Code::kUnavailable);
}

TEST_F(DispatcherFleetTest, ARequestThatLostItsWorkerGoesToAnotherIfThereIsOne) {
  join("a", "host:1");
  EXPECT_EQ(place({0})->worker(), 0U);
  join("b", "host:2");
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(place({0})->worker(), 1U);
    EXPECT_EQ(place({1})->worker(), 0U);
  }
}

TEST_F(DispatcherFleetTest, SilenceIsSuspectAndThenTheEnd) {
  const auto a = join("a", "host:1");
  const auto b = join("b", "host:2");
  for (int i = 0; i < 3; ++i) {
    pass(std::chrono::seconds(2));
    dispatcher_.heartbeat("b", false);
  }
  EXPECT_THAT(states(), ElementsAre(WorkerState::kSuspect, WorkerState::kReady));
  dispatcher_.heartbeat("b", false);
  pass(std::chrono::seconds(5));
  EXPECT_THAT(instances(), ElementsAre("b"));
  EXPECT_TRUE(a->given_up);
  dispatcher_.chores();
  EXPECT_TRUE(a->destroyed);
  EXPECT_FALSE(b->given_up);
  EXPECT_FALSE(dispatcher_.heartbeat("a", false));
}

TEST_F(DispatcherFleetTest, AWorkerThatIsGoneStaysWhileAnAssignmentPointsThere) {
  const auto a = join("a", "host:1");
  Result<Assignment> placed = place();
  dispatcher_.leave("a");
  dispatcher_.chores();
  EXPECT_TRUE(a->given_up);
  EXPECT_FALSE(a->destroyed);
  placed->engine().abort({1}, engine::CancelReason::kClientGone);
  const auto b = join("b", "host:2");  // in its slot
  placed->first_token({});
  placed->failed(FaultClass::kWorker);
  placed->finished();
  EXPECT_EQ(dispatcher_.view().workers.at(0).requests, 0U);
  *placed = Assignment();
  dispatcher_.chores();
  EXPECT_TRUE(a->destroyed);
  EXPECT_FALSE(b->destroyed);
}

TEST_F(DispatcherFleetTest, AnotherLifeAtTheSameAddressTakesThePlaceAndHoldsNothing) {
  const auto a = join("a", "host:1");
  Result<Assignment> taken = place();
  taken->taken();
  ASSERT_TRUE(place().has_value());
  EXPECT_EQ(dispatcher_.decisions()[0].predicted_cached_tokens, 9 * kBlockTokens);
  kv::BlockHash parent = kv::chain_root("fake", {}, {});
  for (int i = 0; i < 10; ++i) {
    const auto tokens = std::span(prompt_).subspan(0, kBlockTokens);
    const kv::BlockHash hash = kv::chain_next(parent, tokens);
    a->events.stored({.hash = hash,
                      .parent = parent,
                      .begins_chain = i == 0,
                      .local = kv::LocalHasher().block(tokens),
                      .tokens = {tokens.begin(), tokens.end()}});
    parent = hash;
  }
  ASSERT_TRUE(place().has_value());
  EXPECT_EQ(dispatcher_.decisions()[0].predicted_cached_tokens, 9 * kBlockTokens);
  join("b", "host:1");
  EXPECT_THAT(instances(), ElementsAre("b"));
  EXPECT_EQ(place()->worker(), 0U);
  EXPECT_EQ(dispatcher_.decisions()[0].predicted_cached_tokens, 0U);
}

TEST_F(DispatcherFleetTest, ClientsErrorsAreNotAWorkersFault) {
  join("a", "host:1");
  for (int i = 0; i < 20; ++i) place()->failed(FaultClass::kClient);
  for (int i = 0; i < 20; ++i) place()->failed(FaultClass::kOverload);
  dispatcher_.chores();
  EXPECT_THAT(states(), ElementsAre(WorkerState::kReady));
  for (int i = 0; i < 3; ++i) place()->failed(FaultClass::kWorker);
  dispatcher_.chores();
  EXPECT_THAT(states(), ElementsAre(WorkerState::kSuspect));
}

TEST_F(DispatcherFleetTest, ACanaryIsChargedAndDecides) {
  join("a", "host:1");
  const auto canary_ended = [&](bool well) {
    ASSERT_EQ(canaries_.size(), 1U);
    EXPECT_EQ(canaries_[0].worker(), 0U);
    EXPECT_EQ(dispatcher_.in_flight(), 1U);
    EXPECT_FALSE(canaries_[0].canary_lost());
    canaries_[0].canary_ended(well);
    EXPECT_TRUE(canaries_[0].canary_lost());
    canaries_.clear();
  };
  pass(std::chrono::hours(1), "a");  // of heartbeats without a token
  canary_ended(false);
  EXPECT_EQ(dispatcher_.in_flight(), 0U);
  EXPECT_THAT(states(), ElementsAre(WorkerState::kSuspect));
  dispatcher_.heartbeat("a", false);
  EXPECT_THAT(states(), ElementsAre(WorkerState::kSuspect));  // a hung worker's are worth nothing
  pass(std::chrono::seconds(1), "a");
  canary_ended(true);
  EXPECT_THAT(states(), ElementsAre(WorkerState::kReady));
}

TEST_F(DispatcherFleetTest, TimeInWhichNobodyLookedAfterTheWorkersDoesNotCountAgainstThem) {
  join("a", "host:1");
  pass(std::chrono::seconds(3));
  clock_.advance(std::chrono::hours(1));  // the process was stopped
  dispatcher_.chores();                   // before anything that has come since was read
  EXPECT_THAT(states(), ElementsAre(WorkerState::kReady));
  EXPECT_TRUE(dispatcher_.heartbeat("a", false));
  pass(std::chrono::seconds(11));
  EXPECT_THAT(states(), ElementsAre());
}

TEST_F(DispatcherFleetTest, ACanaryHasItsTimeThoughTheProcessWasStoppedMeanwhile) {
  join("a", "host:1");
  pass(std::chrono::hours(1), "a");
  ASSERT_EQ(canaries_.size(), 1U);
  clock_.advance(std::chrono::hours(1));
  dispatcher_.chores();
  EXPECT_FALSE(canaries_[0].canary_lost());
  EXPECT_THAT(states(), ElementsAre(WorkerState::kReady));
  pass(std::chrono::seconds(5), "a");
  EXPECT_TRUE(canaries_[0].canary_lost());
  EXPECT_THAT(states(), ElementsAre(WorkerState::kSuspect));
}

TEST_F(DispatcherFleetTest, WhatHangsIsLeftThereUntilAnotherWorkerWouldTakeIt) {
  join("a", "host:1");
  Result<Assignment> placed = place();
  pass(std::chrono::hours(1), "a");
  EXPECT_EQ(canaries_.size(), 1U);
  EXPECT_THAT(states(), ElementsAre(WorkerState::kReady));
  pass(std::chrono::seconds(6), "a");
  EXPECT_THAT(states(), ElementsAre(WorkerState::kSuspect));
  EXPECT_FALSE(placed->hangs());
  join("b", "host:2");
  EXPECT_TRUE(dispatcher_.set_role(1, fleet::Role::kPrefill));
  dispatcher_.chores();
  EXPECT_FALSE(placed->hangs());  // who only computes prompts is no help
  EXPECT_TRUE(dispatcher_.set_role(1, fleet::Role::kBoth));
  dispatcher_.chores();
  EXPECT_TRUE(placed->hangs());
  EXPECT_FALSE(place()->hangs());
  pass(std::chrono::seconds(3), "a");
  ASSERT_EQ(canaries_.size(), 2U);
  EXPECT_TRUE(placed->hangs());
  canaries_.back().canary_ended(true);
  dispatcher_.chores();
  EXPECT_FALSE(placed->hangs());
}

class UntimedFleetTest : public DispatcherFleetTest {
 protected:
  UntimedFleetTest() : DispatcherFleetTest("round-robin") {}
};

TEST_F(UntimedFleetTest, AWorkerWhosePassesEndDoesNotHangWhateverThePolicyAsksFor) {
  const auto busy = join("a", "host:1");
  join("b", "host:2");
  const Result<Assignment> placed = place({1});  // a long answer, alone
  for (int i = 0; i < 4; ++i) {
    ++busy->load.last_decode_pass.ordinal;
    pass(std::chrono::minutes(30), "a");
    dispatcher_.heartbeat("b", false);
  }
  EXPECT_FALSE(placed->hangs());
  EXPECT_EQ(states()[0], WorkerState::kReady);
}

TEST_F(DispatcherFleetTest, WhereOnlyOthersWillDoNobodyElseGetsIt) {
  const auto first = join("a", "host:1");
  const auto others = [&](std::vector<kv::Slot> not_at, std::optional<std::uint32_t> rank = {}) {
    const DispatchRequest wanted{
        .prompt = prompt_, .rank = rank, .not_at = not_at, .only_others = true};
    const Result<Assignment> placed = dispatcher_.place(wanted);
    EXPECT_EQ(placed.has_value(), dispatcher_.another_is_ready(wanted));
    return placed ? std::optional(placed->worker()) : std::nullopt;
  };
  EXPECT_EQ(others({0}), std::nullopt);
  const auto second = join("b", "host:2");
  EXPECT_EQ(others({0}), 1U);
  EXPECT_EQ(others({0, 1}), std::nullopt);
  EXPECT_EQ(others({0}, 0), std::nullopt);  // that rank has had it
  EXPECT_EQ(others({0}, 1), 1U);
  second->connected = false;
  EXPECT_EQ(others({0}), std::nullopt);  // suspect
  second->connected = true;
  EXPECT_TRUE(dispatcher_.set_role(1, fleet::Role::kPrefill));
  EXPECT_EQ(others({0}), std::nullopt);
  EXPECT_EQ(dispatcher_.in_flight(), 0U);
}

TEST_F(DispatcherFleetTest, ADrainingWorkerGetsNothing) {
  join("a", "host:1");
  join("b", "host:2");
  EXPECT_TRUE(dispatcher_.heartbeat("a", true));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(place()->worker(), 1U);
  dispatcher_.drain();
  dispatcher_.chores();
  EXPECT_THAT(states(), ElementsAre(WorkerState::kDraining, WorkerState::kDraining));
  EXPECT_EQ(place()->worker(), 1U);  // a request that was let in before
}

TEST_F(DispatcherFleetTest, AnExactFleetTakesNobodyWhoseTokensMayDiffer) {
  engine::EngineInfo exact = info_;
  exact.computed_tokens_min = 64;
  Dispatcher dispatcher(exact, {}, options_, clock_);
  const auto connect = [] { return std::make_unique<FakeRemote>(std::make_shared<Seen>()); };
  engine::EngineInfo other = exact;
  other.kv_compatibility_key += " of another CPU";
  EXPECT_FALSE(dispatcher.join({.instance = "x", .address = "host:9"}, other, connect));
  EXPECT_TRUE(dispatcher.join({.instance = "x", .address = "host:9"}, exact, connect));
}

TEST_F(DispatcherFleetTest, WhoDoesNotFitStaysOut) {
  int connected = 0;
  const auto connect = [&] {
    ++connected;
    return std::make_unique<FakeRemote>(std::make_shared<Seen>());
  };
  const auto refused = [&](auto change) {
    engine::EngineInfo info = info_;
    change(info);
    return dispatcher_.join({.instance = "x", .address = "host:9"}, info, connect);
  };
  using Info = engine::EngineInfo;
  EXPECT_FALSE(refused([](Info& i) { i.model = "other"; }));
  EXPECT_FALSE(refused([](Info& i) { i.vocabulary_size = 11; }));
  EXPECT_FALSE(refused([](Info& i) { i.block_tokens = 32; }));
  EXPECT_FALSE(refused([](Info& i) { i.context_tokens_max = 999; }));
  EXPECT_EQ(connected, 0);
  EXPECT_TRUE(refused([](Info& i) { i.context_tokens_max = 1001; }));
  join("b", "host:2");
  join("c", "host:3");
  const Result<void> third = refused([](Info&) {});
  EXPECT_TRUE(third.has_value());  // known: the same instance
  const Error full =
      dispatcher_.join({.instance = "d", .address = "host:4"}, info_, connect).error();
  EXPECT_EQ(full.code, Code::kOverloaded);
  EXPECT_THAT(full.message, testing::HasSubstr("3 have joined"));
  EXPECT_THAT(full.message, testing::HasSubstr("--workers-max"));
  EXPECT_EQ(connected, 1);  // and nobody has an engine who is not in
}

}  // namespace
}  // namespace penstock::serve
