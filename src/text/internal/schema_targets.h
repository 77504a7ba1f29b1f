#pragma once

#include <simdjson.h>

#include <cstddef>
#include <map>
#include <optional>
#include <string_view>

namespace penstock::text {

/// What the references of a parsed schema name, each looked up once. One thread; lives no longer
/// than the schema.
class SchemaTargets {
 public:
  using Element = simdjson::dom::element;

  explicit SchemaTargets(Element root) : root_(root) {}

  /// Found as resolve() in schema_refs.h finds it.
  [[nodiscard]] std::optional<Element> of(std::string_view ref) { return target(ref, 0).first; }

  /// Whether llama.cpp may find what of() does not.
  [[nodiscard]] bool is_unclear(std::string_view ref) { return target(ref, 0).is_unclear; }

  /// What `node` is once references are followed, over kRefChainMax others at most; itself where
  /// they lead nowhere.
  [[nodiscard]] Element end_of(Element node);

 private:
  struct Target {
    std::optional<Element> first;
    std::optional<Element> end;
    bool is_unclear = false;
  };
  const Target& target(std::string_view ref, std::size_t depth);
  void resolve(std::string_view ref, Target& found) const;

  Element root_;
  std::map<std::string_view, Target> known_;
};

}  // namespace penstock::text
