#include "text/constraint_cache.h"

#include <fmt/format.h>
#include <json-schema-to-grammar.h>
#include <json.h>

#include <exception>
#include <utility>

#include "text/constraint_limits.h"
#include "text/literal_choice.h"
#include "text/schema_all_of.h"

namespace penstock::text {

/// A rule for a pair of optional properties takes llama.cpp as long.
static constexpr std::size_t kPairSteps = 50;

Result<Constraint> ConstraintCache::find(std::string_view schema, std::string_view param) {
  if (schema.empty()) return Constraint{};
  auto found = known_.find(schema);
  if (found == known_.end()) {
    std::size_t pairs = 0;
    if (Result<void> fine = check_schema(schema, param, &pairs); !fine) {
      return std::unexpected(fine.error());
    }
    const Result<std::string> merged = with_merged_all_of(schema, param);
    if (!merged) return std::unexpected(merged.error());
    if (*merged != schema) {
      if (Result<void> fine = check_schema(*merged, param, &pairs); !fine) {
        return std::unexpected(fine.error());
      }
    }
    Known made{
        .schema = with_named_root(with_plain_root(*merged)), .gbnf = {}, .refs = {}, .steps = 0};
    made.refs = RefRules::of(made.schema);
    if (!RefRules().add(made.refs)) {
      made.schema = with_distinct_refs(made.schema, "V");
      made.refs = RefRules::of(made.schema);
    }
    Result<std::string> gbnf = schema_to_gbnf(made.schema);
    if (!gbnf) return fail(gbnf.error().code, gbnf.error().message, std::string(param));
    if (Result<void> fine = check_gbnf(*gbnf, param, &made.steps); !fine) {
      return std::unexpected(fine.error());
    }
    made.steps += kPairSteps * pairs;
    made.gbnf = std::move(*gbnf);
    if (made.schema == schema) made.schema.clear();
    std::size_t bytes = schema.size() + made.schema.size() + made.gbnf.size();
    for (const RefRules::Rule& rule : made.refs) bytes += sizeof rule + rule.name.size();
    if (bytes_ + bytes > kBytesMax) {
      known_.clear();
      bytes_ = 0;
    }
    bytes_ += bytes;
    found = known_.emplace(schema, std::move(made)).first;
  }
  const auto& [given, known] = *found;
  return Constraint{.schema = known.schema.empty() ? given : known.schema,
                    .gbnf = known.gbnf,
                    .refs = known.refs,
                    .steps = known.steps};
}

Result<std::string> schema_to_gbnf(std::string_view schema) {
  try {
    const common_json parsed =
        common_json::parse(schema.empty() ? R"({"type":"object"})" : std::string(schema));
    return factor_choices(json_schema_to_grammar(parsed));
  } catch (const std::exception& problem) {
    return fail(Code::kInvalidArgument,
                fmt::format("the schema cannot be enforced: {}", problem.what()),
                "response_format.json_schema.schema");
  }
}

}  // namespace penstock::text
