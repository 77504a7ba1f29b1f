#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_set>

#include "text/constraint_error.h"
#include "text/constraint_limits.h"
#include "text/internal/schema_targets.h"
#include "text/schema_refs.h"

namespace penstock::text {
namespace {

namespace dom = simdjson::dom;

constexpr std::array kUnions = {"allOf", "anyOf", "oneOf"};

std::size_t nesting(std::string_view pattern) {
  std::size_t deepest = 0;
  std::size_t depth = 0;
  for (const char c : pattern) {
    if (c == '(') deepest = std::max(deepest, ++depth);
    if (c == ')' && depth > 0) --depth;
  }
  return deepest;
}

struct Size {
  std::size_t levels = 1;
  std::size_t nodes = 1;  // values of JSON; a long text counts as several
};

/// As deep as simdjson was told to parse.
// NOLINTNEXTLINE(misc-no-recursion)
Size size_of(dom::element node) {
  Size size;
  const auto add = [&](const Size& inner) {
    size.levels = std::max(size.levels, inner.levels + 1);
    size.nodes += inner.nodes;
  };
  dom::object object;
  if (node.get(object) == simdjson::SUCCESS) {
    for (const auto& field : object) add(size_of(field.value));
  }
  dom::array array;
  if (node.get(array) == simdjson::SUCCESS) {
    for (const dom::element item : array) add(size_of(item));
  }
  std::string_view text;
  if (node.get(text) == simdjson::SUCCESS) size.nodes += text.size() / 64;
  return size;
}

/// One walk over the schema, then one over its references. Recursion goes as deep as simdjson was
/// told to parse, times kRefChainMax along references.
class SchemaCheck {
 public:
  SchemaCheck(dom::element root, std::string_view param)
      : root_(root), param_(param), targets_(root) {
    std::string_view draft;
    if (root["$schema"].get(draft) != simdjson::SUCCESS) return;
    refs_stand_alone_ = std::ranges::any_of(
        std::array{"draft-03", "draft-04", "draft-06", "draft-07"},
        [&](const char* name) { return draft.find(name) != std::string_view::npos; });
  }

  Result<void> run() {
    if (Result<void> fine = check_node(root_, 0); !fine) return fine;
    Size named{.levels = 0, .nodes = 0};
    for (const auto& [ref, state] : refs_) {
      const auto target = targets_.of(ref);
      if (!target) continue;
      const Size size = size_of(*target);
      named.levels += size.levels;
      named.nodes += size.nodes;
      if (named.levels > kRefLevelsMax) {
        return too_much("levels in what its $refs name", kRefLevelsMax, param_);
      }
      if (named.nodes > kRefNodesMax) {
        return too_much("values in what its $refs name", kRefNodesMax, param_);
      }
    }
    for (const auto& [ref, state] : refs_) {
      if (Result<void> fine = follow(ref, 0); !fine) return fine;
    }
    return {};
  }

  [[nodiscard]] std::size_t optional_pairs() const noexcept { return optional_pairs_; }

 private:
  enum class State : std::uint8_t { kNew, kOpen, kDone };

  /// `path_bytes`: of the names on the way to it, since llama.cpp names rules after all of them.
  // NOLINTNEXTLINE(misc-no-recursion)
  Result<void> check_node(dom::element node, std::size_t path_bytes) {
    dom::object object;
    if (node.get(object) == simdjson::SUCCESS) {
      if (Result<void> fine = check_object(object); !fine) return fine;
      if (Result<void> fine = check_types(node); !fine) return fine;
      for (const auto& field : object) {
        const std::size_t further = path_bytes + field.key.size();
        if (further > kPathBytesMax) {
          return too_much("bytes in the names that lead to one place", kPathBytesMax, param_);
        }
        if (Result<void> fine = check_node(field.value, further); !fine) return fine;
      }
    }
    dom::array array;
    if (node.get(array) != simdjson::SUCCESS) return {};
    for (const dom::element item : array) {
      if (Result<void> fine = check_node(item, path_bytes); !fine) return fine;
    }
    return {};
  }

  Result<void> check_object(dom::object object) {
    if (Result<void> fine = check_names(object); !fine) return fine;
    if (Result<void> fine = check_sizes(object); !fine) return fine;
    if (Result<void> fine = check_optional(object); !fine) return fine;
    return note_ref(object);
  }

  /// A name that stands twice is read one way by one parser and another way by the next.
  Result<void> check_names(dom::object object) {
    if (object.size() > kNamesMax) return too_much("names in one object", kNamesMax, param_);
    std::unordered_set<std::string_view> seen;
    for (const auto& field : object) {
      if (field.key.size() > kNameBytesMax)
        return too_much("bytes in a name", kNameBytesMax, param_);
      if (!seen.insert(field.key).second) {
        return fail(Code::kInvalidArgument,
                    fmt::format("{}: an object has the name \"{}\" twice", param_, field.key),
                    std::string(param_));
      }
    }
    return {};
  }

  Result<void> check_sizes(dom::object object) {
    std::string_view pattern;
    if (object["pattern"].get(pattern) == simdjson::SUCCESS &&
        nesting(pattern) > kConstraintDepthMax) {
      return too_much("groups within each other in a pattern", kConstraintDepthMax, param_);
    }
    dom::array parts;
    if (object["allOf"].get(parts) == simdjson::SUCCESS && parts.size() > kAllOfPartsMax) {
      return too_much("parts of an allOf", kAllOfPartsMax, param_);
    }
    return {};
  }

  /// llama.cpp copies a node once for each type in its list, with all that is in it.
  Result<void> check_types(dom::element node) {
    dom::array types;
    if (node["type"].get(types) != simdjson::SUCCESS) return {};
    if (types.size() > kTypesMax) return too_much("types in a list", kTypesMax, param_);
    std::unordered_set<std::string_view>
        seen;  // once more in each level would be twice as much in each
    for (const dom::element type : types) {
      std::string_view name;
      if (type.get(name) != simdjson::SUCCESS || seen.insert(name).second) continue;
      return fail(Code::kInvalidArgument,
                  fmt::format("{}: a list of types has \"{}\" twice", param_, name),
                  std::string(param_));
    }
    copied_ += types.size() * size_of(node).nodes;
    if (copied_ > kCopiedNodesMax) {
      return too_much("values within nodes with lists of types, for each of these", kCopiedNodesMax,
                      param_);
    }
    return {};
  }

  Result<void> check_optional(dom::object object) {
    std::size_t optional = 0;
    dom::object properties;
    if (object["properties"].get(properties) == simdjson::SUCCESS) {
      optional = properties.size() - required_among(object, properties);
    }
    if (optional > kOptionalPropertiesMax) {
      return too_much("optional properties in one object", kOptionalPropertiesMax, param_);
    }
    optional_pairs_ += optional * optional;
    if (optional_pairs_ > kOptionalPairsMax) {
      return too_much("pairs of optional properties within objects", kOptionalPairsMax, param_);
    }
    return {};
  }

  /// How many of the properties are required: names without a property do not count.
  static std::size_t required_among(dom::object object, dom::object properties) {
    std::unordered_set<std::string_view> names;
    dom::array required;
    if (object["required"].get(required) != simdjson::SUCCESS) return 0;
    for (const dom::element item : required) {
      std::string_view name;
      if (item.get(name) == simdjson::SUCCESS) names.insert(name);
    }
    std::size_t found = 0;
    for (const auto& field : properties) found += names.contains(field.key) ? 1 : 0;
    return found;
  }

  Result<void> note_ref(dom::object object) {
    std::string_view ref;
    if (object["$ref"].get(ref) != simdjson::SUCCESS) return {};
    if (ref.size() > kNameBytesMax) return too_much("bytes in a $ref", kNameBytesMax, param_);
    refs_.emplace(ref, State::kNew);
    if (refs_.size() > kNamesMax) return too_much("different $refs", kNamesMax, param_);
    if (targets_.is_unclear(ref)) {
      return fail(
          Code::kInvalidArgument,
          fmt::format("{}: the $ref {} names no schema: it leads into a value or to what holds "
                      "schemas, or has an index that is not plain digits",
                      param_, ref),
          std::string(param_));
    }
    if (!targets_.of(ref)) return {};  // llama.cpp says so
    const dom::element target = targets_.end_of(*targets_.of(ref));
    for (const auto& field : object) {
      if (refs_stand_alone_ || !narrows(field.key) || adds_nothing(field, target)) continue;
      return fail(
          Code::kInvalidArgument,
          fmt::format("{}: \"{}\" beside the $ref {} cannot be enforced: say it in what the "
                      "$ref names",
                      param_, field.key, ref),
          std::string(param_));
    }
    return {};
  }

  /// Whether a keyword beside a $ref allows all that its target does, as llama.cpp enforces that.
  static bool adds_nothing(const dom::key_value_pair& field, dom::element target) {
    const auto has = [&](std::string_view key) {
      return target.at_key(key).error() == simdjson::SUCCESS;
    };
    dom::object object;
    if (field.key == "properties") {
      return field.value.get(object) == simdjson::SUCCESS && object.size() == 0;
    }
    dom::array array;
    if (field.key == "required") {
      return field.value.get(array) == simdjson::SUCCESS && array.size() == 0;
    }
    bool allowed = false;
    if (field.key == "additionalProperties" && field.value.get(allowed) == simdjson::SUCCESS) {
      // llama.cpp allows none beside properties unless it is told to.
      bool there = false;
      const simdjson::error_code problem = target["additionalProperties"].get(there);
      const bool closed =
          problem == simdjson::NO_SUCH_FIELD || (problem == simdjson::SUCCESS && !there);
      return allowed || (closed && has("properties"));
    }
    std::string_view type;
    if (field.key != "type" || field.value.get(type) != simdjson::SUCCESS) return false;
    std::string_view there;
    if (target["type"].get(there) == simdjson::SUCCESS) return there == type;
    if (has("type") || has("anyOf") || has("oneOf") || has("allOf")) return false;
    if (type == "object") return has("properties");
    if (type == "array") return has("items") || has("prefixItems");
    return has("enum") || has("const");
  }

  /// Goes on from reference to reference as long as nothing but references and unions lies between.
  // NOLINTNEXTLINE(misc-no-recursion)
  Result<void> follow(std::string_view ref, std::size_t depth) {
    const auto found = refs_.find(ref);
    if (found == refs_.end() || found->second == State::kDone) return {};
    if (found->second == State::kOpen) {
      return fail(
          Code::kInvalidArgument,
          fmt::format("{}: the $ref {} leads back to itself and to nothing else", param_, ref),
          std::string(param_));
    }
    if (depth > kRefChainMax)
      return too_much("$refs that lead on to each other", kRefChainMax, param_);
    found->second = State::kOpen;
    if (const auto target = targets_.of(ref)) {
      if (Result<void> fine = follow_node(*target, depth + 1); !fine) return fine;
    }
    found->second = State::kDone;
    return {};
  }

  // NOLINTNEXTLINE(misc-no-recursion)
  Result<void> follow_node(dom::element node, std::size_t depth) {
    dom::object object;
    if (node.get(object) != simdjson::SUCCESS) return {};
    std::string_view ref;
    if (object["$ref"].get(ref) == simdjson::SUCCESS) {
      if (Result<void> fine = follow(ref, depth); !fine) return fine;
    }
    for (const char* key : kUnions) {
      dom::array alternatives;
      if (object[key].get(alternatives) != simdjson::SUCCESS) continue;
      for (const dom::element alternative : alternatives) {
        if (Result<void> fine = follow_node(alternative, depth); !fine) return fine;
      }
    }
    return {};
  }

  dom::element root_;
  std::string_view param_;
  SchemaTargets targets_;
  std::map<std::string_view, State> refs_;
  std::size_t optional_pairs_ = 0;
  std::size_t copied_ = 0;
  bool refs_stand_alone_ = false;  // what stands beside them has no meaning
};

}  // namespace

Result<void> check_schema(std::string_view schema, std::string_view param,
                          std::size_t* optional_pairs) {
  if (schema.size() > kConstraintBytesMax) return too_much("bytes", kConstraintBytesMax, param);
  if (schema.empty()) return {};
  dom::parser parser;
  if (parser.allocate(schema.size(), kConstraintDepthMax) != simdjson::SUCCESS) return {};
  dom::element root;
  const simdjson::padded_string text(schema);
  const simdjson::error_code problem = parser.parse(text).get(root);
  if (problem == simdjson::DEPTH_ERROR) {
    return too_much("levels", kConstraintDepthMax, param);
  }
  // Another parser might take it all the same (numbers out of range), and then nothing is checked.
  if (problem != simdjson::SUCCESS) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("{}: not JSON that can be read: {}", param, simdjson::error_message(problem)),
        std::string(param));
  }
  SchemaCheck check(root, param);
  Result<void> fine = check.run();
  if (optional_pairs != nullptr) *optional_pairs = check.optional_pairs();
  return fine;
}

}  // namespace penstock::text
