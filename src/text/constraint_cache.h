#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/result.h"
#include "text/schema_refs.h"

namespace penstock::text {

/// A schema that can be enforced. Views into the cache.
struct Constraint {
  std::string_view schema;  // as llama.cpp is to see it: see schema_refs.h
  std::string_view gbnf;
  std::span<const RefRules::Rule> refs;
  std::size_t steps = 0;  // what it takes to make and to check, in those of the searches
};

/// The grammars of the schemas that were asked for lately. Clients send the same tools with every
/// request; to check one and to make its grammar costs as much as to lay out and tokenize a
/// conversation. One thread.
class ConstraintCache final {
 public:
  /// Of schemas and their grammars together. When it is full, all of them are forgotten.
  static constexpr std::size_t kBytesMax = 4 << 20;

  /// `schema` and its grammar, if it can be enforced at a bounded cost, also once it has become a
  /// grammar; empty for an empty one. Valid until the next call. Fails with kInvalidArgument;
  /// `param` is the field to name.
  Result<Constraint> find(std::string_view schema, std::string_view param);

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept {
      return std::hash<std::string_view>()(text);
    }
  };
  struct Known {
    std::string schema;  // if not as it came
    std::string gbnf;
    RefRules::Rules refs;
    std::size_t steps = 0;
  };
  std::unordered_map<std::string, Known, Hash, std::equal_to<>> known_;  // by schema
  std::size_t bytes_ = 0;
};

/// A JSON schema as GBNF (llama.cpp's converter). Empty schema text: any JSON object.
Result<std::string> schema_to_gbnf(std::string_view schema);

}  // namespace penstock::text
