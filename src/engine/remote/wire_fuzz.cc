// What comes over the wire from whoever: read, written and read again it is the same, and what is
// read is within what its reader relies on.
#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string_view>

#include "engine/remote/internal/wire.h"

namespace penstock::engine::wire {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

bool is_known(Token token) { return token >= 0; }

template <class Message>
bool parse(std::string_view bytes, Message& message) {
  return message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

/// A ticket's blocks are few, and where it leads is a place.
void check(const KvTicket& ticket, std::size_t blocks_max) {
  require(ticket.blocks.size() <= blocks_max);
  require(ticket.grant.cell < transfer::BlockTable::kGrantsMax);
  require(ticket.at.socket_path.size() <= 107 && ticket.at.tcp_host.size() <= 64);
}

void session(std::string_view bytes) {
  oe::KvSessionRef in;
  if (!parse(bytes, in)) return;
  in.set_transfer_backend("penstock");  // or nothing else is looked at
  constexpr std::uint32_t kBlocks = 64;
  const Result<KvTicket> read = wire::read(in, kBlocks);
  if (!read) return require(read.error().code == Code::kInvalidArgument);
  check(*read, kBlocks);
  oe::KvSessionRef once;
  write(*read, once);
  const Result<KvTicket> again = wire::read(once, kBlocks);
  require(again && again->source == read->source && again->grant == read->grant);
  require(again->blocks == read->blocks && again->at == read->at);
}

void request(std::string_view bytes) {
  oe::GenerateRequest in;
  if (!parse(bytes, in)) return;
  const Result<GenerateRequest> read = wire::read(in);
  if (!read) return require(read.error().code != Code::kInternal);
  require(std::ranges::all_of(read->prompt, is_known));
  require(std::ranges::all_of(read->stop_token_ids, is_known));
  require(read->sampling.penalty_last_n >= -1 && read->sampling.penalty_last_n <= 1 << 20);
  require(read->kv_lease > Nanos::zero() && read->kv_lease <= std::chrono::hours(1));
  if (read->fetch) check(*read->fetch, read->prompt.size());
  oe::GenerateRequest once;
  write(*read, once);
  const Result<GenerateRequest> again = wire::read(once);
  require(again.has_value());
  oe::GenerateRequest twice;
  write(*again, twice);
  require(once.SerializeAsString() == twice.SerializeAsString());
}

void response(std::string_view bytes) {
  oe::GenerateResponse in;
  if (!parse(bytes, in)) return;
  constexpr std::uint32_t kVocabulary = 1000;
  constexpr std::uint32_t kTokens = 16;
  constexpr std::uint32_t kBlocks = 8;
  Expected expected{.request = {1},
                    .vocabulary_size = kVocabulary,
                    .tokens_left = kTokens,
                    .kv_blocks_max = kBlocks,
                    .worker_host = "127.0.0.1"};
  std::vector<Output> outputs;
  const Result<void> fine = wire::read(in, expected, outputs);
  std::uint32_t tokens = 0;
  for (const Output& output : outputs) {
    require(output.request == expected.request);
    if (output.kv != nullptr) check(*output.kv, kBlocks);
    if (!output.token) continue;
    ++tokens;
    require(*output.token >= 0 && *output.token < static_cast<Token>(kVocabulary));
    if (!fine) continue;
    for (const TopLogprob& top : output.top) {
      require(top.token >= 0 && top.token < static_cast<Token>(kVocabulary));
    }
  }
  require(tokens + expected.tokens_left == kTokens);
  if (!fine) return;
  for (std::size_t i = 0; i + 1 < outputs.size(); ++i) require(!outputs[i].finish);
  std::vector<oe::GenerateResponse> written;
  write(outputs, written);
}

void report(std::string_view bytes) {
  ps::LoadReport in;
  if (!parse(bytes, in)) return;
  const TimePoint now{std::chrono::hours(24 * 365)};
  const LoadReport read = wire::read(in, now);
  require(read.in_inbox <= read.waiting);
  require(read.pass_started <= now);
  for (const PassWork& work :
       {read.pass, read.last_prefill_pass.work, read.last_decode_pass.work}) {
    require(work.kv_use >= 0 && work.kv_use <= 1);
  }
  require(read.last_prefill_pass.took >= Nanos::zero());
  require(read.last_fetch.ordinal == 0 || read.last_fetch.blocks > 0);
  require(read.last_fetch.took >= Nanos::zero() && read.kv_fetching >= Nanos::zero());
  (void)wire::read(in.tiers());
  const tiers::LoadCosts costs = wire::read(in.tier_costs());
  for (const double ns : {costs.host_ns, costs.disk_ns, costs.disk_queue_ns, costs.recompute_ns}) {
    require(ns >= 0);
  }
  require(costs.recompute_ns < std::numeric_limits<double>::infinity());
  ps::LoadReport once;
  write(read, now, once);
  ps::LoadReport twice;
  write(wire::read(once, now), now, twice);
  require(once.SerializeAsString() == twice.SerializeAsString());
}

void card(std::string_view bytes) {
  ps::ModelCard in;
  if (!parse(bytes, in)) return;
  in.set_kv_hash("penstock-xxh3-1");  // or nothing else is looked at
  const Result<EngineInfo> read = wire::read(in);
  if (!read) return;
  require(!read->model.empty() && read->block_tokens > 0 && read->sequences_max > 0);
  require(read->vocabulary_size > 0);
  ps::ModelCard out;
  write(*read, in.tells_kv_events(), out);
  require(wire::read(out).has_value());
}

void event(std::string_view bytes) {
  oe::KvEvent in;
  if (!parse(bytes, in)) return;
  const Result<kv::Event> read = wire::read(in);
  if (!read) return;
  require(std::ranges::all_of(read->tokens, is_known));
  oe::KvEvent once;
  write(*read, once);
  const Result<kv::Event> again = wire::read(once);
  require(again && again->kind == read->kind && again->hash == read->hash);
  require(again->parent == read->parent && again->tokens == read->tokens);
}

}  // namespace
}  // namespace penstock::engine::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock::engine::wire;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 6) {
    case 0: request(bytes); break;
    case 1: response(bytes); break;
    case 2: report(bytes); break;
    case 3: card(bytes); break;
    case 4: session(bytes); break;
    default: event(bytes);
  }
  return 0;
}
