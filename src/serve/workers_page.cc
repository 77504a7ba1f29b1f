#include "serve/workers_page.h"

#include <fmt/format.h>

#include <initializer_list>
#include <utility>

#include "api/openai.h"
#include "serve/json_numbers.h"

namespace penstock::serve {
namespace {

using Member = std::pair<std::string_view, double>;

/// "a":1,"b":2
void append_numbers(std::string& out, std::initializer_list<Member> members) {
  for (const auto& [name, value] : members) {
    if (out.back() != '{') out += ',';
    out += fmt::format(R"("{}":{})", name, json_number(value));
  }
}

double number(auto value) { return static_cast<double>(value); }

/// 0 before there is anything to divide by.
double ratio(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : number(part) / number(whole);
}

void append_string_or_null(std::string& out, std::string_view text) {
  if (text.empty()) {
    out += "null";
  } else {
    api::append_json_string(out, text);
  }
}

void append_load(std::string& out, const WorkerView& worker) {
  const engine::LoadReport& load = worker.load;
  append_numbers(out, {{"requests", worker.requests},
                       {"prefills", worker.prefills},
                       {"running", load.running},
                       {"waiting", load.waiting},
                       {"prefill_tokens_left", number(load.waiting_prefill_tokens)},
                       {"kv_blocks", number(load.kv_blocks_used)},
                       {"kv_blocks_max", number(load.kv_blocks_max)},
                       {"kv_blocks_active", load.kv_blocks_active},
                       {"kv_blocks_active_max", load.kv_blocks_active_max},
                       {"prompt_tokens", number(load.prompt_tokens)},
                       {"cached_tokens", number(load.cached_tokens)},
                       {"completion_tokens", number(load.completion_tokens)},
                       {"hit_ratio", ratio(load.cached_tokens, load.prompt_tokens)},
                       {"steps", number(load.steps)},
                       {"preemptions", number(load.preemptions)},
                       {"errors", number(load.sequence_errors)},
                       {"kv_leases", load.kv_leases},
                       {"kv_leases_lapsed", number(load.kv_leases_lapsed)},
                       {"kv_blocks_fetched", number(load.kv_blocks_fetched)},
                       {"kv_bytes_fetched", number(load.kv_bytes_fetched)},
                       {"kv_fetch_ms", to_ms(load.kv_fetching)},
                       {"shed", number(worker.shed)}});
}

/// Blocks that were to be had from another worker and were computed, by reason.
void append_missed(std::string& out, const engine::LoadReport& load) {
  out += R"(,"kv_blocks_missed":{)";
  for (std::size_t i = 0; i < engine::kFetchMisses; ++i) {
    append_numbers(
        out, {{to_string(static_cast<engine::FetchMiss>(i)), number(load.kv_blocks_missed[i])}});
  }
  out += '}';
}

void append_cache(std::string& out, const WorkerView& worker) {
  const CacheForecast& forecast = worker.forecast;
  out += R"(,"cache":{)";
  append_numbers(out, {{"events", number(worker.events)},
                       {"gaps", number(worker.gaps)},
                       {"snapshots", number(worker.snapshots)},
                       {"orphans", number(worker.orphans)},
                       {"forecasts", number(forecast.compared)},
                       {"forecasts_equal", number(forecast.equal)},
                       {"predicted_cached_tokens", number(forecast.predicted_tokens)},
                       {"reported_cached_tokens", number(forecast.reported_tokens)},
                       {"agreement", worker.agreement},
                       {"tier_blocks_followed", number(worker.tier_blocks)}});
  out += '}';
}

/// What a pass takes, as fitted: base + token x t + token2 x t^2 for t prompt tokens, and
/// base + use x u + use2 x u^2 for decoding at KV use u.
void append_cost(std::string& out, const fleet::PassCost& cost) {
  out += fmt::format(R"(,"pass_cost":{{"prefill_base_ms":{:.6g},"prefill_token_ms":{:.6g},)"
                     R"("prefill_token2_ms":{:.6g},"decode_base_ms":{:.6g},"decode_use_ms":{:.6g},)"
                     R"("decode_use2_ms":{:.6g},"pass_tokens_max":{}}})",
                     cost.prefill_base_ms, cost.prefill_token_ms, cost.prefill_token2_ms,
                     cost.decode_base_ms, cost.decode_use_ms, cost.decode_use2_ms,
                     cost.pass_tokens_max);
}

}  // namespace

std::string workers_json(std::string_view model, const DispatcherView& view) {
  std::string out = R"({"model":)";
  api::append_json_string(out, model);
  out +=
      fmt::format(R"(,"policy":"{}","block_tokens":{},"index":{{)", view.policy, view.block_tokens);
  append_numbers(out, {{"blocks", number(view.index.blocks)},
                       {"bytes", number(view.index.memory_bytes)},
                       {"bytes_max", number(view.index.budget_bytes)},
                       {"shed_runs", number(view.index.shed_runs)},
                       {"refused_blocks", number(view.index.refused_blocks)}});
  out += fmt::format(R"(}},"transfer":{{"fixed_ms":{:.6g},"block_ms":{:.6g}}},"workers":[)",
                     view.transfer.fixed_ms, view.transfer.block_ms);
  for (std::size_t i = 0; i < view.workers.size(); ++i) {
    const WorkerView& worker = view.workers[i];
    out += fmt::format(R"({}{{"worker":{},"instance":)", i == 0 ? "" : ",", worker.slot);
    append_string_or_null(out, worker.instance);
    out += R"(,"address":)";
    append_string_or_null(out, worker.address);
    out += R"(,"labels":)";
    append_string_or_null(out, format_labels(worker.labels));
    out += fmt::format(R"(,"state":"{}","role":"{}","trust":"{}","doubt":)",
                       to_string(worker.state), to_string(worker.role), to_string(worker.trust));
    append_string_or_null(out, worker.doubt);
    append_load(out, worker);
    append_missed(out, worker.load);
    append_cache(out, worker);
    append_cost(out, worker.cost);
    out += R"(,"decisions":{)";
    for (const auto& [rule, count] : worker.decisions) {
      if (out.back() != '{') out += ',';
      out += fmt::format(R"("{}":{})", rule, count);
    }
    out += "}}";
  }
  out += "]}";
  return out;
}

}  // namespace penstock::serve
