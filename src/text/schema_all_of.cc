#include "text/schema_all_of.h"

#include <fmt/format.h>
#include <json.h>

#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "text/constraint_limits.h"
#include "text/internal/schema_walk.h"
#include "text/schema_refs.h"

namespace penstock::text {
namespace {

const char* json_type(const common_json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "boolean";
  if (value.is_number()) return value.is_number_integer() ? "integer" : "number";
  if (value.is_array()) return "array";
  return value.is_object() ? "object" : "string";
}

/// Of a list, or of a value as a list of it alone.
template <class Is>
bool any_in(const common_json& list, const Is& is) {
  for (const common_json& one : list) {
    if (is(one)) return true;
  }
  return false;
}
template <class Is>
bool all_in(const common_json& list, const Is& is) {
  return !any_in(list, [&](const common_json& one) { return !is(one); });
}

/// Whether `types`, a name or a list of them, have all values of `type`.
bool have_type(const common_json& types, const std::string& type) {
  return any_in(types, [&](const common_json& one) {
    return one == type || (one == "number" && type == "integer");
  });
}

std::size_t count_narrowing(const common_json& node) {
  std::size_t count = 0;
  for (const auto& [key, value] : node.items()) count += narrows(key) ? 1 : 0;
  return count;
}

bool is_reference(const common_json& node) {
  return node.contains("$ref") && node.at("$ref").is_string();
}

/// Merges the allOfs of one schema. After the first that cannot be merged nothing more is done.
class AllOfMerge {
 public:
  explicit AllOfMerge(const common_json& root) : root_(&root) {}

  /// In all schemas within `node`.
  void run(common_json& node) {
    for_each_schema(node, [&](common_json& one) {
      const bool is_here = one.contains("allOf") && one.at("allOf").is_array();
      if (is_here && !is_reference(one) && refusal_.empty()) merge(one);
    });
  }

  /// Why it is not done; empty: it is.
  [[nodiscard]] const std::string& refusal() const { return refusal_; }
  /// Whether there was any.
  [[nodiscard]] bool found() const { return found_; }

 private:
  struct Target {
    const common_json* given = nullptr;  // null: nothing is there
    std::optional<common_json> merged;
    bool is_open = false;  // being merged
  };

  void refuse(std::string why, std::size_t nothing_at = 0) {
    if (!refusal_.empty()) return;
    refusal_ = std::move(why);
    nothing_at_ = nothing_at;
  }

  /// Nothing is all that its parts say together.
  void refuse_all(std::string why) { refuse(std::move(why), depth_); }

  void spend(std::size_t steps) {
    steps_ += steps;
    if (steps_ > kAllOfStepsMax) refuse(fmt::format("it takes more than {} steps", kAllOfStepsMax));
  }

  // NOLINTNEXTLINE(misc-no-recursion): as deep as check_schema() lets schemas nest
  void spend_values(const common_json& node) {
    spend(node.is_string() ? 1 + node.get<std::string>().size() / 64 : 1);
    if (!node.is_object() && !node.is_array()) return;
    for (const common_json& one : node) {
      if (refusal_.empty()) spend_values(one);
    }
  }

  void merge(common_json& node) {
    found_ = true;
    std::vector<common_json> parts;
    for (common_json& part : node.at("allOf")) {
      if (part == true) continue;
      if (!part.is_object()) return refuse("a part is not an object");
      parts.push_back(std::move(part));
    }
    node.erase("allOf");
    parts.push_back(std::move(node));  // last: what it tells goes before what they do
    node = all_of(std::move(parts));
  }

  /// What all of `parts` say together, and what they tell (title, description).
  // NOLINTNEXTLINE(misc-no-recursion): united() stops it
  common_json all_of(std::vector<common_json> parts) {
    common_json made = common_json::object();
    for (common_json& part : parts) {
      for (const auto& [key, value] : part.items()) {
        if (!narrows(key) && key != "$ref") made[key] = std::move(value);
      }
    }
    std::erase_if(parts, [&](const common_json& part) { return says_nothing(part); });
    drop_implied_types(parts);
    if (parts.empty() || !refusal_.empty()) return made;
    common_json merged = parts.size() == 1 ? std::move(parts[0]) : united(parts);
    for (const auto& [key, value] : merged.items()) {
      if (narrows(key) || key == "$ref") made[key] = std::move(value);
    }
    return made;
  }

  bool says_nothing(const common_json& part) {
    const common_json* node = end_of(part);
    return node != nullptr && node->is_object() && !node->contains("$ref") &&
           count_narrowing(*node) == 0;
  }

  /// A type says nothing beside what is of that type anyway, as references to it are.
  void drop_implied_types(std::vector<common_json>& parts) {
    for (std::size_t i = 0; i < parts.size();) {
      bool implied = false;
      if (parts[i].contains("type") && !is_reference(parts[i]) && count_narrowing(parts[i]) == 1) {
        for (std::size_t j = 0; j < parts.size() && !implied; ++j) {
          implied = j != i && is_of_type(parts[j], parts[i].at("type"));
        }
      }
      if (implied) {
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
  }

  /// Whether all that llama.cpp would allow by `part` is of one of the types.
  // NOLINTNEXTLINE(misc-no-recursion): references and unions do not lead back to themselves
  bool is_of_type(const common_json& part, const common_json& types) {
    spend(1);
    const common_json* node = end_of(part);
    if (node == nullptr || !node->is_object() || !refusal_.empty()) return false;
    for (const char* key : {"oneOf", "anyOf"}) {
      if (!node->contains(key)) continue;
      return all_in(node->at(key), [&](const common_json& one) { return is_of_type(one, types); });
    }
    const auto is_value = [&](const common_json& one) { return have_type(types, json_type(one)); };
    if (node->contains("const")) return is_value(node->at("const"));
    if (node->contains("enum")) {
      spend(node->at("enum").size());
      return all_in(node->at("enum"), is_value);
    }
    if (node->contains("type")) {
      return all_in(node->at("type"), [&](const common_json& one) {
        return one.is_string() && have_type(types, one.get<std::string>());
      });
    }
    if (node->contains("properties")) return have_type(types, "object");
    if (node->contains("allOf")) {
      return any_in(node->at("allOf"),
                    [&](const common_json& one) { return is_of_type(one, types); });
    }
    return (node->contains("items") || node->contains("prefixItems")) && have_type(types, "array");
  }

  // NOLINTNEXTLINE(misc-no-recursion): kConstraintDepthMax deep
  common_json united(const std::vector<common_json>& parts) {
    common_json into = common_json::object();
    if (depth_ == kConstraintDepthMax) refuse("what it joins is too deep");
    ++depth_;
    for (const common_json& part : parts) {
      const common_json* from = &part;
      // What is merged may have become a reference.
      while (from != nullptr && is_reference(*from)) from = merged_target(from->at("$ref"));
      if (!refusal_.empty()) break;
      if (!from->is_object() || from->contains("$ref")) {
        refuse("a part is no schema");
      } else {
        unite(into, *from);
      }
    }
    if (refusal_.empty()) settle_values(into);
    if (refusal_.empty()) settle_alternatives(into);
    --depth_;
    return into;
  }

  // NOLINTNEXTLINE(misc-no-recursion): united() stops it
  void unite(common_json& into, const common_json& from) {
    spend_values(from);
    const auto one_of_two = [](const common_json& node) {
      return node.contains("items") != node.contains("prefixItems");
    };
    if (one_of_two(into) && one_of_two(from) && into.contains("items") != from.contains("items")) {
      return refuse("one part has items and another one prefixItems");
    }
    check_names(into, from);
    check_names(from, into);
    for (const auto& [key, value] : from.items()) {
      if (!refusal_.empty()) return;
      if (!narrows(key)) continue;
      if (into.contains(key)) {
        narrow(key, into.at(key), value);
      } else {
        into[key] = value;
      }
    }
  }

  /// `mine` and `value` are what two parts say by one keyword.
  // NOLINTNEXTLINE(misc-no-recursion): united() stops it
  void narrow(const std::string& key, common_json& mine, const common_json& value) {
    if (mine == value) return;
    if (key == "properties" && mine.is_object() && value.is_object()) {
      unite_properties(mine, value);
    } else if (key == "required" && mine.is_array() && value.is_array()) {
      std::set<std::string> names;
      for (const common_json& name : mine) names.insert(name.dump());
      for (const common_json& name : value) {
        if (names.insert(name.dump()).second) mine.push_back(name);
      }
    } else if (key == "type") {
      mine = common_types(mine, value);
    } else if (key == "enum" && mine.is_array() && value.is_array()) {
      std::set<std::string> values;
      for (const common_json& one : value) values.insert(one.dump());
      keep(mine, [&](const common_json& one) { return values.contains(one.dump()); });
    } else if (key == "const") {
      refuse_all("its parts have no value in common");
    } else if (key == "additionalProperties" && (is_open(mine) || value == false)) {
      mine = value;
    } else if (key != "additionalProperties" || !(is_open(value) || mine == false)) {
      refuse(fmt::format("its parts do not agree about \"{}\"", key));
    }
  }

  // NOLINTNEXTLINE(misc-no-recursion): united() stops it
  void unite_properties(common_json& mine, const common_json& from) {
    spend(mine.size() * from.size() / 100);  // names are looked up one by one
    for (const auto& [name, value] : from.items()) {
      if (!refusal_.empty()) return;
      if (!mine.contains(name)) {
        mine[name] = value;
      } else if (common_json& known = mine.at(name); known != value) {
        if (!known.is_object() || !value.is_object()) return refuse("a property has no schema");
        known = all_of({known, value});
      }
    }
  }

  common_json common_types(const common_json& a, const common_json& b) {
    common_json both = common_json::array();
    std::set<std::string> added;
    for (const auto& [types, others] : {std::pair{&a, &b}, std::pair{&b, &a}}) {
      for (const common_json& one : *types) {
        if (!one.is_string() || !have_type(*others, one.get<std::string>())) continue;
        if (added.insert(one.get<std::string>()).second) both.push_back(one);
      }
    }
    if (both.empty()) refuse_all("its parts have no type in common");
    return both.size() == 1 ? common_json(both.front()) : both;
  }

  template <class Stays>
  void keep(common_json& values, const Stays& stays) {
    common_json kept = common_json::array();
    for (const common_json& one : values) {
      if (stays(one)) kept.push_back(one);
    }
    if (kept.empty()) refuse_all("its parts have no value in common");
    values = std::move(kept);
  }

  /// Of an additionalProperties: whether it allows any.
  static bool is_open(const common_json& additional) {
    return additional == true || (additional.is_object() && count_narrowing(additional) == 0 &&
                                  !is_reference(additional));
  }

  /// What one part demands of all properties but those it names is not demanded of others' in one
  /// node.
  void check_names(const common_json& node, const common_json& other) {
    if (!node.contains("additionalProperties") || !other.contains("properties")) return;
    const common_json& additional = node.at("additionalProperties");
    if (!additional.is_object() || is_open(additional)) return;
    if (node.contains("properties")) {
      spend(node.at("properties").size() * other.at("properties").size() / 100);
    }
    for (const auto& [name, value] : other.at("properties").items()) {
      if (!node.contains("properties") || !node.at("properties").contains(name)) {
        return refuse("a part has a schema for other properties, and another one names some");
      }
    }
  }

  /// Says in each alternative what stands beside all of them: llama.cpp passes over that.
  // NOLINTNEXTLINE(misc-no-recursion): united() stops it
  void settle_alternatives(common_json& node) {
    for (const char* key : {"oneOf", "anyOf"}) {
      if (!node.contains(key) || count_narrowing(node) == 1) continue;
      const common_json alternatives = node.at(key);
      node.erase(key);
      common_json made = common_json::array();
      for (const common_json& one : alternatives) {
        if (!one.is_object()) return refuse("an alternative is no schema");
        spend_values(node);  // each alternative has a copy of it
        spend_values(one);
        if (!refusal_.empty()) return;
        common_json both = all_of({node, one});
        const bool is_possible = refusal_.empty();
        if (!is_possible && nothing_at_ != depth_ + 1) return;
        refusal_.clear();
        if (is_possible) made.push_back(std::move(both));
      }
      if (made.empty()) return refuse_all("none of its alternatives is possible");
      node = common_json::object();
      node["anyOf"] = std::move(made);
    }
  }

  /// llama.cpp enforces nothing beside values.
  void settle_values(common_json& node) {
    const bool has_const = node.contains("const");
    const bool has_enum = node.contains("enum");
    if (!has_const && !has_enum) return;
    for (const auto& [key, value] : node.items()) {
      const bool settled = key == "const" || key == "enum" || key == "type";
      if (narrows(key) && !settled && key != "anyOf" && key != "oneOf") {
        return refuse(fmt::format("\"{}\" stands beside an enum or const", key));
      }
    }
    if (has_enum && !node.at("enum").is_array()) return refuse("an enum is not a list");
    common_json values = has_enum ? node.at("enum") : common_json::array();
    if (!has_enum) values.push_back(node.at("const"));
    keep(values, [&](const common_json& one) {
      return (!has_const || one == node.at("const")) &&
             (!node.contains("type") || have_type(node.at("type"), json_type(one)));
    });
    if (has_const) {
      node.erase("enum");
    } else {
      node["enum"] = std::move(values);
    }
  }

  /// What stands at the end of references as it was given; null: nothing.
  const common_json* end_of(const common_json& node) {
    return is_reference(node) ? target(node.at("$ref"), 0).given : &node;
  }

  // NOLINTNEXTLINE(misc-no-recursion): kRefChainMax deep
  Target& target(const std::string& ref, std::size_t depth) {
    const auto [entry, is_new] = targets_.try_emplace(ref);
    Target& found = entry->second;
    if (!is_new) return found;
    const common_json* given = resolve(*root_, ref);
    if (given != nullptr && is_reference(*given)) {
      given = depth < kRefChainMax ? target(given->at("$ref"), depth + 1).given : nullptr;
    }
    found.given = given;
    return found;
  }

  /// The same with its allOfs merged. Null if refused.
  // NOLINTNEXTLINE(misc-no-recursion): is_open stops it, and check_schema() bounds levels in $refs
  const common_json* merged_target(const std::string& ref) {
    Target& found = target(ref, 0);
    if (found.merged) return &*found.merged;
    if (found.given == nullptr) refuse(fmt::format("the $ref {} names nothing", ref));
    if (found.is_open) refuse(fmt::format("it is part of what its $ref {} names", ref));
    if (!refusal_.empty()) return nullptr;
    spend_values(*found.given);
    found.is_open = true;
    common_json copy = *found.given;
    run(copy);
    found.is_open = false;
    found.merged = std::move(copy);
    return &*found.merged;
  }

  const common_json* root_;
  std::map<std::string, Target> targets_;  // by reference
  std::string refusal_;
  std::size_t steps_ = 0;
  std::size_t depth_ = 0;
  std::size_t nothing_at_ = 0;  // the depth at which nothing is possible, if that is the refusal
  bool found_ = false;
};

}  // namespace

Result<std::string> with_merged_all_of(std::string_view schema, std::string_view param) {
  std::string text(schema);
  if (!may_have(schema, "allOf")) return text;
  const auto cannot = [&](std::string_view why) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: an allOf cannot be enforced: {}", param, why), std::string(param));
  };
  try {
    common_json root = common_json::parse(text);
    // References into an allOf would lead nowhere.
    std::size_t count = 0;
    define_targets(root, false, [&](std::string_view ref) {
      return ref.find("/allOf/") == std::string_view::npos ? "" : fmt::format("part{}", count++);
    });
    const common_json given = root;
    AllOfMerge merge(given);
    merge.run(root);
    if (!merge.refusal().empty()) return cannot(merge.refusal());
    return merge.found() ? root.dump() : text;
  } catch (const std::exception& problem) {
    return cannot(problem.what());
  }
}

}  // namespace penstock::text
