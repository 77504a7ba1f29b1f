#include "serve/decision_log.h"

#include <fmt/format.h>

#include <cctype>

#include "api/openai.h"
#include "serve/json_numbers.h"

namespace penstock::serve {
namespace {

/// "others' waiting ms" -> "others_waiting_ms"
std::string key_of(std::string_view term) {
  std::string key;
  for (const char c : term) {
    if (c == ' ') key += '_';
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0) key += static_cast<char>(std::tolower(byte));
  }
  return key;
}

std::string_view part_of(router::Stage stage) {
  switch (stage) {
    case router::Stage::kWhole: return "whole";
    case router::Stage::kPrefill: return "prompt";
    case router::Stage::kDecode: return "answer";
  }
  return {};
}

std::string fetch_json(const router::KvSource& from) {
  if (from.worker) {
    return fmt::format(R"(,"fetch":{{"worker":{},"blocks":{},"load_ms":{}}})", *from.worker,
                       from.blocks, json_number(from.load_ms));
  }
  return fmt::format(R"(,"fetch":{{"tier":"{}","blocks":{},"load_ms":{},"recompute_ms":{}}})",
                     to_string(from.tier), from.blocks, json_number(from.load_ms),
                     json_number(from.recompute_ms));
}

}  // namespace

Decision& DecisionLog::add() noexcept {
  Decision& decision = ring_[++last_ % ring_.size()];
  decision.number = last_;
  return decision;
}

Decision* DecisionLog::find(std::uint64_t number) noexcept {
  if (ring_.empty() || number == 0) return nullptr;
  Decision& decision = ring_[number % ring_.size()];
  return decision.number == number ? &decision : nullptr;
}

std::vector<Decision> DecisionLog::copy() const {
  std::vector<Decision> all;
  for (std::uint64_t n = last_; n > 0 && all.size() < ring_.size(); --n) {
    all.push_back(ring_[n % ring_.size()]);
  }
  return all;
}

std::string decisions_json(std::string_view policy, std::span<const std::string_view> terms,
                           std::span<const Decision> decisions) {
  std::vector<std::string> keys;
  for (const std::string_view term : terms) keys.push_back(key_of(term));
  std::string out = fmt::format(R"({{"policy":"{}","decisions":[)", policy);
  for (const Decision& d : decisions) {
    if (out.back() == '}') out += ',';
    out += fmt::format(R"({{"number":{},"at_unix_ms":{},"request":)", d.number, d.unix_ms);
    api::append_json_string(out, d.request);
    out += fmt::format(R"(,"part":"{}","rule":"{}","ties":{},"worker":{},"shed":{},)"
                       R"("prompt_tokens":{},)"
                       R"("predicted":{{"cached_tokens":{},"ttft_ms":{}}})",
                       part_of(d.stage), d.rule, d.ties, d.worker, d.shed, d.prompt_tokens,
                       d.predicted_cached_tokens, json_number(d.predicted_ttft_ms));
    if (d.fetch) out += fetch_json(*d.fetch);
    if (d.began) {
      out += fmt::format(R"(,"reported":{{"cached_tokens":{},"ttft_ms":{}}})",
                         d.reported_cached_tokens, json_number(d.ttft_ms));
    }
    out += R"(,"candidates":[)";
    for (const Decision::Candidate& c : d.candidates) {
      if (out.back() == '}') out += ',';
      out += fmt::format(R"({{"worker":{},"part":"{}","cached_tokens":{},"cost":{},"terms":{{)",
                         c.worker, part_of(c.stage), c.cached_tokens, json_number(c.cost));
      for (std::size_t i = 0; i < keys.size(); ++i) {
        out += fmt::format(R"({}"{}":{})", i == 0 ? "" : ",", keys[i], json_number(c.terms[i]));
      }
      out += "}}";
    }
    out += "]}";
  }
  out += "]}";
  return out;
}

}  // namespace penstock::serve
