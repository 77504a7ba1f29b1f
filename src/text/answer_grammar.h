#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace penstock::text {

/// Restricts an answer to a language, given as llama.cpp's GBNF. `lazy`: only from the first
/// trigger on.
struct AnswerGrammar {
  struct Trigger {
    enum class Kind : std::uint8_t { kWord, kPattern, kPatternFull };
    Kind kind = Kind::kWord;
    std::string value;
  };
  std::string gbnf;  // empty: unrestricted
  bool lazy = false;
  std::vector<Trigger> triggers;
  std::vector<std::string> preserved_tokens;  // token texts that must stay whole
  bool checked = false;  // of parts that check_gbnf() has passed: nobody else need look
  bool parses = false;   // llama.cpp wrote it: nobody need try
  std::string prefill;   // what the prompt already says of the answer; the grammar starts there
};

}  // namespace penstock::text
