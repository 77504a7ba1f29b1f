#include "text/constraint_cache.h"

#include <chat.h>
#include <fmt/format.h>
#include <json-schema-to-grammar.h>

#include <exception>
#include <utility>

#include "text/constraint_limits.h"
#include "text/literal_choice.h"

namespace penstock::text {

Result<std::string_view> ConstraintCache::grammar_of(std::string_view schema,
                                                     std::string_view param) {
  if (schema.empty()) return std::string_view();
  if (const auto known = grammars_.find(schema); known != grammars_.end()) return known->second;
  if (Result<void> fine = check_schema(schema, param); !fine) return std::unexpected(fine.error());
  Result<std::string> gbnf = schema_to_gbnf(schema);
  if (!gbnf) return fail(gbnf.error().code, gbnf.error().message, std::string(param));
  if (Result<void> fine = check_gbnf(*gbnf, param); !fine) return std::unexpected(fine.error());
  const std::size_t bytes = schema.size() + gbnf->size();
  if (bytes_ + bytes > kBytesMax) {
    grammars_.clear();
    bytes_ = 0;
  }
  bytes_ += bytes;
  return grammars_.emplace(schema, std::move(*gbnf)).first->second;
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
