#include "text/internal/schema_targets.h"

#include <charconv>
#include <system_error>

#include "text/constraint_limits.h"

namespace penstock::text {

SchemaTargets::Element SchemaTargets::end_of(Element node) {
  std::string_view ref;
  if (node["$ref"].get(ref) != simdjson::SUCCESS) return node;
  return target(ref, 0).end.value_or(node);
}

// NOLINTNEXTLINE(misc-no-recursion): kRefChainMax deep
const SchemaTargets::Target& SchemaTargets::target(std::string_view ref, std::size_t depth) {
  const auto [entry, is_new] = known_.try_emplace(ref);
  Target& found = entry->second;
  if (!is_new) return found;
  found.first = resolve(ref);
  found.end = found.first;  // for those that lead back here
  std::string_view next;
  if (found.first && depth < kRefChainMax &&
      (*found.first)["$ref"].get(next) == simdjson::SUCCESS) {
    found.end = target(next, depth + 1).end;
  }
  return found;
}

std::optional<SchemaTargets::Element> SchemaTargets::resolve(std::string_view ref) const {
  if (!ref.starts_with('#')) return std::nullopt;
  ref.remove_prefix(1);
  Element at = root_;
  while (!ref.empty()) {
    if (ref[0] != '/') return std::nullopt;
    ref.remove_prefix(1);
    const std::string_view name = ref.substr(0, ref.find('/'));
    ref.remove_prefix(name.size());
    simdjson::dom::object object;
    simdjson::dom::array array;
    std::size_t index = 0;
    if (at.get(object) == simdjson::SUCCESS) {
      if (object.at_key(name).get(at) != simdjson::SUCCESS) return std::nullopt;
    } else if (at.get(array) != simdjson::SUCCESS ||
               std::from_chars(name.data(), name.data() + name.size(), index).ec != std::errc{} ||
               array.at(index).get(at) != simdjson::SUCCESS) {
      return std::nullopt;
    }
  }
  return at;
}

}  // namespace penstock::text
