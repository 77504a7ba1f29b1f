#include "text/schema_shape.h"

#include <json.h>

#include <algorithm>
#include <exception>
#include <initializer_list>
#include <utility>

#include "text/schema_refs.h"

namespace penstock::text {
namespace {

bool has_any(const common_json& node, std::initializer_list<const char*> names) {
  return std::ranges::any_of(names, [&](const char* name) { return node.contains(name); });
}

std::string type_of_value(const common_json& value) {
  if (value.is_number()) return "number";
  if (value.is_boolean()) return "boolean";
  if (value.is_array()) return "array";
  return value.is_object() ? "object" : "string";
}

/// The first of `types`, which may be alternatives that have theirs, that is not null.
std::string first_type(const common_json& types) {
  for (const common_json& one : types) {
    const bool typed = one.is_object() && one.contains("type") && one.at("type").is_string();
    std::string name;
    if (one.is_string()) name = one.get<std::string>();
    if (typed) name = one.at("type").get<std::string>();
    if (!name.empty() && name != "null") return name;
  }
  return "string";
}

/// What to tell of a node that names no type; those within it have theirs.
std::string type_to_tell(const common_json& node, const common_json& root) {
  if (node.contains("$ref") && node.at("$ref").is_string()) {
    const common_json* target = resolve(root, node.at("$ref").get<std::string>());
    const bool typed = target != nullptr && target->is_object() && target->contains("type") &&
                       target->at("type").is_string();
    return typed ? target->at("type").get<std::string>() : "object";
  }
  if (node.contains("type") && node.at("type").is_array()) return first_type(node.at("type"));
  for (const char* union_of : {"anyOf", "oneOf", "allOf"}) {
    if (node.contains(union_of)) return first_type(node.at(union_of));
  }
  if (node.contains("const")) return type_of_value(node.at("const"));
  if (node.contains("enum") && !node.at("enum").empty()) {
    return type_of_value(node.at("enum").front());
  }
  if (has_any(node, {"items", "prefixItems"})) return "array";
  return node.contains("properties") ? "object" : "string";
}

/// Says of an array what it holds: anything, unless it is said.
void name_items(common_json& node) {
  if (node.at("type").get<std::string>() != "array" || node.contains("items")) return;
  if (node.contains("prefixItems") && !node.contains("anyOf")) {  // which items would overrule
    common_json wrapped = common_json::object();
    wrapped["type"] = "array";
    wrapped["anyOf"] = common_json::array();
    wrapped["anyOf"].push_back(node);
    node = std::move(wrapped);
  }
  node["items"] = common_json::parse(R"({"type":"string","anyOf":[{}]})");
}

// As deep as check_schema() lets schemas nest. NOLINTNEXTLINE(misc-no-recursion)
void name_types(common_json& node, const common_json& root, bool is_root) {
  if (!node.is_object()) return;
  for (const char* key : {"properties", "$defs", "definitions"}) {
    if (!node.contains(key) || !node.at(key).is_object()) continue;
    for (const auto& [name, child] : node.at(key).items()) name_types(child, root, false);
  }
  for (const char* key :
       {"items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties"}) {
    if (!node.contains(key)) continue;
    common_json& child = node.at(key);
    if (child.is_object()) name_types(child, root, false);
    if (!child.is_array()) continue;
    for (common_json& one : child) name_types(one, root, false);
  }
  if (node.contains("type") && node.at("type").is_string()) {
    return name_items(node);
  }
  const std::string type = type_to_tell(node, root);
  const bool passed_over = has_any(node, {"$ref", "anyOf", "oneOf", "const", "enum"}) ||
                           (node.contains("properties") && !node.contains("type"));
  if (passed_over) {
    node["type"] = type;
    return name_items(node);
  }
  if (is_root) return;
  common_json wrapped = common_json::object();
  for (const char* told : {"title", "description", "default"}) {
    if (node.contains(told)) wrapped[told] = node.at(told);
  }
  wrapped["type"] = type;
  wrapped["anyOf"] = common_json::array();
  wrapped["anyOf"].push_back(node);
  node = std::move(wrapped);
  name_items(node);
}

}  // namespace

std::string with_plain_types(std::string_view schema) {
  try {
    const common_json given = common_json::parse(std::string(schema));
    common_json typed = given;
    name_types(typed, given, true);
    return typed.dump();
  } catch (const std::exception&) {
    return std::string(schema);
  }
}

}  // namespace penstock::text
