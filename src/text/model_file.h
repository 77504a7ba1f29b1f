#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"

struct llama_model;

namespace penstock::text {

/// A GGUF file opened through llama.cpp: its tokenizer and chat template, and its weights if asked
/// for. Immutable once open, so it may be read from any thread and shared by several workers (the
/// weights are in memory once).
class ModelFile final {
 public:
  struct Options {
    std::string path;
    bool weights = true;  // false: tokenizer and template only (about 25 MiB for the demo model)
    std::int32_t gpu_layers = -1;         // how many layers go to a GPU if there is one; -1: all
    std::function<bool(float)> progress;  // hears 0..1 while reading and loading; false: give up
  };

  /// Fails with kNotFound (no such file), kInvalidArgument (no GGUF, damaged or truncated, or an
  /// architecture this llama.cpp does not know), or as fingerprint_of; the message says which and
  /// what to do.
  static Result<std::shared_ptr<const ModelFile>> open(Options options);

  ~ModelFile();
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] bool has_weights() const noexcept { return has_weights_; }
  /// llama.cpp takes mutable pointers where it only reads.
  [[nodiscard]] llama_model* handle() const noexcept { return model_; }

  [[nodiscard]] std::string metadata(const std::string& key) const;  // empty if absent
  /// Names the weights for block identities: fingerprint_of(path).
  [[nodiscard]] const std::string& fingerprint() const noexcept { return fingerprint_; }
  [[nodiscard]] std::uint32_t context_tokens_trained() const noexcept;

 private:
  ModelFile() = default;

  std::string path_;
  std::string fingerprint_;
  bool has_weights_ = false;
  llama_model* model_ = nullptr;
};

/// The size of a model's file and a hash (XXH3, 128 bits) of every byte of it; of a model in
/// several files ("x-00001-of-00003.gguf") of them all. Two with equal fingerprints hold the same
/// weights, so KV computed with one is right for the other. Takes as long as reading the file does
/// (0.2 s a GiB from the page cache); `progress` hears 0..1 (false: give up) and may be empty.
/// Fails with kNotFound, kUnavailable when a file cannot be read, and kCancelled.
Result<std::string> fingerprint_of(const std::string& path,
                                   const std::function<bool(float)>& progress = {});

}  // namespace penstock::text
