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

  /// Found as llama.cpp finds it: names between slashes, nothing unescaped.
  [[nodiscard]] std::optional<Element> of(std::string_view ref) { return target(ref, 0).first; }

  /// What `node` is once references are followed, over kRefChainMax others at most; itself where
  /// they lead nowhere.
  [[nodiscard]] Element end_of(Element node);

 private:
  struct Target {
    std::optional<Element> first;
    std::optional<Element> end;
  };
  const Target& target(std::string_view ref, std::size_t depth);
  [[nodiscard]] std::optional<Element> resolve(std::string_view ref) const;

  Element root_;
  std::map<std::string_view, Target> known_;
};

}  // namespace penstock::text
