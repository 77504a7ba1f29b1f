#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "engine/llama/embedder.h"
#include "engine/llama/llama_engine.h"
#include "engine/llama/state_codec.h"

struct llama_context;
struct ggml_threadpool;

namespace penstock::engine::llama {

/// llama.cpp's context as the worker uses it: `sequences_max` streams of cells, one a running
/// sequence, each filled from its first cell on; and the embedder beside it, on the same threads.
/// One thread.
class Context final {
 public:
  struct Row {
    Token token;
    std::uint32_t position;
    std::uint32_t stream;
    bool wants_logits;
  };

  static Result<std::unique_ptr<Context>> make(std::shared_ptr<const text::ModelFile> model,
                                               const LlamaOptions& options);
  ~Context();

  /// Computes the rows (at most kPartRows, or one a stream). Logits of the wanting rows are then at
  /// their index in `rows`. Fails with kInternal; the streams touched are then undefined.
  Result<void> compute(std::span<const Row> rows);

  /// Forgets positions >= `from` of a stream.
  void truncate(std::uint32_t stream, std::uint32_t from);

  /// What a row of a prompt takes, as measured at the start.
  [[nodiscard]] Nanos row_cost() const noexcept { return row_cost_; }

  /// Null when this model's KV cannot be cut into blocks (said once in the log).
  [[nodiscard]] const StateCodec* codec() const noexcept { return codec_ ? &*codec_ : nullptr; }
  /// The state of a stream of `cells` positions; valid until the next call. Empty on failure.
  [[nodiscard]] std::span<const std::uint8_t> save(std::uint32_t stream, std::uint32_t cells);
  /// Fills an empty stream with blocks; false (and the stream is empty) when llama.cpp refuses.
  [[nodiscard]] bool load(std::uint32_t stream, std::span<const std::span<const std::byte>> blocks,
                          std::uint32_t block_tokens);

  /// Whether the next row of each of several streams comes out alike, to the bit, computed alone
  /// and with the others. Tried out at the start if `exact`, else false: for some types of weights
  /// (F32, F16) llama.cpp multiplies one row otherwise than several.
  [[nodiscard]] bool rows_alike() const noexcept { return rows_alike_; }

  [[nodiscard]] llama_context* handle() const noexcept { return context_; }
  [[nodiscard]] std::uint32_t threads() const noexcept { return threads_; }
  [[nodiscard]] std::uint32_t context_tokens() const noexcept { return context_tokens_; }
  [[nodiscard]] const std::string& compatibility_key() const noexcept { return compatibility_key_; }
  /// False: the model makes embeddings only, there are no streams, and nothing may be computed.
  [[nodiscard]] bool generates() const noexcept { return context_ != nullptr; }
  /// Null: the model makes no embeddings.
  [[nodiscard]] Embedder* embedder() noexcept { return embedder_.get(); }

 private:
  Context() = default;
  Result<void> start(const LlamaOptions& options);
  void learn_codec();
  void time_rows();
  [[nodiscard]] bool try_rows(std::uint32_t count);
  void clear();
  void shrink_staging();

  std::shared_ptr<const text::ModelFile> model_;
  llama_context* context_ = nullptr;
  ggml_threadpool* pool_ = nullptr;
  std::unique_ptr<Embedder> embedder_;
  std::uint32_t threads_ = 1;
  std::uint32_t context_tokens_ = 0;
  std::uint32_t sequences_max_ = 0;
  bool rows_alike_ = false;
  Nanos row_cost_ = std::chrono::milliseconds(5);
  std::string compatibility_key_;
  std::optional<StateCodec> codec_;
  std::vector<std::uint8_t> staging_;  // one state on its way in or out
};

}  // namespace penstock::engine::llama
