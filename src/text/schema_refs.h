#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// NOLINTNEXTLINE(readability-identifier-naming): llama.cpp's
class common_json;

/// References within a schema (`$ref`, `allOf`), as llama.cpp can follow them. All of these take
/// schemas that have passed check_schema(). Any thread.
namespace penstock::text {

/// The index that one name of a reference stands for in an array: digits alone, without zeros
/// before them. llama.cpp takes more ("00", "0a"), so that one place would have many names.
[[nodiscard]] std::optional<std::size_t> index_in(std::string_view name);

/// What `ref` names in `root`: names between slashes, nothing unescaped; null: it is not there, or
/// no schema (a value, of const, enum, default, examples, or what holds schemas by their names).
[[nodiscard]] const common_json* resolve(const common_json& root, std::string_view ref);

/// Whether the keyword says what llama.cpp allows where it stands. Beside a $ref it has no effect.
[[nodiscard]] bool narrows(std::string_view keyword);

/// A schema whose root is a reference (`{"$ref": "#/$defs/Args", "$defs": {...}}`, as generators
/// write them), with what is referred to in its place; any other as it came. llama.cpp enforces
/// both alike, but what it derives from some templates reads a function's parameters off the root.
[[nodiscard]] std::string with_plain_root(std::string_view schema);

/// The same schema without references to its root (`{"$ref": "#"}`), which llama.cpp does not
/// follow: the root stands among its definitions as well. At most twice as long.
[[nodiscard]] std::string with_named_root(std::string_view schema);

/// The same schema with a definition of its own for each different reference, named after it with
/// `mark` and a number behind. Where marks differ and are letters that end in no digit, none of
/// them can be mistaken for another: they have no "-".
[[nodiscard]] std::string with_distinct_refs(std::string_view schema, std::string_view mark);

/// What references of schemas become in one grammar: llama.cpp names a rule after the reference,
/// with "-" for each character that is not plain, and the rules of what a definition holds after
/// both ("ref-defs-User-name"). If there is a rule of that name it is taken, whose ever it is.
class RefRules {
 public:
  struct Rule {
    std::string name;
    std::size_t content = 0;  // hash of what is referred to
  };
  using Rules = std::vector<Rule>;

  /// Of all references in `schema`.
  [[nodiscard]] static Rules of(std::string_view schema);

  /// False if one of them could be taken for another of them, or for one that was added before.
  /// Then none is added.
  bool add(std::span<const Rule> rules);

 private:
  /// Whether one of the rules may be named after what another one holds.
  [[nodiscard]] bool overlaps(const std::string& name) const;

  std::map<std::string, std::size_t, std::less<>> rules_;  // name to content
};

}  // namespace penstock::text
