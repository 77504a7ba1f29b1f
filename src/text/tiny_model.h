#pragma once

#include <ggml.h>
#include <gguf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "text/model_file.h"

/// A random llama with a byte-level vocabulary, written at test time: real code paths without a
/// download. Answers are noise, but the same noise for the same seed.
namespace penstock::text {

inline constexpr int kTinyVocabulary = 259;  // 256 bytes, <|im_start|>, <|im_end|>, <|endoftext|>

namespace tiny {

/// GPT-2's spelling of a byte as a printable character.
inline std::string spell_byte(int byte) {
  static const std::vector<int> code_points = [] {
    std::vector<int> points(256, 0);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      points[static_cast<std::size_t>(b)] = printable ? b : next++;
    }
    return points;
  }();
  const int c = code_points[static_cast<std::size_t>(byte)];
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
}

inline void add_vocabulary(gguf_context* file) {
  std::vector<std::string> tokens;
  for (int b = 0; b < 256; ++b) tokens.push_back(spell_byte(b));
  for (const char* t : {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}) tokens.emplace_back(t);
  std::vector<const char*> pointers;
  std::vector<std::int32_t> types;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    pointers.push_back(tokens[i].c_str());
    types.push_back(i < 256 ? 1 : 3);
  }
  gguf_set_val_str(file, "tokenizer.ggml.model", "gpt2");
  gguf_set_val_str(file, "tokenizer.ggml.pre", "gpt-2");
  gguf_set_arr_str(file, "tokenizer.ggml.tokens", pointers.data(), pointers.size());
  gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
  gguf_set_arr_str(file, "tokenizer.ggml.merges", nullptr, 0);
  gguf_set_val_u32(file, "tokenizer.ggml.bos_token_id", 256);
  gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", 257);
  gguf_set_val_bool(file, "tokenizer.ggml.add_bos_token", false);
}

/// Random weights on their way into a file.
class Weights {
 public:
  Weights(gguf_context* file, std::uint32_t seed) : file_(file), random_(seed) {}
  ~Weights() { ggml_free(ctx_); }
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  /// `rows` 0: a vector. `value`: of all of them.
  void add(const std::string& name, std::int64_t columns, std::int64_t rows,
           std::optional<float> value = {}) {
    ggml_tensor* t = rows == 0 ? ggml_new_tensor_1d(ctx_, GGML_TYPE_F32, columns)
                               : ggml_new_tensor_2d(ctx_, GGML_TYPE_F32, columns, rows);
    ggml_set_name(t, name.c_str());
    std::normal_distribution<float> values(0, 0.25F);
    auto* data = static_cast<float*>(t->data);
    for (std::int64_t i = 0; i < ggml_nelements(t); ++i) {
      data[i] = value ? *value : values(random_);
    }
    gguf_add_tensor(file_, t);
  }

 private:
  gguf_context* file_;
  ggml_context* ctx_ = ggml_init({.mem_size = 16 << 20, .mem_buffer = nullptr, .no_alloc = false});
  std::mt19937 random_;
};

inline void write(const std::string& path, std::uint32_t seed, int pooling_type) {
  constexpr int kEmbd = 64, kFf = 128, kLayers = 2, kHeads = 4, kKvHeads = 2, kContext = 2048;
  gguf_context* file = gguf_init_empty();
  gguf_set_val_str(file, "general.architecture", "llama");
  gguf_set_val_str(file, "general.name", "tiny");
  gguf_set_val_u32(file, "llama.context_length", kContext);
  gguf_set_val_u32(file, "llama.embedding_length", kEmbd);
  gguf_set_val_u32(file, "llama.block_count", kLayers);
  gguf_set_val_u32(file, "llama.feed_forward_length", kFf);
  gguf_set_val_u32(file, "llama.attention.head_count", kHeads);
  gguf_set_val_u32(file, "llama.attention.head_count_kv", kKvHeads);
  gguf_set_val_f32(file, "llama.attention.layer_norm_rms_epsilon", 1e-5F);
  gguf_set_val_u32(file, "llama.rope.dimension_count", kEmbd / kHeads);
  if (pooling_type > 0)
    gguf_set_val_u32(file, "llama.pooling_type", static_cast<std::uint32_t>(pooling_type));
  add_vocabulary(file);
  gguf_set_val_str(file, "tokenizer.chat_template",
                   "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
                   "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
                   "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");

  constexpr int kKvWidth = kEmbd / kHeads * kKvHeads;
  Weights weights(file, seed);
  weights.add("token_embd.weight", kEmbd, kTinyVocabulary);
  for (int l = 0; l < kLayers; ++l) {
    const std::string p = "blk." + std::to_string(l) + ".";
    weights.add(p + "attn_norm.weight", kEmbd, 0, 1);
    weights.add(p + "attn_q.weight", kEmbd, kEmbd);
    weights.add(p + "attn_k.weight", kEmbd, kKvWidth);
    weights.add(p + "attn_v.weight", kEmbd, kKvWidth);
    weights.add(p + "attn_output.weight", kEmbd, kEmbd);
    weights.add(p + "ffn_norm.weight", kEmbd, 0, 1);
    weights.add(p + "ffn_gate.weight", kEmbd, kFf);
    weights.add(p + "ffn_up.weight", kEmbd, kFf);
    weights.add(p + "ffn_down.weight", kFf, kEmbd);
  }
  weights.add("output_norm.weight", kEmbd, 0, 1);
  weights.add("output.weight", kEmbd, kTinyVocabulary);
  EXPECT_TRUE(gguf_write_to_file(file, path.c_str(), false));
  gguf_free(file);
}

/// Of BERT's architecture: it makes embeddings (mean), looks ahead, and cannot generate. 500
/// tokens.
inline void write_bert(const std::string& path) {
  constexpr int kEmbd = 32, kFf = 64, kHeads = 2, kContext = 500;
  gguf_context* file = gguf_init_empty();
  gguf_set_val_str(file, "general.architecture", "bert");
  gguf_set_val_str(file, "general.name", "tiny-bert");
  gguf_set_val_u32(file, "bert.context_length", kContext);
  gguf_set_val_u32(file, "bert.embedding_length", kEmbd);
  gguf_set_val_u32(file, "bert.block_count", 1);
  gguf_set_val_u32(file, "bert.feed_forward_length", kFf);
  gguf_set_val_u32(file, "bert.attention.head_count", kHeads);
  gguf_set_val_f32(file, "bert.attention.layer_norm_epsilon", 1e-5F);
  gguf_set_val_bool(file, "bert.attention.causal", false);
  gguf_set_val_u32(file, "bert.pooling_type", 1);
  gguf_set_val_u32(file, "tokenizer.ggml.token_type_count", 2);
  add_vocabulary(file);
  Weights weights(file, 5);
  weights.add("token_embd.weight", kEmbd, kTinyVocabulary);
  weights.add("token_types.weight", kEmbd, 2);
  weights.add("position_embd.weight", kEmbd, kContext);
  for (const char* norm :
       {"token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"}) {
    weights.add(std::string(norm) + ".weight", kEmbd, 0, 1);
    weights.add(std::string(norm) + ".bias", kEmbd, 0, 0);
  }
  for (const char* matrix : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    weights.add("blk.0." + std::string(matrix) + ".weight", kEmbd, kEmbd);
  }
  weights.add("blk.0.ffn_up.weight", kEmbd, kFf);
  weights.add("blk.0.ffn_down.weight", kFf, kEmbd);
  EXPECT_TRUE(gguf_write_to_file(file, path.c_str(), false));
  gguf_free(file);
}

/// Opens the file and removes it: llama.cpp has it mapped.
inline std::shared_ptr<const ModelFile> open_and_remove(const std::string& path) {
  Result<std::shared_ptr<const ModelFile>> model = ModelFile::open({.path = path});
  std::filesystem::remove(path);
  EXPECT_TRUE(model.has_value()) << (model ? "" : model.error().message);
  return model ? *model : nullptr;
}

}  // namespace tiny

/// `pooling_type` 1: a model that makes embeddings (mean).
inline std::shared_ptr<const ModelFile> tiny_model(std::uint32_t seed = 1, int pooling_type = 0) {
  const std::string path = testing::TempDir() + "/penstock-tiny-" + std::to_string(seed) + "-" +
                           std::to_string(pooling_type) + "-" + std::to_string(getpid()) + ".gguf";
  tiny::write(path, seed, pooling_type);
  return tiny::open_and_remove(path);
}

inline std::shared_ptr<const ModelFile> tiny_bert() {
  const std::string path =
      testing::TempDir() + "/penstock-tiny-bert-" + std::to_string(getpid()) + ".gguf";
  tiny::write_bert(path);
  return tiny::open_and_remove(path);
}

}  // namespace penstock::text
