#include "text/internal/schema_walk.h"

#include <json.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "text/schema_refs.h"

namespace penstock::text {
namespace {

constexpr std::array kDefinitions = {"$defs", "definitions"};

// NOLINTNEXTLINE(misc-no-recursion)
void walk(common_json& node, const VisitNode& visit, bool named) {
  if (node.is_array()) {
    for (common_json& one : node) walk(one, visit, false);
  }
  if (!node.is_object()) return;
  for (const auto& [key, value] : node.items()) {
    if (named || !holds_value(key)) walk(value, visit, !named && holds_names(key));
  }
  if (!named) visit(node);
}

}  // namespace

bool may_have(std::string_view json, std::string_view name) {
  // It may be spelled with escapes.
  return json.find(name) != std::string_view::npos || json.find("\\u") != std::string_view::npos;
}

bool holds_value(std::string_view keyword) {
  return keyword == "const" || keyword == "enum" || keyword == "default" || keyword == "examples";
}

bool holds_names(std::string_view keyword) {
  return keyword == "properties" || keyword == "patternProperties" ||
         keyword == "dependentSchemas" || holds_definitions(keyword);
}

bool holds_definitions(std::string_view keyword) {
  return std::ranges::find(kDefinitions, keyword) != kDefinitions.end();
}

void for_each_schema(common_json& node, const VisitNode& visit) { walk(node, visit, false); }

void for_each_ref(common_json& root, const VisitNode& visit) {
  for_each_schema(root, [&](common_json& node) {
    if (node.contains("$ref") && node.at("$ref").is_string()) visit(node.at("$ref"));
  });
}

bool define_targets(common_json& root, bool alone,
                    const std::function<std::string(std::string_view ref)>& name_of) {
  std::map<std::string, std::string> names;  // of references; "" keeps its own
  std::set<std::string> taken;
  if (!alone && root.contains("$defs")) {
    for (const auto& [name, value] : root.at("$defs").items()) taken.insert(name);
  }
  for_each_ref(root, [&](common_json& ref) {
    const auto text = ref.get<std::string>();
    const auto [known, is_new] = names.try_emplace(text);
    if (!is_new || resolve(root, text) == nullptr) return;
    std::string& name = known->second;
    name = name_of(text);
    while (!name.empty() && !taken.insert(name).second) name += 'x';
  });
  std::erase_if(names, [](const auto& one) { return one.second.empty(); });
  if (names.empty()) return false;
  for_each_ref(root, [&](common_json& ref) {
    const auto named = names.find(ref.get<std::string>());
    if (named != names.end()) ref = "#/$defs/" + named->second;
  });
  common_json made = common_json::object();
  if (!alone && root.contains("$defs")) made = root.at("$defs");
  for (const auto& [ref, name] : names) {
    common_json target = *resolve(root, ref);
    if (ref == "#") {
      for (const char* key : kDefinitions) target.erase(key);
    }
    made[name] = std::move(target);
  }
  if (alone) {
    for (const char* key : kDefinitions) root.erase(key);
  }
  root["$defs"] = std::move(made);
  return true;
}

}  // namespace penstock::text
