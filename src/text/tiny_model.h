#pragma once

#include <ggml.h>
#include <gguf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
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
  gguf_set_val_str(file, "tokenizer.chat_template",
                   "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
                   "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
                   "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");

  ggml_init_params memory{.mem_size = 16 << 20, .mem_buffer = nullptr, .no_alloc = false};
  ggml_context* ctx = ggml_init(memory);
  std::mt19937 random(seed);
  const auto add = [&](const std::string& name, std::int64_t columns, std::int64_t rows,
                       bool norm) {
    ggml_tensor* t = rows == 0 ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, columns)
                               : ggml_new_tensor_2d(ctx, GGML_TYPE_F32, columns, rows);
    ggml_set_name(t, name.c_str());
    std::normal_distribution<float> values(0, 0.25F);
    auto* data = static_cast<float*>(t->data);
    for (std::int64_t i = 0; i < ggml_nelements(t); ++i) data[i] = norm ? 1.0F : values(random);
    gguf_add_tensor(file, t);
  };
  constexpr int kKvWidth = kEmbd / kHeads * kKvHeads;
  add("token_embd.weight", kEmbd, kTinyVocabulary, false);
  for (int l = 0; l < kLayers; ++l) {
    const std::string p = "blk." + std::to_string(l) + ".";
    add(p + "attn_norm.weight", kEmbd, 0, true);
    add(p + "attn_q.weight", kEmbd, kEmbd, false);
    add(p + "attn_k.weight", kEmbd, kKvWidth, false);
    add(p + "attn_v.weight", kEmbd, kKvWidth, false);
    add(p + "attn_output.weight", kEmbd, kEmbd, false);
    add(p + "ffn_norm.weight", kEmbd, 0, true);
    add(p + "ffn_gate.weight", kEmbd, kFf, false);
    add(p + "ffn_up.weight", kEmbd, kFf, false);
    add(p + "ffn_down.weight", kFf, kEmbd, false);
  }
  add("output_norm.weight", kEmbd, 0, true);
  add("output.weight", kEmbd, kTinyVocabulary, false);
  EXPECT_TRUE(gguf_write_to_file(file, path.c_str(), false));
  ggml_free(ctx);
  gguf_free(file);
}

}  // namespace tiny

/// `pooling_type` 1: a model that makes embeddings (mean).
inline std::shared_ptr<const ModelFile> tiny_model(std::uint32_t seed = 1, int pooling_type = 0) {
  const std::string path = testing::TempDir() + "/penstock-tiny-" + std::to_string(seed) + "-" +
                           std::to_string(pooling_type) + "-" + std::to_string(getpid()) + ".gguf";
  tiny::write(path, seed, pooling_type);
  Result<std::shared_ptr<const ModelFile>> model = ModelFile::open({.path = path});
  std::filesystem::remove(path);  // llama.cpp has it mapped
  EXPECT_TRUE(model.has_value()) << (model ? "" : model.error().message);
  return model ? *model : nullptr;
}

}  // namespace penstock::text
