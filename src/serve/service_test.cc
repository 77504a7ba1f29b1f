#include "serve/service.h"

#include <algorithm>
#include <list>
#include <thread>

#include "api/openai.h"
#include "engine/remote/until_for_test.h"
#include "serve/internal/service_for_test.h"

namespace penstock::serve {
namespace {

TEST_F(ServiceTest, E4_StreamedAndWholeAnswersAreEqual) {
  const std::string whole = chat("");
  EXPECT_EQ(number_at(whole, "/usage/completion_tokens"), 12);
  const std::vector<std::string> all =
      events(chat(R"("stream":true,"stream_options":{"include_usage":true})"));
  ASSERT_GE(all.size(), 4u);
  EXPECT_EQ(text_at(all[0], "/choices/0/delta/role"), "assistant");
  std::string joined;
  for (const std::string& e : all) {
    if (e.find(R"("delta":{"content":)") != std::string::npos)
      joined += text_at(e, "/choices/0/delta/content");
  }
  EXPECT_EQ(joined, text_at(whole, "/choices/0/message/content"));
  EXPECT_EQ(text_at(all[all.size() - 3], "/choices/0/finish_reason"), "length");
  EXPECT_EQ(number_at(all[all.size() - 2], "/usage/completion_tokens"), 12);
  EXPECT_EQ(all.back(), "[DONE]");
}

TEST_F(ServiceTest, StopStringsCutTheAnswerInBothForms) {
  const std::string text = text_at(chat(""), "/choices/0/message/content");
  ASSERT_GT(text.size(), 6u);
  // A stop string from inside the answer, on character borders.
  std::size_t from = 3;
  while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
  std::size_t to = from + 1;
  while (to < text.size() && (static_cast<unsigned char>(text[to]) & 0xC0) == 0x80) ++to;
  std::string stop = R"("stop":)";
  api::append_json_string(stop, text.substr(from, to - from));
  const std::string cut = chat(stop);
  const std::size_t first = text.find(text.substr(from, to - from));
  EXPECT_EQ(text_at(cut, "/choices/0/message/content"), text.substr(0, first));
  EXPECT_EQ(text_at(cut, "/choices/0/finish_reason"), "stop");
}

TEST_F(ServiceTest, ChoicesShareOnePromptInTheUsage) {
  const std::string answer = ask(
      "/v1/chat/completions",
      R"({"model":"alias","messages":[{"role":"user","content":"Hi"}],"n":3,"seed":5,"max_tokens":4})");
  EXPECT_EQ(number_at(answer, "/choices/2/index"), 2);
  const std::int64_t prompt = number_at(answer, "/usage/prompt_tokens");
  EXPECT_GT(prompt, 10);
  EXPECT_LT(prompt, 80);
  EXPECT_LE(number_at(answer, "/usage/completion_tokens"), 12);
}

TEST_F(ServiceTest, ToolCallsAndSchemasHoldTheModel) {
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"on":{"type":"boolean"}},"required":["on"],"additionalProperties":false}}}],"tool_choice":"required","parallel_tool_calls":false)";
  const std::string called = chat(tools, 200, 400);
  EXPECT_EQ(text_at(called, "/choices/0/finish_reason"), "tool_calls");
  EXPECT_EQ(text_at(called, "/choices/0/message/tool_calls/0/function/name"), "f");
  const std::string arguments =
      text_at(called, "/choices/0/message/tool_calls/0/function/arguments");
  simdjson::dom::parser parser;
  bool on = false;
  EXPECT_EQ(parser.parse(arguments)["on"].get(on), simdjson::SUCCESS) << arguments;
  std::string streamed;
  for (const std::string& e : events(chat(tools + R"(,"stream":true)", 200, 400))) {
    if (e.find(R"("arguments")") != std::string::npos)
      streamed += text_at(e, "/choices/0/delta/tool_calls/0/function/arguments");
  }
  EXPECT_EQ(streamed, arguments);

  const std::string bound = chat(
      R"("response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":9}},"required":["n"],"additionalProperties":false}}})",
      200, 400);
  std::int64_t n = 0;
  EXPECT_EQ(parser.parse(text_at(bound, "/choices/0/message/content"))["n"].get(n),
            simdjson::SUCCESS)
      << bound;
}

TEST_F(ServiceTest, CompletionsTakeTextAndTokenIdsAlike) {
  const std::string text = ask(
      "/v1/completions",
      R"({"model":"tiny","prompt":"abc","temperature":0,"max_tokens":6,"return_token_ids":true})");
  const std::string ids = ask(
      "/v1/completions", R"({"model":"tiny","prompt":[97,98,99],"temperature":0,"max_tokens":6})");
  EXPECT_EQ(number_at(text, "/choices/0/prompt_token_ids/1"), 98);
  EXPECT_EQ(text_at(text, "/choices/0/text"), text_at(ids, "/choices/0/text"));
  const std::string echo =
      ask("/v1/completions",
          R"({"model":"tiny","prompt":["abc","x"],"echo":true,"temperature":0,"max_tokens":6})");
  EXPECT_EQ(text_at(echo, "/choices/0/text"), "abc" + text_at(ids, "/choices/0/text"));
  EXPECT_EQ(text_at(echo, "/choices/1/text").front(), 'x');
}

TEST_F(ServiceTest, LogprobsOffsetsAreTheSameInBothForms) {
  const std::string plain = R"("model":"tiny","prompt":"abc","temperature":0,"max_tokens":12)";
  const std::string text = text_at(ask("/v1/completions", "{" + plain + "}"), "/choices/0/text");
  // Stop strings that begin with what stands early in the answer, so that it is held back.
  std::string stops;
  for (std::size_t at = 0; at < 6; ++at) {
    std::size_t end = at + 1;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
    if (!stops.empty()) stops += ',';
    api::append_json_string(stops, text.substr(at, end - at) + "\x01\x02");
  }
  const std::string body = fmt::format(R"({{{},"logprobs":0,"stop":[{}])", plain, stops);
  const auto offsets_of = [](const std::string& json) {
    const std::string_view name = R"("text_offset":[)";
    std::string all;
    for (std::size_t at = json.find(name); at != std::string::npos; at = json.find(name, at)) {
      at += name.size();
      if (!all.empty()) all += ',';
      all += json.substr(at, json.find(']', at) - at);
    }
    return all;
  };
  const std::string whole = offsets_of(ask("/v1/completions", body + "}"));
  EXPECT_EQ(std::ranges::count(whole, ','), 11) << whole;
  EXPECT_EQ(offsets_of(ask("/v1/completions", body + R"(,"stream":true})")), whole);
}

TEST_F(ServiceTest, ChoicesOfOnePromptShowIt) {
  const std::string two =
      ask("/v1/completions",
          R"({"model":"tiny","prompt":["abc","x"],"n":2,"max_tokens":1,"return_token_ids":true})");
  for (const char* choice : {"/choices/0", "/choices/1"}) {
    EXPECT_EQ(number_at(two, choice + std::string("/prompt_token_ids/1")), 98);
  }
  for (const char* choice : {"/choices/2", "/choices/3"}) {
    EXPECT_EQ(number_at(two, choice + std::string("/prompt_token_ids/0")), 'x');
  }
}

TEST_F(ServiceTest, RefusalsNameTheField) {
  EXPECT_EQ(text_at(ask("/v1/chat/completions",
                        R"({"model":"no","messages":[{"role":"user","content":"x"}]})", 404),
                    "/error/code"),
            "model_not_found");
  EXPECT_EQ(text_at(chat(R"("temperature":"hot")", 400), "/error/param"), "temperature");
  const std::string longest(3000, 'x');
  EXPECT_EQ(text_at(ask("/v1/completions",
                        fmt::format(R"({{"model":"tiny","prompt":"{}"}})", longest), 400),
                    "/error/code"),
            "context_length_exceeded");
  EXPECT_EQ(text_at(ask("/v1/embeddings", R"({"model":"tiny","input":"x"})", 422), "/error/param"),
            "model");
  ask("/v1/nothing", "{}", 404);
  ask("/v1/chat/completions", "", 405, "GET");
  EXPECT_EQ(service_.in_flight(), 0u);
}

TEST_F(ServiceTest, C1_LeavingCancelsTheWork) {
  Call call;
  auto handle =
      start(call, "/v1/completions",
            R"({"model":"tiny","prompt":"a","max_tokens":1000,"ignore_eos":true,"stream":true})");
  call.wait_for_bytes();
  EXPECT_EQ(service_.in_flight(), 1u);
  on_loop([&] { handle.reset(); });
  const auto load = [&] { return model_->dispatcher().view().workers[0].load; };
  while (service_.in_flight() > 0 || model_->dispatcher().in_flight() > 0 || load().running > 0) {
    std::this_thread::yield();
  }
  EXPECT_LT(load().completion_tokens, 1000u);
}

TEST_F(ServiceTest, DrainRefusesNewWorkAndFinishesOld) {
  Call running;
  auto handle =
      start(running, "/v1/completions",
            R"({"model":"tiny","prompt":"a","max_tokens":300,"ignore_eos":true,"stream":true})");
  running.wait_for_bytes();
  service_.drain();
  EXPECT_NE(ask("/ready", "", 503, "GET").find("shutting down"), std::string::npos);
  EXPECT_EQ(text_at(ask("/debug/workers", "", 200, "GET"), "/workers/0/state"), "draining");
  ask("/v1/completions", R"({"model":"tiny","prompt":"a"})", 503);
  EXPECT_EQ(events(running.wait()).back(), "[DONE]");
  EXPECT_TRUE(running.complete());
  on_loop([&] { handle.reset(); });
}

/// Three simulated workers that take no time.
class RoutedServiceTest : public ServiceTest {
 protected:
  void configure(ModelOptions& options) override {
    options.simulated.emplace().worker.speedup = engine::SimulatedOptions::kSpeedupMax;
    options.workers = 3;
  }

  std::string page(const char* name) { return ask(fmt::format("/debug/{}", name), "", 200, "GET"); }
  /// Completes `tokens`, and appends the answer to them.
  void turn(std::vector<int>& tokens) {
    const std::string answer = ask(
        "/v1/completions",
        fmt::format(R"({{"model":"tiny","prompt":[{}],"max_tokens":4,"return_token_ids":true}})",
                    fmt::join(tokens, ",")));
    for (int i = 0; i < 4; ++i) {
      tokens.push_back(
          static_cast<int>(number_at(answer, fmt::format("/choices/0/token_ids/{}", i))));
    }
  }
};

TEST_F(RoutedServiceTest, AConversationGoesOnWhereItIsCached) {
  for (int conversation = 0; conversation < 6; ++conversation) {
    std::vector<int> tokens(200, 10 + conversation);
    turn(tokens);
    const std::int64_t home = number_at(page("decisions"), "/decisions/0/worker");
    for (int more = 0; more < 3; ++more) {
      const auto held = static_cast<std::int64_t>(tokens.size() - 4) / 64 * 64;
      tokens.insert(tokens.end(), 100, 50 + more);
      turn(tokens);
      const std::string decisions = page("decisions");
      EXPECT_EQ(number_at(decisions, "/decisions/0/worker"), home);
      EXPECT_GE(number_at(decisions, "/decisions/0/predicted/cached_tokens"), held);
      EXPECT_EQ(number_at(decisions, "/decisions/0/predicted/cached_tokens"),
                number_at(decisions, "/decisions/0/reported/cached_tokens"));
    }
  }
  std::int64_t forecasts = 0;
  const std::string workers = page("workers");
  for (int i = 0; i < 3; ++i) {
    const std::int64_t all = number_at(workers, fmt::format("/workers/{}/cache/forecasts", i));
    EXPECT_EQ(number_at(workers, fmt::format("/workers/{}/cache/forecasts_equal", i)), all);
    EXPECT_EQ(text_at(workers, fmt::format("/workers/{}/trust", i)), "exact");
    EXPECT_EQ(number_at(workers, fmt::format("/workers/{}/requests", i)), 0);
    forecasts += all;
  }
  EXPECT_EQ(forecasts, 24);
}

TEST_F(RoutedServiceTest, WhatClientsAskOfTheRouterIsChecked) {
  EXPECT_EQ(text_at(ask("/v1/completions", R"({"model":"tiny","prompt":[1,2]})", 400, "POST",
                        {{"x-data-parallel-rank", "3"}}),
                    "/error/param"),
            "x-data-parallel-rank");
  EXPECT_EQ(text_at(ask("/v1/completions", R"({"model":"tiny","prompt":[1,2]})", 400, "POST",
                        {{"x-slo-ttft-ms", "soon"}}),
                    "/error/param"),
            "x-slo-ttft-ms");
  ask("/v1/completions", R"({"model":"tiny","prompt":[1,2],"max_tokens":1})", 200, "POST",
      {{"x-data-parallel-rank", "2"}, {"x-slo-ttft-ms", "60000"}});
  EXPECT_EQ(number_at(page("decisions"), "/decisions/0/worker"), 2);
  ask("/v1/completions", R"({"model":"tiny","prompt":[1,2]})", 429, "POST",
      {{"x-slo-ttft-ms", "0"}});
  // An answer may be read before its request is let go.
  while (service_.in_flight() > 0 || model_->dispatcher().in_flight() > 0) {
    std::this_thread::yield();
  }
  ask("/debug/nothing", "", 404, "GET");
}

/// Two workers whose passes never end, and which hold two requests each.
class FullServiceTest : public ServiceTest {
 protected:
  void configure(ModelOptions& options) override {
    options.workers = 2;
    options.simulated.emplace();
    options.simulated->worker.speedup = 1e-9;
    options.simulated->worker.sequences_max = 1;
    options.simulated->queue_max = 1;
    options.dispatch.policy = "round-robin";
  }
};

TEST_F(FullServiceTest, WhatAFullWorkerRefusesGoesToAnotherAndIsRefusedOnceAllAreFull) {
  const std::string body = R"({"model":"tiny","prompt":[1,2]})";
  std::list<Call> calls;
  std::vector<std::unique_ptr<net::HttpCallHandle>> handles;
  const auto hold = [&](const Headers& headers) {
    calls.emplace_back();
    handles.push_back(start(calls.back(), "/v1/completions", body, "POST", headers));
    EXPECT_TRUE(engine::until([&] { return model_->dispatcher().in_flight() == calls.size(); }));
  };
  for (int i = 0; i < 2; ++i) hold({{"x-data-parallel-rank", "0"}});
  for (int i = 0; i < 2; ++i) hold({});  // at least one of them in the turn of the full one
  EXPECT_GE(metric("penstock_requests_moved_total"), 1);
  for (int i = 0; i < 5; ++i) ask("/v1/completions", body, 429);
  const DispatcherView all = model_->dispatcher().view();
  for (const WorkerView& worker : all.workers) EXPECT_EQ(worker.requests, 2U);
  on_loop([&] { handles.clear(); });
}

/// One worker for prompts and one for answers; the policy splits whatever can be.
class SplitServiceTest : public ServiceTest {
 protected:
  void configure(ModelOptions& options) override {
    options.workers = 2;
    options.llama.exact = true;
    options.llama.block_tokens = 16;
    options.dispatch.policy = "round-robin";
    options.dispatch.roles = {fleet::Role::kPrefill, fleet::Role::kDecode};
  }
  /// A prompt of 200 tokens; `salt` so that nothing of it is cached.
  static std::string body(int seed, int salt, std::string_view fields) {
    std::string tokens;
    for (int i = 0; i < 200; ++i)
      tokens += fmt::format("{}{}", i == 0 ? "" : ",", (i * seed) % 250);
    return fmt::format(R"({{"model":"tiny","prompt":[{}],"temperature":0,"cache_salt":"s{}",{}}})",
                       tokens, salt, fields);
  }
  std::string answer(int seed, int salt) {
    return text_at(ask("/v1/completions", body(seed, salt, R"("max_tokens":8)")),
                   "/choices/0/text");
  }
  std::vector<engine::LoadReport> loads() {
    std::vector<engine::LoadReport> all;
    for (const WorkerView& worker : model_->dispatcher().view().workers) all.push_back(worker.load);
    return all;
  }
  void wait_until_nothing_is_kept() {
    while (service_.in_flight() > 0 || model_->dispatcher().in_flight() > 0 ||
           loads()[0].kv_leases + loads()[1].kv_leases > 0) {
      std::this_thread::yield();
    }
  }
};

TEST_F(SplitServiceTest, AnswersAreThoseOfOneWorkerAndLeaveNothingBehind) {
  std::vector<std::string> split;
  for (int seed = 1; seed <= 4; ++seed) split.push_back(answer(seed, 0));
  EXPECT_EQ(loads()[1].kv_blocks_fetched, 4U * 8);  // 72 of 200 tokens are computed anew
  wait_until_nothing_is_kept();
  EXPECT_EQ(loads()[0].kv_leases_lapsed, 0U);
  const engine::LoadReport answering = loads()[1];
  for (const auto& missed : answering.kv_blocks_missed) EXPECT_EQ(missed, 0U);

  ask("/debug/workers/1/role?to=both", "", 200);
  ask("/debug/workers/0/role?to=both", "", 200);
  for (int seed = 1; seed <= 4; ++seed) EXPECT_EQ(answer(seed, 1), split[seed - 1]);
  ask("/debug/workers/1/role?to=prefill", "", 200);
  ask("/debug/workers/0/role?to=prefill", "", 400);  // nobody would answer
  ask("/debug/workers/0/role?to=decode", "", 200);
  ask("/debug/workers/2/role?to=both", "", 404);
  ask("/debug/workers/0/role?to=all", "", 400);
  ask("/debug/workers/0/role?to=both", "", 405, "GET");
  ask("/debug/workers/0/rule", "", 404);
  for (int seed = 1; seed <= 4; ++seed) EXPECT_EQ(answer(seed, 2), split[seed - 1]);
  EXPECT_EQ(loads()[0].kv_blocks_fetched, 4U * 8);  // they are the other way round by now
  wait_until_nothing_is_kept();
}

TEST_F(SplitServiceTest, ClientsThatLeaveBetweenTheLegsLeaveNothing) {
  for (int i = 0; i < 30; ++i) {
    Call call;
    const std::uint64_t prompts = i % 3 == 0 ? 0 : loads()[0].prompt_tokens + 1;
    auto handle = start(call, "/v1/completions",
                        body(i + 1, i, R"("max_tokens":200,"stream":true,"ignore_eos":true)"));
    while (loads()[0].prompt_tokens < prompts) std::this_thread::yield();
    if (i % 3 == 2) call.wait_for_bytes();
    on_loop([&] { handle.reset(); });
  }
  wait_until_nothing_is_kept();
}

/// A simulated worker at the pace of a real one.
class PacedServiceTest : public ServiceTest {
 protected:
  void configure(ModelOptions& options) override { options.simulated.emplace(); }
};

TEST_F(PacedServiceTest, WhatTheServerDoesNotWaitForSaysSo) {
  const std::string fields = R"({"model":"tiny","prompt":"a","max_tokens":100000)";
  Call streamed;
  Call whole;
  auto first = start(streamed, "/v1/completions", fields + R"(,"stream":true})");
  auto second = start(whole, "/v1/completions", fields + "}");
  streamed.wait_for_bytes();
  while (service_.in_flight() < 2) std::this_thread::yield();
  service_.drain();
  service_.shut_down();
  const std::vector<std::string> all = events(streamed.wait());
  EXPECT_EQ(text_at(all.back(), "/error/message"), "the server is shutting down");
  EXPECT_TRUE(streamed.complete());
  EXPECT_EQ(text_at(whole.wait(), "/error/code"), "unavailable");
  EXPECT_EQ(whole.status(), 503);
  EXPECT_EQ(metric(R"(penstock_requests_cancelled_total{reason="shutdown"})"), 2);
  EXPECT_EQ(metric(R"(penstock_requests_total{endpoint="completions",status="503"})"), 2);
  EXPECT_GT(metric("penstock_completion_tokens_total"), 0);
  EXPECT_EQ(metric("penstock_ready"), 0);
  on_loop([&] {
    first.reset();
    second.reset();
  });
}

TEST_F(ServiceTest, EachChoiceIsAStreamToTheTimeBetweenTokens) {
  ask("/v1/completions", R"({"model":"tiny","prompt":"a","n":3,"max_tokens":4,"ignore_eos":true})");
  EXPECT_EQ(metric("penstock_request_queue_time_seconds_count"), 3);
  EXPECT_EQ(metric("penstock_time_to_first_token_seconds_count"), 1);
  EXPECT_LE(metric("penstock_inter_token_latency_seconds_count"), 3 * (4 - 1));
}

TEST_F(ServiceTest, ChoicesAtTemperatureZeroAreTheSame) {
  const std::string answer = ask(
      "/v1/completions", R"({"model":"tiny","prompt":"a","n":2,"temperature":0,"max_tokens":4})");
  EXPECT_EQ(text_at(answer, "/choices/0/text"), text_at(answer, "/choices/1/text"));
}

TEST_F(ServiceTest, WhatCanNeverRunIsRefused) {
  const std::string crowd = ask(
      "/v1/completions", R"({"model":"tiny","prompt":["a","b","c"],"n":128,"max_tokens":1})", 400);
  EXPECT_EQ(text_at(crowd, "/error/param"), "n");
  EXPECT_NE(crowd.find("384 choices"), std::string::npos) << crowd;
  std::string messages;
  for (int i = 0; i < 1024; ++i) {
    messages += fmt::format(R"({}{{"role":"user","content":""}})", i == 0 ? "" : ",");
  }
  EXPECT_EQ(text_at(ask("/v1/chat/completions",
                        fmt::format(R"({{"model":"tiny","messages":[{}]}})", messages), 400),
                    "/error/code"),
            "context_length_exceeded");
  EXPECT_EQ(text_at(ask("/v1/completions",
                        fmt::format(R"({{"model":"tiny","prompt":"a","n":128,"grammar":"{}"}})",
                                    "root ::= \\\"" + std::string(40'000, 'a') + "\\\""),
                        400),
                    "/error/param"),
            "n");
  EXPECT_EQ(service_.in_flight(), 0u);
}

TEST_F(ServiceTest, EveryRefusalIsCounted) {
  const auto count = [&](std::string_view endpoint, int status) {
    return metric(
        fmt::format(R"(penstock_requests_total{{endpoint="{}",status="{}"}})", endpoint, status));
  };
  ask("/nothing", "", 404, "GET");
  ask("/v1/nothing", "{}", 404);
  ask("/v1/models/other", "", 404, "GET");
  ask("/v1/chat/completions", "", 405, "GET");
  ask("/debug/requests", "{}", 405);
  ask("/debug/workers/role", "", 404);
  ask("/v1/completions", "{", 400);
  EXPECT_EQ(count("other", 404), 2);
  EXPECT_EQ(count("models", 404), 1);
  EXPECT_EQ(count("chat_completions", 405), 1);
  EXPECT_EQ(count("debug", 405), 1);
  EXPECT_EQ(count("debug", 404), 1);
  EXPECT_EQ(count("completions", 400), 1);
  EXPECT_EQ(metric("penstock_request_duration_seconds_count"), 0);  // those took no time
  service_.drain();
  ask("/v1/completions", "{}", 503);
  EXPECT_EQ(count("completions", 503), 1);
}

TEST_F(ServiceTest, TheBuildAndTheModelHaveAFingerprint) {
  const std::string whole = chat("");
  const std::string print = text_at(whole, "/system_fingerprint");
  EXPECT_TRUE(print.starts_with("fp_")) << print;
  const std::vector<std::string> all = events(chat(R"("stream":true)"));
  EXPECT_EQ(text_at(all[1], "/system_fingerprint"), print);
}

TEST_F(ServiceTest, WithoutAnOriginPreflightsAreNoRequests) {
  ask("/v1/chat/completions", "", 405, "OPTIONS");
}

class CorsTest : public ServiceTest {
 protected:
  CorsTest() : ServiceTest(ServiceOptions{.api_keys = {"key"}, .cors_origin = "*"}) {}
};

TEST_F(CorsTest, PreflightsAreAnsweredWithoutAKey) {
  ask("/v1/chat/completions", "", 204, "OPTIONS",
      {{"origin", "https://a.example"}, {"access-control-request-method", "POST"}});
  ask("/v1/models", "", 401, "GET");
}

TEST_F(ServiceTest, PagesForOperators) {
  chat("");
  EXPECT_NE(ask("/metrics", "", 200, "GET").find("penstock_completion_tokens_total 12"),
            std::string::npos);
  EXPECT_EQ(ask("/debug/requests", "", 200, "GET"), R"({"requests":[]})");
  EXPECT_GT(metric("process_resident_memory_bytes"), 1 << 20);
  EXPECT_GT(metric("process_open_fds"), 3);
  EXPECT_GT(metric(R"(penstock_http_bodies_bytes{what="max"})"), 0);
  EXPECT_EQ(metric("penstock_workers_requests_max"), 4 + 256);
  EXPECT_GT(metric(R"(penstock_worker_steps_total{worker="0"})"), 0);
  EXPECT_EQ(text_at(ask("/v1/models", "", 200, "GET"), "/data/0/id"), "tiny");
  EXPECT_EQ(text_at(ask("/v1/models/alias", "", 200, "GET"), "/id"), "alias");
  ask("/v1/models/other", "", 404, "GET");
}

}  // namespace
}  // namespace penstock::serve
