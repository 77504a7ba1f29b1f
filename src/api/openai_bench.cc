#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "api/openai.h"
#include "api/padded_body.h"
#include "base/check.h"

namespace penstock::api {
namespace {

constexpr std::string_view kProse =
    "The pipe that carries water to a turbine is built for one thing: to lose none of it on "
    "the way. It bends as little as it can, and it has no room that is not filled.\n";

std::string text_of(std::size_t size_bytes) {
  std::string text;
  while (text.size() < size_bytes) text += kProse;
  text.resize(size_bytes);
  return text;
}

/// A chat of `turns` messages whose body has about `size_bytes`.
std::string chat_body(std::size_t turns, std::size_t size_bytes) {
  const std::size_t text_bytes = (size_bytes - 150) / turns - 30;
  std::string body = R"({"model":"demo","temperature":0.7,"top_p":0.9,"max_tokens":256,)"
                     R"("stream":true,"stream_options":{"include_usage":true},"messages":[)";
  for (std::size_t i = 0; i < turns; ++i) {
    if (i > 0) body += ',';
    body += i % 2 == 0 ? R"({"role":"user","content":)" : R"({"role":"assistant","content":)";
    append_json_string(body, text_of(text_bytes));
    body += '}';
  }
  return body + "]}";
}

void parse(benchmark::State& state, std::size_t turns, std::size_t size_bytes) {
  const PaddedBody body(chat_body(turns, size_bytes));
  for (auto _ : state) {
    auto request = parse_chat_request(body.view());
    CHECK(request && request->messages.size() == turns);
    benchmark::DoNotOptimize(request);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * body.view().size()));
}

/// The floor of parsing: the same bytes copied once.
void copy(benchmark::State& state, std::size_t turns, std::size_t size_bytes) {
  const std::string body = chat_body(turns, size_bytes);
  for (auto _ : state) {
    std::string kept = body;
    benchmark::DoNotOptimize(kept);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * body.size()));
}

BENCHMARK_CAPTURE(copy, chat_512B, 3, 512);
BENCHMARK_CAPTURE(parse, chat_512B, 3, 512);
BENCHMARK_CAPTURE(copy, chat_240kB_40_turns, 40, 240000);
BENCHMARK_CAPTURE(parse, chat_240kB_40_turns, 40, 240000);

void parse_token_prompt(benchmark::State& state) {
  constexpr int kTokens = 32768;
  std::string text = R"({"model":"demo","prompt":[)";
  for (int i = 0; i < kTokens; ++i) {
    if (i > 0) text += ',';
    text += std::to_string(i * 7 % 49152);
  }
  text += "]}";
  const PaddedBody body(text);
  for (auto _ : state) {
    auto request = parse_completion_request(body.view());
    CHECK(request.has_value());
    benchmark::DoNotOptimize(request);
  }
  state.SetItemsProcessed(state.iterations() * kTokens);
}
BENCHMARK(parse_token_prompt);

constexpr int kChunks = 32;
constexpr std::string_view kChunkText = " penstock";

void write_chunks(benchmark::State& state) {
  const ChatStreamWriter writer({"chatcmpl-0123456789abcdef", 1700000000, "demo"}, true);
  std::string out;
  for (auto _ : state) {
    out.clear();
    for (int i = 0; i < kChunks; ++i) writer.content(out, 0, kChunkText);
    benchmark::DoNotOptimize(out);
  }
  state.SetItemsProcessed(state.iterations() * kChunks);
}
BENCHMARK(write_chunks);

/// The floor of writing: 32 finished events copied.
void copy_chunks(benchmark::State& state) {
  const ChatStreamWriter writer({"chatcmpl-0123456789abcdef", 1700000000, "demo"}, true);
  std::string event;
  writer.content(event, 0, kChunkText);
  std::string out;
  for (auto _ : state) {
    out.clear();
    for (int i = 0; i < kChunks; ++i) out += event;
    benchmark::DoNotOptimize(out);
  }
  state.SetItemsProcessed(state.iterations() * kChunks);
}
BENCHMARK(copy_chunks);

void write_string(benchmark::State& state) {
  const std::string text = text_of(64 * 1024);
  std::string out;
  for (auto _ : state) {
    out.clear();
    append_json_string(out, text);
    benchmark::DoNotOptimize(out);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}
BENCHMARK(write_string);

}  // namespace
}  // namespace penstock::api
