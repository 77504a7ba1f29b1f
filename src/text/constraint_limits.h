#pragma once

#include <cstddef>
#include <string_view>

#include "base/result.h"

/// llama.cpp takes any grammar or schema it is given: it recurses as deep as they nest, copies what
/// they repeat, follows leftmost rules once a path (2^n paths for n rules), turns optional
/// properties into rules in cubic time, and tries every token on every alternative that is open.
/// What clients send is checked here first, so that none of that can hold a thread or the process.
/// Costs time linear in the text, but for a search that is itself bounded. Any thread.
namespace penstock::text {

inline constexpr std::size_t kConstraintBytesMax = 128 << 10;
inline constexpr std::size_t kConstraintDepthMax = 64;        // of groups, of JSON, of patterns
inline constexpr std::size_t kRepeatedElementsMax = 200'000;  // characters times their repetitions
inline constexpr std::size_t kRulesMax = 6000;
inline constexpr std::size_t kGroupsMax =
    100'000;  // with the rules and repetitions: rules to llama
inline constexpr std::size_t kLeftmostPathsMax = 50'000;  // about a millisecond to follow

// Of grammars, while tokens are drawn.
/// Alternatives open at one place. Each token of the vocabulary is tried on each of them at each
/// step: 500 times 150,000 tokens are a few tenths of a second. (Values of an enum count by what
/// they begin with: see literal_choice.h.)
inline constexpr std::size_t kOpenAlternativesMax = 500;
/// Stacks that one text can lead to. llama.cpp carries each of them on by itself, and never merges
/// those that came to the same rule in different ways, so they multiply.
inline constexpr std::size_t kStacksMax = 1000;
/// Ways to read one token, which llama.cpp follows one by one each time it tries that token.
inline constexpr std::size_t kTokenPathsMax = 20'000;
inline constexpr std::size_t kRunCharactersMax = 40;   // of a token of one character, as of spaces
inline constexpr std::size_t kWordCharactersMax = 20;  // of any other
/// Steps of the searches for such ways, 20 to 120 ns each. Large schemas take a million.
inline constexpr std::size_t kStackSearchMax = 2'000'000;

// Of all tools of a request together, known from earlier requests or not.
inline constexpr std::size_t kToolSchemasBytesMax = 512 << 10;
inline constexpr std::size_t kToolGrammarsBytesMax = 2 << 20;      // of what the schemas become
inline constexpr std::size_t kToolStepsMax = 2 * kStackSearchMax;  // of Constraint::steps

// Of schemas.
inline constexpr std::size_t kOptionalPropertiesMax = 100;  // of one object
/// The squares of those numbers, summed over all objects: a rule each is made, about 5 us.
inline constexpr std::size_t kOptionalPairsMax = 20'000;
/// Of one object. They are looked up one by one, for each of them.
inline constexpr std::size_t kNamesMax = 2000;
inline constexpr std::size_t kAllOfPartsMax = 100;
/// A name or $ref goes through std::regex and a trie, which take a stack frame a character.
inline constexpr std::size_t kNameBytesMax = 256;
/// All names on the way to a place: llama.cpp joins them to one and does the same with it.
inline constexpr std::size_t kPathBytesMax = 4096;
inline constexpr std::size_t kRefChainMax = 100;    // $refs with no other node between: a call each
inline constexpr std::size_t kRefLevelsMax = 2000;  // of all that $refs name: a few calls each
/// Values of JSON in all that $refs name: llama.cpp reads each once for each different $ref to it.
inline constexpr std::size_t kRefNodesMax = 20'000;
inline constexpr std::size_t kTypesMax = 7;  // JSON Schema knows no more
/// Values of JSON in nodes with lists of types, times those types: llama.cpp copies them.
inline constexpr std::size_t kCopiedNodesMax = 500'000;

/// Fails with kInvalidArgument, naming the limit. What is no GBNF at all may pass: llama.cpp says
/// so. `param`: the field to name, where the grammar was made of a schema. `steps`, unless null:
/// gets those of the searches, of a grammar that passes.
[[nodiscard]] Result<void> check_gbnf(std::string_view gbnf, std::string_view param = "grammar",
                                      std::size_t* steps = nullptr);

/// The same of a JSON schema. `param`: the field to name. `optional_pairs`, unless null: gets what
/// kOptionalPairsMax bounds, of a schema that passes.
[[nodiscard]] Result<void> check_schema(std::string_view schema, std::string_view param,
                                        std::size_t* optional_pairs = nullptr);

}  // namespace penstock::text
