#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/remote/openengine.pb.h"
#include "engine/remote/penstock.pb.h"
#include "kv/events.h"
#include "tiers/store.h"

namespace penstock::engine::wire {

namespace oe = ::openengine::v1;
namespace ps = ::penstock::v1;

/// Between the engine's own types and what is sent. Writing cannot fail; reading takes nothing for
/// granted, and fails with kInvalidArgument. Pure. Thread: any.

void write(const GenerateRequest& request, oe::GenerateRequest& out);
/// All but id, sink, keys, priority, deadline, arrival and trace.
Result<GenerateRequest> read(const oe::GenerateRequest& in);

void write(const KvTicket& ticket, oe::KvSessionRef& out);
/// Of at most so many blocks. What it names is believed by nobody: whoever takes blocks asks for
/// each by its key.
Result<KvTicket> read(const oe::KvSessionRef& in, std::uint32_t blocks_max);

/// Outputs of one request, in order, none after the one that finishes: `token` responses hold runs
/// of them. Appends at most two responses.
void write(std::span<const Output> outputs, std::vector<oe::GenerateResponse>& out);

/// What a response may say, as the asker knows it.
struct Expected {
  RequestId request;
  std::uint32_t vocabulary_size = 0;
  std::uint32_t tokens_left = 0;
  std::uint32_t kv_blocks_max = 0;  // that a ticket may name; 0: none was asked for
  std::string worker_host;          // where the worker is, if its ticket does not say
  Nanos waited{0};                  // since its arrival, until the worker was asked
};
/// Appends what `in` says to `out`, and takes the tokens off `expected`. Fails when it is not what
/// such a request is answered with.
Result<void> read(const oe::GenerateResponse& in, Expected& expected, std::vector<Output>& out);

/// `now` is the teller's; and the reader's when it came.
void write(const LoadReport& report, TimePoint now, ps::LoadReport& out);
[[nodiscard]] LoadReport read(const ps::LoadReport& in, TimePoint now);

/// What is shown of them.
void write(const tiers::Stats& stats, ps::TierStats& out);
[[nodiscard]] tiers::Stats read(const ps::TierStats& in);

void write(const tiers::LoadCosts& costs, ps::TierCosts& out);
[[nodiscard]] tiers::LoadCosts read(const ps::TierCosts& in);

void write(const tiers::Store::Follower::News& news, ps::TierBlocks& out);
[[nodiscard]] tiers::Store::Follower::News read(const ps::TierBlocks& in);

void write(const EngineInfo& info, bool tells_kv_events, ps::ModelCard& out);
/// Fails when it is not one of a worker that this build can use.
Result<EngineInfo> read(const ps::ModelCard& in);

void write(const kv::Event& event, oe::KvEvent& out);
/// Without its sequence.
Result<kv::Event> read(const oe::KvEvent& in);

/// Our code for its name on the wire; kInternal for one that is unknown.
[[nodiscard]] Code code_of(std::string_view name) noexcept;
[[nodiscard]] oe::ErrorCode error_code(Code code) noexcept;
[[nodiscard]] Code code_of(oe::ErrorCode code) noexcept;

}  // namespace penstock::engine::wire
