#pragma once

#include <llama-cpp.h>

#include <cmath>
#include <string>
#include <string_view>

#include "text/constraint_cache.h"
#include "text/tiny_model.h"

namespace penstock::text {

/// For tests: whether a model may say exactly `text` under `gbnf`, as llama.cpp reads it.
inline bool gbnf_allows(const std::string& gbnf, std::string_view text) {
  static const std::shared_ptr<const ModelFile> model = tiny_model();
  const llama_vocab* vocab = llama_model_get_vocab(model->handle());
  const llama_sampler_ptr grammar(llama_sampler_init_grammar(vocab, gbnf.c_str(), "root"));
  EXPECT_NE(grammar, nullptr) << gbnf;
  if (grammar == nullptr) return false;
  const auto allows = [&](llama_token token) {
    llama_token_data one{.id = token, .logit = 1, .p = 0};
    llama_token_data_array all{.data = &one, .size = 1, .selected = -1, .sorted = false};
    llama_sampler_apply(grammar.get(), &all);
    return !std::isinf(one.logit);
  };
  for (const char c : text) {
    const llama_token byte = static_cast<unsigned char>(c);  // the tiny vocabulary's first 256
    if (!allows(byte)) return false;
    llama_sampler_accept(grammar.get(), byte);
  }
  return allows(llama_vocab_eos(vocab));
}

/// For tests: the grammar that `schema` becomes on the way that requests take.
inline std::string gbnf_of(std::string_view schema) {
  ConstraintCache cache;
  const Result<Constraint> made = cache.find(schema, "x");
  EXPECT_TRUE(made.has_value()) << schema << ": " << made.error().message;
  return made ? std::string(made->gbnf) : "";
}

}  // namespace penstock::text
