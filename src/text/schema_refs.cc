#include "text/schema_refs.h"

#include <fmt/format.h>
#include <json.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <exception>
#include <functional>
#include <utility>

#include "text/constraint_limits.h"
#include "text/internal/schema_walk.h"

namespace penstock::text {
namespace {

bool is_plain(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

/// As `schema` is, or as `change` leaves it, if it has references.
template <class Change>
std::string changed(std::string_view schema, const Change& change) {
  std::string text(schema);
  if (!may_have(schema, "$ref")) return text;
  try {
    common_json root = common_json::parse(text);
    return change(root) ? root.dump() : text;
  } catch (const std::exception&) {
    return text;  // llama.cpp will say what is wrong with it
  }
}

}  // namespace

std::optional<std::size_t> index_in(std::string_view name) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool plain = std::ranges::all_of(name, is_digit) && (name.size() == 1 || name[0] != '0');
  std::size_t index = 0;
  if (name.empty() || !plain) return std::nullopt;
  if (std::from_chars(name.data(), name.data() + name.size(), index).ec != std::errc{})
    return std::nullopt;
  return index;
}

const common_json* resolve(const common_json& root, std::string_view ref) {
  if (!ref.starts_with('#')) return nullptr;
  ref.remove_prefix(1);
  const common_json* at = &root;
  bool named = false;  // its fields are schemas, whatever their names
  while (!ref.empty()) {
    if (ref[0] != '/') return nullptr;
    ref.remove_prefix(1);
    const std::string name(ref.substr(0, ref.find('/')));
    ref.remove_prefix(name.size());
    if (at->is_object() && at->contains(name)) {
      if (!named && holds_value(name)) return nullptr;
      named = !named && holds_names(name);
      at = &at->at(name);
      continue;
    }
    const std::optional<std::size_t> index = at->is_array() ? index_in(name) : std::nullopt;
    if (!index || *index >= at->size()) return nullptr;
    at = &at->at(*index);
    named = false;
  }
  return named ? nullptr : at;
}

bool narrows(std::string_view keyword) {
  const auto is_one_of = [&](auto... names) { return ((keyword == names) || ...); };
  return is_one_of("type", "enum", "const", "properties", "required", "additionalProperties",
                   "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength",
                   "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
                   "exclusiveMaximum", "anyOf", "oneOf", "allOf");
}

std::string with_plain_root(std::string_view schema) {
  return changed(schema, [](common_json& given) {
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
      if (holds_definitions(name)) {
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
  return changed(schema, [](common_json& root) {
    return define_targets(
        root, false, [](std::string_view ref) { return std::string(ref == "#" ? "root" : ""); });
  });
}

std::string with_distinct_refs(std::string_view schema, std::string_view mark) {
  return changed(schema, [&](common_json& root) {
    std::size_t count = 0;
    return define_targets(root, true, [&](std::string_view ref) {
      std::string name;
      for (const char c : ref.substr(ref.rfind('/') + 1)) {
        if (is_plain(c)) name += c;
      }
      return fmt::format("{}{}{}", name, mark, count++);
    });
  });
}

RefRules::Rules RefRules::of(std::string_view schema) {
  std::map<std::string, std::size_t> found;  // by reference
  changed(schema, [&](common_json& root) {
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
    bool replaced = false;  // the character before
    for (const char c : std::string_view(ref).substr(std::min<std::size_t>(1, ref.size()))) {
      const bool stays = is_plain(c) || c == '-';
      if (stays || !replaced) rule.name += stays ? c : '-';
      replaced = !stays;
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
