#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace penstock::text {

/// A grammar as llama.cpp holds it: groups and repetitions are rules of their own, and every
/// alternative is a run of elements that ends with kEnd. Approximate where the exact would be
/// large: more than kCopies repetitions are any number of them. A value; const access from any
/// thread.
struct GbnfRules {
  struct Element {
    enum class Kind : std::uint8_t { kEnd, kSet, kRule } kind = Kind::kEnd;
    std::uint32_t value = 0;  // index in sets; rule
  };
  /// Characters: those below 128 exactly, the others by the stretches that the grammar's classes
  /// cut them into (exactly, up to 128 stretches). Sets that share a character share a bit.
  using Set = std::bitset<256>;
  using Alternatives = std::vector<std::uint32_t>;  // where each begins in `elements`
  static constexpr std::size_t kCopies = 8;

  std::vector<Element> elements;
  std::vector<Set> sets;
  std::vector<Alternatives> rules;
  std::vector<bool> may_be_empty;  // of each rule
};

/// Reads GBNF. Lenient: text that it cannot read is left to llama.cpp's parser, which refuses it.
/// Fails with kInvalidArgument where groups nest too deep, or too much is repeated, or there are
/// too many rules; `param` is the field to name. Time: linear in the text.
[[nodiscard]] Result<GbnfRules> read_gbnf(std::string_view gbnf, std::string_view param);

}  // namespace penstock::text
