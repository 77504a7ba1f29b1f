#include "text/schema_refs.h"

#include <fmt/format.h>
#include <json.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <exception>
#include <functional>
#include <utility>

#include "text/constraint_limits.h"

namespace penstock::text {
namespace {

constexpr std::array<std::string_view, 2> kContainers = {"$defs", "definitions"};

constexpr std::string_view kRef = "\"$ref\"";

bool is_container(std::string_view name) {
  return std::ranges::find(kContainers, name) != kContainers.end();
}

/// Of a reference that begins with "#/".
std::string_view first_name(std::string_view ref) {
  ref.remove_prefix(2);
  return ref.substr(0, ref.find('/'));
}

using Visit = std::function<void(common_json& node)>;

/// Calls `visit` for each schema in `node`, wherever one may stand, after those within it. `named`:
/// its fields are schemas, whatever their names. As deep as check_schema() lets schemas nest.
/// NOLINTNEXTLINE(misc-no-recursion)
void for_each_schema(common_json& node, const Visit& visit, bool named = false) {
  if (node.is_array()) {
    for (common_json& one : node) for_each_schema(one, visit);
  }
  if (!node.is_object()) return;
  for (const auto& [key, value] : node.items()) {
    const bool is_value = key == "const" || key == "enum" || key == "default" || key == "examples";
    if (is_value && !named) continue;
    const bool names = key == "properties" || key == "patternProperties" ||
                       key == "dependentSchemas" || is_container(key);
    for_each_schema(value, visit, names && !named);
  }
  if (!named) visit(node);
}

void for_each_ref(common_json& root, const Visit& visit) {
  for_each_schema(root, [&](common_json& node) {
    if (node.contains("$ref") && node.at("$ref").is_string()) visit(node.at("$ref"));
  });
}

/// As `schema` is, or as `change` leaves it, if it has `keyword`.
template <class Change>
std::string changed(std::string_view schema, std::string_view keyword, const Change& change) {
  std::string text(schema);
  if (schema.find(keyword) == std::string_view::npos) return text;
  try {
    common_json root = common_json::parse(text);
    return change(root) ? root.dump() : text;
  } catch (const std::exception&) {
    return text;  // llama.cpp will say what is wrong with it
  }
}

/// Moves references of `root` that lead elsewhere than into one of its containers to a copy of the
/// root among its definitions, which is made if there are any. `all`: not only {"$ref": "#"}.
bool name_root(common_json& root, bool all) {
  std::string name = "root";
  while (root.contains("$defs") && root.at("$defs").contains(name)) name += 'x';
  bool is_needed = false;
  for_each_ref(root, [&](common_json& ref) {
    const auto text = ref.get<std::string>();
    const bool elsewhere = text.starts_with("#/") && !is_container(first_name(text));
    if (text != "#" && (!all || !elsewhere)) return;
    ref = fmt::format("#/$defs/{}{}", name, text.substr(1));
    is_needed = true;
  });
  if (!is_needed) return false;
  common_json copy = common_json::object();
  for (const auto& [key, value] : root.items()) {
    if (!is_container(key)) copy[key] = value;
  }
  if (!root.contains("$defs")) root["$defs"] = common_json::object();
  root["$defs"][name] = std::move(copy);
  return true;
}

}  // namespace

const common_json* resolve(const common_json& root, std::string_view ref) {
  if (!ref.starts_with('#')) return nullptr;
  ref.remove_prefix(1);
  const common_json* at = &root;
  while (!ref.empty()) {
    if (ref[0] != '/') return nullptr;
    ref.remove_prefix(1);
    const std::string name(ref.substr(0, ref.find('/')));
    ref.remove_prefix(name.size());
    std::size_t index = 0;
    if (at->is_object() && at->contains(name)) {
      at = &at->at(name);
    } else if (at->is_array() &&
               std::from_chars(name.data(), name.data() + name.size(), index).ec == std::errc{} &&
               index < at->size()) {
      at = &at->at(index);
    } else {
      return nullptr;
    }
  }
  return at;
}

bool narrows(std::string_view keyword) {
  const auto is_one_of = [&](auto... names) { return ((keyword == names) || ...); };
  return is_one_of("type", "enum", "const", "properties", "required", "additionalProperties",
                   "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength",
                   "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
                   "exclusiveMaximum", "anyOf", "oneOf", "allOf");
}

std::string with_plain_root(std::string_view schema) {
  return changed(schema, kRef, [](common_json& given) {
    const common_json* root = &given;
    for (std::size_t i = 0; i < kRefChainMax && root->contains("$ref"); ++i) {
      const common_json& ref = root->at("$ref");
      root = ref.is_string() ? resolve(given, ref.get<std::string>()) : nullptr;
      if (root == nullptr || !root->is_object()) return false;
    }
    if (root == &given || root->contains("$ref")) return false;
    common_json plain = *root;
    for (const auto& [name, value] : given.items()) {
      // Definitions stay where other references look for them.
      if (is_container(name)) {
        plain[name] = value;
      } else if (name != "$ref" && !narrows(name) && !plain.contains(name)) {
        plain[name] = value;
      }
    }
    given = std::move(plain);
    return true;
  });
}

std::string with_named_root(std::string_view schema) {
  return changed(schema, kRef, [](common_json& root) { return name_root(root, false); });
}

std::string with_distinct_refs(std::string_view schema, std::string_view suffix) {
  return changed(schema, kRef, [&](common_json& root) {
    name_root(root, true);
    std::map<std::string, std::string, std::less<>> names;  // "#/$defs/Old" to "#/$defs/New"
    for (const std::string_view container : kContainers) {
      const std::string key(container);
      if (!root.contains(key) || !root.at(key).is_object()) continue;
      common_json renamed = common_json::object();
      for (const auto& [name, value] : root.at(key).items()) {
        const std::string made = fmt::format("{}{}{}", name, suffix, names.size());
        names[fmt::format("#/{}/{}", key, name)] = fmt::format("#/{}/{}", key, made);
        renamed[made] = value;
      }
      root[key] = std::move(renamed);
    }
    for_each_ref(root, [&](common_json& ref) {
      const auto text = ref.get<std::string>();
      const std::size_t container = std::min(text.find('/', 2), text.size());
      const std::size_t end = std::min(text.find('/', container + 1), text.size());
      const auto found = names.find(text.substr(0, end));
      if (found != names.end()) ref = found->second + text.substr(end);
    });
    return true;
  });
}

namespace {

/// Whether llama.cpp finds properties in `part`, when it puts those of an allOf's parts together.
bool has_properties(const common_json& root, const common_json& part) {
  const common_json* at = &part;
  for (std::size_t i = 0; i < kRefChainMax && at->is_object() && at->contains("$ref"); ++i) {
    const common_json& ref = at->at("$ref");
    at = ref.is_string() ? resolve(root, ref.get<std::string>()) : nullptr;
    if (at == nullptr) return false;
  }
  if (!at->is_object()) return false;
  return at->contains("properties") || at->contains("anyOf") || at->contains("oneOf");
}

/// An allOf of one part that stands alone is that part.
bool unwrap_all_of(common_json& node) {
  const common_json part = node.at("allOf").front();
  if (node.at("allOf").size() != 1 || !part.is_object()) return false;
  for (const auto& [key, value] : node.items()) {
    if (narrows(key) && key != "allOf" && key != "type") return false;
  }
  node.erase("allOf");
  for (const auto& [key, value] : part.items()) {
    const bool says_more = key == "type" && !value.is_array();  // than a list of types does
    if (!node.contains(key) || says_more) node[key] = value;
  }
  return true;
}

/// Properties beside an allOf become one more of its parts: llama.cpp would see them alone.
bool move_properties(const common_json& root, common_json& node) {
  bool adds = false;
  for (const common_json& part : node.at("allOf")) adds = adds || has_properties(root, part);
  if (!adds || !node.contains("properties")) return false;
  common_json part = common_json::object();
  part["type"] = "object";
  for (const char* key : {"properties", "required", "additionalProperties"}) {
    if (!node.contains(key)) continue;
    part[key] = node.at(key);
    node.erase(key);
  }
  node["allOf"].push_back(part);
  return true;
}

}  // namespace

std::string with_plain_all_of(std::string_view schema) {
  return changed(schema, "\"allOf\"", [](common_json& root) {
    const common_json given = root;
    bool changes = false;
    for_each_schema(root, [&](common_json& node) {
      if (!node.contains("allOf") || !node.at("allOf").is_array() || node.at("allOf").empty()) {
        return;
      }
      if (unwrap_all_of(node) || move_properties(given, node)) changes = true;
    });
    return changes;
  });
}

RefRules::Rules RefRules::of(std::string_view schema) {
  std::map<std::string, std::size_t> found;  // by reference
  changed(schema, kRef, [&](common_json& root) {
    for_each_ref(root, [&](common_json& ref) {
      const auto text = ref.get<std::string>();
      if (found.contains(text)) return;
      const common_json* target = resolve(root, text);
      found[text] = target == nullptr ? 0 : std::hash<std::string>()(target->dump());
    });
    return false;
  });
  Rules rules;
  for (const auto& [ref, content] : found) {
    Rule& rule = rules.emplace_back("ref", content);
    for (const char c : std::string_view(ref).substr(std::min<std::size_t>(1, ref.size()))) {
      const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0;
      if (plain || c == '-') {
        rule.name += c;
      } else if (rule.name.back() != '-') {
        rule.name += '-';
      }
    }
  }
  return rules;
}

bool RefRules::add(std::span<const Rule> rules) {
  std::vector<std::string_view> added;
  for (const Rule& rule : rules) {
    const auto [known, is_new] = rules_.emplace(rule.name, rule.content);
    if (is_new) added.push_back(rule.name);
    if (known->second == rule.content && (!is_new || !overlaps(rule.name))) continue;
    for (const std::string_view name : added) rules_.erase(rules_.find(name));
    return false;
  }
  return true;
}

bool RefRules::overlaps(const std::string& name) const {
  const auto within = rules_.lower_bound(name + '-');
  if (within != rules_.end() && within->first.starts_with(name + '-')) return true;
  for (std::size_t end = name.find('-'); end != std::string::npos; end = name.find('-', end + 1)) {
    if (rules_.contains(std::string_view(name).substr(0, end))) return true;
  }
  return false;
}

}  // namespace penstock::text
