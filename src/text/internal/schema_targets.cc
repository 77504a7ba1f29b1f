#include "text/internal/schema_targets.h"

#include "text/constraint_limits.h"
#include "text/internal/schema_walk.h"
#include "text/schema_refs.h"

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
  resolve(ref, found);
  found.end = found.first;  // for those that lead back here
  std::string_view next;
  if (found.first && depth < kRefChainMax &&
      (*found.first)["$ref"].get(next) == simdjson::SUCCESS) {
    found.end = target(next, depth + 1).end;
  }
  return found;
}

void SchemaTargets::resolve(std::string_view ref, Target& found) const {
  if (!ref.starts_with('#')) return;
  ref.remove_prefix(1);
  Element at = root_;
  bool named = false;  // its fields are schemas, whatever their names
  while (!ref.empty()) {
    if (ref[0] != '/') return;
    ref.remove_prefix(1);
    const std::string_view name = ref.substr(0, ref.find('/'));
    ref.remove_prefix(name.size());
    simdjson::dom::object object;
    simdjson::dom::array array;
    if (at.get(object) == simdjson::SUCCESS) {
      if (object.at_key(name).get(at) != simdjson::SUCCESS) return;
      found.is_unclear = !named && holds_value(name);
      named = !named && holds_names(name);
    } else if (at.get(array) == simdjson::SUCCESS) {
      const std::optional<std::size_t> index = index_in(name);
      found.is_unclear = !index;
      if (!index || array.at(*index).get(at) != simdjson::SUCCESS) return;
      named = false;
    } else {
      return;
    }
    if (found.is_unclear) return;
  }
  found.is_unclear = named;
  if (!named) found.first = at;
}

}  // namespace penstock::text
