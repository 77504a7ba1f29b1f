#include "text/schema_root.h"

#include <chat.h>

#include <cstddef>
#include <exception>

#include "text/constraint_limits.h"

namespace penstock::text {
namespace {

/// What `ref` names, found as llama.cpp finds it; null: it is not there.
const common_json* resolve(const common_json& root, std::string_view ref) {
  if (!ref.starts_with("#/")) return nullptr;
  ref.remove_prefix(2);
  const common_json* at = &root;
  while (true) {
    const std::size_t slash = ref.find('/');
    const std::string name(ref.substr(0, slash));
    if (!at->is_object() || !at->contains(name)) return nullptr;
    at = &at->at(name);
    if (slash == std::string_view::npos) return at;
    ref.remove_prefix(slash + 1);
  }
}

}  // namespace

std::string with_plain_root(std::string_view schema) {
  std::string text(schema);
  if (schema.find("\"$ref\"") == std::string_view::npos) return text;
  try {
    const common_json given = common_json::parse(text);
    const common_json* root = &given;
    for (std::size_t i = 0; i < kRefChainMax && root->contains("$ref"); ++i) {
      const common_json& ref = root->at("$ref");
      root = ref.is_string() ? resolve(given, ref.get<std::string>()) : nullptr;
      if (root == nullptr || !root->is_object()) return text;
    }
    if (root == &given || root->contains("$ref") || given.contains("properties")) return text;
    common_json plain = *root;
    for (const auto& [name, value] : given.items()) {
      // Definitions stay where other references look for them.
      const bool defines = name == "$defs" || name == "definitions";
      if (name != "$ref" && (defines || !plain.contains(name))) plain[name] = value;
    }
    return plain.dump();
  } catch (const std::exception&) {
    return text;  // llama.cpp will say what is wrong with it
  }
}

}  // namespace penstock::text
