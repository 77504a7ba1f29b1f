#include "engine/remote/internal/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace penstock::engine::wire {
namespace {

GenerateRequest everything() {
  GenerateRequest r;
  r.prompt = {5, 0, 151'642};
  r.cache_salt = "tenant ü";
  r.sampling = {.temperature = 0.1F,
                .top_p = 0,
                .min_p = 0.3F,
                .top_k = -1,
                .frequency_penalty = -1.1F,
                .presence_penalty = 0.7F,
                .repetition_penalty = 1.3F,
                .penalty_last_n = -1,
                .seed = 0,
                .logit_bias = {{3, -100.F}, {9, 0.1F}}};
  r.grammar = {.gbnf = "root ::= \"a\"",
               .lazy = true,
               .triggers = {{text::AnswerGrammar::Trigger::Kind::kPatternFull, "a\xff"}},
               .preserved_tokens = {"\xe2\x82"},
               .checked = true,
               .parses = true,
               .prefill = "<t>"};
  r.stop_token_ids = {7, 8};
  r.ignore_eos = true;
  r.max_tokens = 11;
  r.min_tokens = 3;
  r.top_logprobs = 0;
  r.tenant = 0xFEDCBA9876543210;
  return r;
}

TEST(WireTest, ARequestArrivesAsItWasGiven) {
  const GenerateRequest r = everything();
  oe::GenerateRequest message;
  write(r, message);
  oe::GenerateRequest parsed;
  ASSERT_TRUE(parsed.ParseFromString(message.SerializeAsString()));
  const Result<GenerateRequest> read = wire::read(parsed);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->prompt, r.prompt);
  EXPECT_EQ(read->cache_salt, r.cache_salt);
  EXPECT_EQ(read->sampling.temperature, r.sampling.temperature);
  EXPECT_EQ(read->sampling.top_p, r.sampling.top_p);
  EXPECT_EQ(read->sampling.min_p, r.sampling.min_p);
  EXPECT_EQ(read->sampling.top_k, r.sampling.top_k);
  EXPECT_EQ(read->sampling.frequency_penalty, r.sampling.frequency_penalty);
  EXPECT_EQ(read->sampling.presence_penalty, r.sampling.presence_penalty);
  EXPECT_EQ(read->sampling.repetition_penalty, r.sampling.repetition_penalty);
  EXPECT_EQ(read->sampling.penalty_last_n, r.sampling.penalty_last_n);
  EXPECT_EQ(read->sampling.seed, r.sampling.seed);
  EXPECT_EQ(read->sampling.logit_bias, r.sampling.logit_bias);
  EXPECT_EQ(read->grammar.gbnf, r.grammar.gbnf);
  EXPECT_EQ(read->grammar.lazy, r.grammar.lazy);
  ASSERT_EQ(read->grammar.triggers.size(), 1U);
  EXPECT_EQ(read->grammar.triggers[0].kind, r.grammar.triggers[0].kind);
  EXPECT_EQ(read->grammar.triggers[0].value, r.grammar.triggers[0].value);
  EXPECT_EQ(read->grammar.preserved_tokens, r.grammar.preserved_tokens);
  EXPECT_EQ(read->grammar.checked, r.grammar.checked);
  EXPECT_EQ(read->grammar.parses, r.grammar.parses);
  EXPECT_EQ(read->grammar.prefill, r.grammar.prefill);
  EXPECT_EQ(read->stop_token_ids, r.stop_token_ids);
  EXPECT_EQ(read->ignore_eos, r.ignore_eos);
  EXPECT_EQ(read->max_tokens, r.max_tokens);
  EXPECT_EQ(read->min_tokens, r.min_tokens);
  EXPECT_EQ(read->top_logprobs, r.top_logprobs);
  EXPECT_EQ(read->tenant, r.tenant);
}

TEST(WireTest, WhatMemoryIsTakenForIsBounded) {
  for (const std::int32_t last_n : {-2, (1 << 20) + 1, std::numeric_limits<std::int32_t>::max()}) {
    oe::GenerateRequest message;
    write(everything(), message);
    message.mutable_penstock()->set_penalty_last_n(last_n);
    EXPECT_EQ(wire::read(message).error().code, Code::kInvalidArgument) << last_n;
  }
}

TEST(WireTest, WhatIsNotGivenIsTheEnginesDefault) {
  oe::GenerateRequest message;
  message.mutable_token_ids()->add_ids(1);
  message.mutable_guided()->set_ebnf_grammar("root ::= \"a\"");
  const Result<GenerateRequest> read = wire::read(message);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->sampling.temperature, Sampling().temperature);
  EXPECT_EQ(read->sampling.penalty_last_n, Sampling().penalty_last_n);
  EXPECT_EQ(read->sampling.seed, std::nullopt);
  EXPECT_EQ(read->top_logprobs, std::nullopt);
  EXPECT_EQ(read->grammar.gbnf, "root ::= \"a\"");
  EXPECT_FALSE(read->grammar.checked);
}

TEST(WireTest, RequestsThatAWorkerCannotServeAreRefused) {
  const auto code = [](auto change) {
    oe::GenerateRequest message;
    message.mutable_token_ids()->add_ids(1);
    change(message);
    return wire::read(message).error().code;
  };
  using Message = oe::GenerateRequest;
  EXPECT_EQ(code([](Message& m) { m.set_prompt("text"); }), Code::kInvalidArgument);
  EXPECT_EQ(code([](Message& m) { m.mutable_token_ids()->add_ids(0x80000000); }),
            Code::kInvalidArgument);
  EXPECT_EQ(code([](Message& m) { m.set_lora_name("x"); }), Code::kUnimplemented);
  EXPECT_EQ(code([](Message& m) { m.mutable_kv()->mutable_session(); }), Code::kUnimplemented);
  EXPECT_EQ(code([](Message& m) {
              m.mutable_kv()->mutable_session()->set_transfer_backend("penstock");
              m.mutable_kv()->mutable_session()->set_opaque("\xff\xff");
            }),
            Code::kInvalidArgument);
  EXPECT_EQ(code([](Message& m) { m.mutable_guided()->set_regex("a"); }), Code::kUnimplemented);
  EXPECT_EQ(code([](Message& m) { m.mutable_sampling()->set_num_sequences(2); }),
            Code::kInvalidArgument);
  EXPECT_EQ(code([](Message& m) { m.mutable_stopping()->add_conditions()->set_stop_text("a"); }),
            Code::kInvalidArgument);
}

KvTicket ticket() {
  return {.source = 0xFEDCBA9876543210,
          .grant = {.cell = 7, .generation = 0xFFFFFFFF},
          .blocks = {{0, 2}, {0xFFFFFFFF, 4}},
          .at = {.socket_path = "/run/kv.sock", .tcp_host = "::1", .tcp_port = 65535}};
}

void expect_equal(const KvTicket& a, const KvTicket& b) {
  EXPECT_EQ(a.source, b.source);
  EXPECT_EQ(a.grant, b.grant);
  EXPECT_EQ(a.blocks, b.blocks);
  EXPECT_EQ(a.at, b.at);
}

TEST(WireTest, PromptsForOthersAndTicketsArriveAsTheyWereGiven) {
  GenerateRequest prompt = everything();
  prompt.prefill_only = true;
  prompt.kv_lease = std::chrono::milliseconds(1234);
  oe::GenerateRequest message;
  write(prompt, message);
  Result<GenerateRequest> read = wire::read(message);
  ASSERT_TRUE(read);
  EXPECT_TRUE(read->prefill_only);
  EXPECT_EQ(read->kv_lease, prompt.kv_lease);
  EXPECT_FALSE(read->fetch.has_value());

  GenerateRequest answer = everything();
  answer.fetch = ticket();
  oe::GenerateRequest with_ticket;
  write(answer, with_ticket);
  read = wire::read(with_ticket);
  ASSERT_TRUE(read && read->fetch);
  EXPECT_FALSE(read->prefill_only);
  expect_equal(*read->fetch, ticket());
}

TEST(WireTest, ATicketComesOnlyToWhoAskedForItAndOfNoMoreBlocks) {
  const auto kv = std::make_shared<const KvTicket>(ticket());
  const std::vector<Output> end{{.finish = FinishReason::kLength,
                                 .usage = {.prompt_tokens = 9, .cached_tokens = 4},
                                 .kv = kv}};
  std::vector<oe::GenerateResponse> messages;
  write(end, messages);
  ASSERT_EQ(messages.size(), 1U);
  Expected expected{.request = {5}, .vocabulary_size = 10, .kv_blocks_max = 2, .worker_host = "x"};
  std::vector<Output> outputs;
  ASSERT_TRUE(wire::read(messages[0], expected, outputs));
  EXPECT_EQ(outputs[0].finish, FinishReason::kLength);
  EXPECT_EQ(outputs[0].usage.cached_tokens, 4U);
  expect_equal(*outputs[0].kv, ticket());
  for (const std::uint32_t blocks : {0, 1}) {
    expected.kv_blocks_max = blocks;
    EXPECT_FALSE(wire::read(messages[0], expected, outputs));
  }
  // Without a host it is where the worker is.
  expected.kv_blocks_max = 2;
  for (oe::KvEndpoint& at :
       *messages[0].mutable_prefill_ready()->mutable_kv_session()->mutable_endpoints()) {
    if (at.protocol() == "tcp") at.clear_host();
  }
  ASSERT_TRUE(wire::read(messages[0], expected, outputs));
  EXPECT_EQ(outputs.back().kv->at.tcp_host, "x");
}

TEST(WireTest, TicketsThatNoWorkerMakesAreRefused) {
  const auto refused = [](auto change) {
    oe::KvSessionRef message;
    write(ticket(), message);
    change(message);
    return !wire::read(message, 1000).has_value();
  };
  using Message = oe::KvSessionRef;
  EXPECT_FALSE(refused([](Message&) {}));
  EXPECT_TRUE(refused([](Message& m) { m.set_transfer_backend("nixl"); }));
  EXPECT_TRUE(refused([](Message& m) { m.set_opaque("x"); }));
  EXPECT_TRUE(refused([](Message& m) { m.mutable_endpoints(1)->set_port(0); }));
  EXPECT_TRUE(refused([](Message& m) { m.mutable_endpoints(1)->set_port(65536); }));
  EXPECT_TRUE(refused([](Message& m) { m.mutable_endpoints(1)->set_host(std::string(99, 'x')); }));
  EXPECT_TRUE(refused([](Message& m) { m.mutable_endpoints(0)->clear_host(); }));
  EXPECT_TRUE(refused([](Message& m) { m.mutable_endpoints(0)->set_host(std::string(108, 'x')); }));
  EXPECT_TRUE(refused([](Message& m) { m.mutable_endpoints(0)->set_host(std::string(1, '\0')); }));
  EXPECT_TRUE(refused([](Message& m) {
    for (int i = 0; i < 4; ++i) *m.add_endpoints() = m.endpoints(0);
  }));
  EXPECT_TRUE(refused([](Message& m) {
    ps::KvTicket odd;
    odd.add_slots(1);
    m.set_opaque(odd.SerializeAsString());
  }));
  EXPECT_TRUE(refused([](Message& m) {
    ps::KvTicket odd;
    odd.set_grant_cell(transfer::BlockTable::kGrantsMax);
    m.set_opaque(odd.SerializeAsString());
  }));
}

std::vector<Output> outputs() {
  const Usage usage{.prompt_tokens = 9, .cached_tokens = 4, .queued = std::chrono::milliseconds(7)};
  return {{.request = {1},
           .token = 5,
           .logprob = -0.25F,
           .top = {{5, -0.25F}, {6, -2.F}},
           .usage = usage},
          {.request = {1}, .token = 6, .logprob = -1.F, .usage = usage},
          {.request = {1},
           .token = 7,
           .finish = FinishReason::kLength,
           .usage = {.prompt_tokens = 9, .cached_tokens = 4, .completion_tokens = 3}}};
}

TEST(WireTest, OutputsGoTogetherAndComeApart) {
  std::vector<oe::GenerateResponse> messages;
  write(outputs(), messages);
  ASSERT_EQ(messages.size(), 2U);
  Expected expected{.request = {1},
                    .vocabulary_size = 10,
                    .tokens_left = 3,
                    .waited = std::chrono::milliseconds(2)};
  std::vector<Output> read;
  for (const auto& message : messages) ASSERT_TRUE(wire::read(message, expected, read));
  ASSERT_EQ(read.size(), 4U);  // the end by itself
  EXPECT_EQ(read[0].usage.queued, std::chrono::milliseconds(2 + 7));
  EXPECT_EQ(read[0].token, 5);
  EXPECT_EQ(read[0].logprob, -0.25F);
  ASSERT_EQ(read[0].top.size(), 2U);
  EXPECT_EQ(read[0].top[1].token, 6);
  EXPECT_EQ(read[0].top[1].logprob, -2.F);
  EXPECT_EQ(read[0].usage.cached_tokens, 4U);
  EXPECT_EQ(read[2].token, 7);
  EXPECT_FALSE(read[2].finish);
  EXPECT_EQ(read[3].finish, FinishReason::kLength);
  EXPECT_EQ(read[3].usage.completion_tokens, 3U);
  EXPECT_EQ(expected.tokens_left, 0U);
}

TEST(WireTest, ErrorsKeepTheirCode) {
  for (const Code code : {Code::kInternal, Code::kOverloaded, Code::kInvalidArgument}) {
    const std::vector<Output> end = {
        {.finish = FinishReason::kError, .error = "why", .error_code = code}};
    std::vector<oe::GenerateResponse> messages;
    write(end, messages);
    Expected expected;
    std::vector<Output> read;
    ASSERT_TRUE(wire::read(messages.at(0), expected, read));
    EXPECT_EQ(read.at(0).finish, FinishReason::kError);
    EXPECT_EQ(read.at(0).error, "why");
    EXPECT_EQ(read.at(0).error_code, code);
  }
}

TEST(WireTest, AWorkersTokensAreNotBelievedBlindly) {
  std::vector<oe::GenerateResponse> messages;
  write(outputs(), messages);
  std::vector<Output> read;
  Expected small{.request = {1}, .vocabulary_size = 7, .tokens_left = 3};
  EXPECT_FALSE(wire::read(messages[0], small, read));
  Expected few{.request = {1}, .vocabulary_size = 10, .tokens_left = 2};
  EXPECT_FALSE(wire::read(messages[0], few, read));
  messages[0].mutable_token()->mutable_tokens(0)->mutable_candidates(1)->set_token_id(10);
  Expected enough{.request = {1}, .vocabulary_size = 10, .tokens_left = 3};
  EXPECT_FALSE(wire::read(messages[0], enough, read));
  EXPECT_FALSE(wire::read(oe::GenerateResponse(), enough, read));
}

TEST(WireTest, WhatIsShownOfTiersArrivesAndWhatIsUnknownHereIsDropped) {
  tiers::Stats stats;
  std::uint64_t next = 1;
  for (std::uint64_t& count : stats.refused) count = ++next;
  for (std::uint64_t& count : stats.missed) count = ++next;
  for (std::uint64_t& count : stats.given) count = ++next;
  for (std::uint64_t* count :
       {&stats.asked, &stats.host_blocks, &stats.host_blocks_max, &stats.disk_blocks,
        &stats.disk_bytes, &stats.disk_bytes_max, &stats.bytes_written, &stats.bytes_read,
        &stats.segments_dropped, &stats.segments_quarantined, &stats.recovered_blocks}) {
    *count = ++next;
  }
  stats.load_predicted_s = 0.25;
  stats.load_taken_s = 0.5;
  stats.reads_paused = true;
  ps::TierStats message;
  write(stats, message);
  EXPECT_TRUE(wire::read(message) == stats);
  stats.reads_paused = false;
  stats.writes_paused = true;
  message.Clear();
  write(stats, message);
  message.add_refused(1);
  message.mutable_given()->Truncate(1);
  stats.given.back() = 0;
  EXPECT_TRUE(wire::read(message) == stats);
}

TEST(WireTest, CostsOfLoadingArriveAndNonsenseIsNotLoaded) {
  const double never = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double disk_ns : {2.5, never}) {
    ps::TierCosts message;
    write(
        tiers::LoadCosts{.host_ns = 1.5, .disk_ns = disk_ns, .disk_queue_ns = 3, .recompute_ns = 4},
        message);
    const tiers::LoadCosts read = wire::read(message);
    EXPECT_EQ(read.host_ns, 1.5);
    EXPECT_EQ(read.disk_ns, disk_ns);
    EXPECT_EQ(read.disk_queue_ns, 3);
    EXPECT_EQ(read.recompute_ns, 4);
  }
  ps::TierCosts bad;
  bad.set_host_ns(nan);
  bad.set_disk_ns(-1);
  bad.set_disk_queue_ns(-never);
  bad.set_recompute_ns(nan);
  EXPECT_EQ(wire::read(bad).host_ns, never);
  EXPECT_EQ(wire::read(bad).disk_ns, never);
  EXPECT_EQ(wire::read(bad).disk_queue_ns, never);
  EXPECT_EQ(wire::read(bad).recompute_ns, 0);
  bad.set_recompute_ns(never);
  EXPECT_LT(wire::read(bad).recompute_ns, never);
}

TEST(WireTest, WhereBlocksLieArrives) {
  tiers::Store::Follower::News news{.all_anew = true,
                                    .places = {{1, std::nullopt},
                                               {UINT64_MAX, tiers::Tier::kDisk},
                                               {3, tiers::Tier::kHost},
                                               {4, tiers::Tier::kHost}}};
  ps::TierBlocks message;
  write(news, message);
  EXPECT_TRUE(wire::read(message).all_anew);
  EXPECT_EQ(wire::read(message).places, news.places);
  EXPECT_FALSE(wire::read(ps::TierBlocks()).all_anew);
  EXPECT_TRUE(wire::read(ps::TierBlocks()).places.empty());
}

TEST(WireTest, ALoadReportArrivesAndItsPassIsAsOld) {
  const TimePoint theirs{std::chrono::seconds(1000)};
  const TimePoint ours{std::chrono::seconds(5)};
  LoadReport report{
      .generation = 1,
      .running = 2,
      .waiting = 4,
      .in_inbox = 3,
      .accepted = 5,
      .waiting_prefill_tokens = 6,
      .running_prefill_tokens = 7,
      .kv_blocks_used = 8,
      .kv_blocks_max = 9,
      .kv_blocks_active = 10,
      .kv_blocks_active_max = 11,
      .steps = 12,
      .prompt_tokens = 13,
      .cached_tokens = 14,
      .completion_tokens = 15,
      .preemptions = 16,
      .blocks_evicted = 17,
      .sequence_errors = 18,
      .kv_transfers = {{{}, {}, {}, {29, 30, 31, 32, 33, Nanos(34)}}},
      .pass_tokens_max = 19,
      .prompt_token_cost = Nanos(28),
      .pass_started = theirs - Nanos(20),
      .pass = {.prefill_tokens = 21, .decodes = true, .kv_use = 0.22},
      .last_prefill_pass = {.ordinal = 23, .work = {.prefill_tokens = 24}, .took = Nanos(25)},
      .last_decode_pass = {.ordinal = 26, .work = {.decodes = true}, .took = Nanos(27)}};
  ps::LoadReport message;
  write(report, theirs, message);
  LoadReport expected = report;
  expected.pass_started = ours - Nanos(20);
  EXPECT_EQ(read(message, ours), expected);

  report.pass_started = TimePoint::min();
  message.Clear();
  write(report, theirs, message);
  message.add_kv_transfers()->set_pulls(35);  // by a path that is not known here
  EXPECT_EQ(read(message, ours), report);
}

TEST(WireTest, ACardArrivesOrIsRefused) {
  const EngineInfo info{.model = "m",
                        .kv_compatibility_key = "k",
                        .block_tokens = 16,
                        .computed_tokens_min = 2,
                        .context_tokens_max = 100,
                        .sequences_max = 3,
                        .queue_max = 4,
                        .kv_blocks_max = 5,
                        .vocabulary_size = 6,
                        .embedding_size = 7,
                        .kv_tiers_key = "t"};
  ps::ModelCard card;
  write(info, true, card);
  const Result<EngineInfo> read = wire::read(card);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->model, "m");
  EXPECT_EQ(read->kv_compatibility_key, "k");
  EXPECT_EQ(read->block_tokens, 16U);
  EXPECT_EQ(read->computed_tokens_min, 2U);
  EXPECT_EQ(read->context_tokens_max, 100U);
  EXPECT_EQ(read->sequences_max, 3U);
  EXPECT_EQ(read->queue_max, 4U);
  EXPECT_EQ(read->kv_blocks_max, 5U);
  EXPECT_EQ(read->vocabulary_size, 6U);
  EXPECT_EQ(read->embedding_size, 7U);
  EXPECT_EQ(read->kv_tiers_key, "t");

  card.set_kv_hash("another");
  EXPECT_THAT(wire::read(card).error().message, ::testing::HasSubstr("another"));
  EXPECT_FALSE(wire::read(ps::ModelCard()));
}

TEST(WireTest, KvEventsArriveAsTheyAre) {
  const kv::Event stored{.kind = kv::Event::Kind::kStored,
                         .hash = {0x0123456789ABCDEF, 0xFEDCBA9876543210},
                         .parent = {1, 2},
                         .begins_chain = true,
                         .local = 0xFFFFFFFFFFFFFFFF,
                         .tokens = {1, 2, 3}};
  for (const kv::Event& event :
       {stored, kv::Event{.kind = kv::Event::Kind::kRemoved, .hash = {3, 4}}, kv::Event{}}) {
    oe::KvEvent message;
    write(event, message);
    const Result<kv::Event> read = wire::read(message);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->kind, event.kind);
    EXPECT_EQ(read->hash, event.hash);
    EXPECT_EQ(read->parent, event.parent);
    EXPECT_EQ(read->begins_chain, event.begins_chain);
    EXPECT_EQ(read->local, event.local);
    EXPECT_EQ(read->tokens, event.tokens);
  }
  oe::KvEvent short_name;
  short_name.mutable_block_removed()->add_block_hashes()->set_value("123");
  EXPECT_FALSE(wire::read(short_name));
  EXPECT_FALSE(wire::read(oe::KvEvent()));
}

TEST(WireTest, EveryCodeHasItsName) {
  for (int i = 0; i <= static_cast<int>(Code::kCancelled); ++i) {
    const auto code = static_cast<Code>(i);
    EXPECT_EQ(code_of(openai_code(code)), code);
  }
  EXPECT_EQ(code_of("nothing"), Code::kInternal);
}

}  // namespace
}  // namespace penstock::engine::wire
