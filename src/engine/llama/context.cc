#include "engine/llama/context.h"

#include <build-info.h>
#include <fmt/format.h>
#include <ggml-cpu.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "engine/llama/batch_shape.h"

namespace penstock::engine::llama {
namespace {

constexpr std::size_t kStagingKeptBytes = 32 << 20;

/// llama_batch over arrays of ours; llama.cpp only reads it during the call.
class Batch {
 public:
  explicit Batch(std::span<const Context::Row> rows) {
    const std::size_t n = rows.size();
    tokens_.resize(n);
    positions_.resize(n);
    counts_.assign(n, 1);
    sequences_.resize(n);
    sequence_pointers_.resize(n);
    outputs_.resize(n);
    for (std::size_t i = 0; i < n; ++i) {
      tokens_[i] = rows[i].token;
      positions_[i] = static_cast<llama_pos>(rows[i].position);
      sequences_[i] = static_cast<llama_seq_id>(rows[i].stream);
      sequence_pointers_[i] = &sequences_[i];
      outputs_[i] = rows[i].wants_logits ? 1 : 0;
    }
  }
  llama_batch get() {
    return {.n_tokens = static_cast<std::int32_t>(tokens_.size()),
            .token = tokens_.data(),
            .embd = nullptr,
            .pos = positions_.data(),
            .n_seq_id = counts_.data(),
            .seq_id = sequence_pointers_.data(),
            .logits = outputs_.data()};
  }

 private:
  std::vector<llama_token> tokens_;
  std::vector<llama_pos> positions_;
  std::vector<std::int32_t> counts_;
  std::vector<llama_seq_id> sequences_;
  std::vector<llama_seq_id*> sequence_pointers_;
  std::vector<std::int8_t> outputs_;
};

/// Where llama.cpp may compute: another device rounds otherwise.
std::string devices() {
  std::string names;
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    if (i > 0) names += '+';
    names += ggml_backend_dev_name(ggml_backend_dev_get(i));
  }
  return names;
}

/// Text is made from what came before alone, with KV kept of it. BERT and its like keep none, or
/// look ahead; what has an encoder would want its input there first.
bool can_generate(llama_context* context) {
  return llama_get_memory(context) != nullptr && llama_get_causal_attn(context) &&
         !llama_model_has_encoder(llama_get_model(context));
}

}  // namespace

Result<std::unique_ptr<Context>> Context::make(std::shared_ptr<const text::ModelFile> model,
                                               const LlamaOptions& options) {
  std::unique_ptr<Context> made(new Context());
  made->model_ = std::move(model);
  if (Result<void> started = made->start(options); !started) {
    return std::unexpected(started.error());
  }
  return made;
}

Result<void> Context::start(const LlamaOptions& options) {
  threads_ =
      options.threads != 0 ? options.threads : std::max(1U, std::thread::hardware_concurrency());
  sequences_max_ = options.sequences_max;
  const std::uint32_t trained = model_->context_tokens_trained();
  const std::uint32_t tokens =
      trained == 0 ? options.context_tokens : std::min(options.context_tokens, trained);
  context_tokens_ = (tokens + kCellPadding - 1) / kCellPadding * kCellPadding;

  llama_context_params params = llama_context_default_params();
  params.n_ctx = context_tokens_ * sequences_max_;
  params.n_batch = std::max(kPartRows, sequences_max_);
  params.n_ubatch = kPartRows;
  params.n_seq_max = sequences_max_;
  params.kv_unified = false;
  params.n_threads = static_cast<std::int32_t>(threads_);
  params.n_threads_batch = static_cast<std::int32_t>(threads_);
  params.no_perf = true;
  if (options.quantized_kv) {
    params.type_k = GGML_TYPE_Q8_0;
    params.type_v = GGML_TYPE_Q8_0;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  }
  context_ = llama_init_from_model(model_->handle(), params);
  if (context_ == nullptr) {
    return fail(Code::kUnavailable,
                fmt::format("llama.cpp cannot make a context of {} sequences of {} tokens for {}: "
                            "memory is probably short; lower --sequences or --context",
                            sequences_max_, context_tokens_, model_->path()));
  }
  ggml_threadpool_params pool_params = ggml_threadpool_params_default(static_cast<int>(threads_));
  pool_ = ggml_threadpool_new(&pool_params);
  llama_attach_threadpool(context_, pool_, pool_);

  const bool generates = can_generate(context_);
  if (!generates) {
    llama_free(std::exchange(context_, nullptr));
    context_tokens_ = tokens;  // nothing is padded, and a table of positions may end there
  }
  embedder_ = Embedder::make(*model_, params, context_tokens_, !generates, pool_);
  if (!generates && embedder_ == nullptr) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("{} can neither generate text here nor make embeddings", model_->path()));
  }
  compatibility_key_ =
      // The context's size as well: some models' rotations depend on it.
      fmt::format("llama.cpp {} {}/{}/state{}/{}/{}/{} tokens", llama_version(), llama_commit(),
                  devices(), LLAMA_STATE_SEQ_VERSION, model_->fingerprint(),
                  options.quantized_kv ? "q8_0" : "f16", context_tokens_);
  if (!generates) return {};
  learn_codec();
  time_rows();
  if (options.exact && sequences_max_ > 1) {
    // Kernels take a few rows at once, and what is left by another way.
    rows_alike_ = try_rows(2) && try_rows(std::min(sequences_max_, 5U)) &&
                  try_rows(std::min(sequences_max_, 17U));
    if (!rows_alike_) {
      log::info(
          "--exact: each answer decodes by itself; with weights of this type llama.cpp rounds "
          "otherwise where several rows are multiplied");
    }
  }
  return {};
}

Context::~Context() {
  embedder_.reset();  // before its threads
  if (context_ != nullptr) llama_free(context_);
  if (pool_ != nullptr) ggml_threadpool_free(pool_);
}

Result<void> Context::compute(std::span<const Row> rows) {
  CHECK(!rows.empty());
  Batch batch(rows);
  const std::int32_t status = llama_decode(context_, batch.get());
  if (status != 0) {
    return fail(Code::kInternal, fmt::format("llama.cpp could not compute a batch of {} rows "
                                             "(status {})",
                                             rows.size(), status));
  }
  return {};
}

void Context::truncate(std::uint32_t stream, std::uint32_t from) {
  llama_memory_seq_rm(llama_get_memory(context_), static_cast<llama_seq_id>(stream),
                      static_cast<llama_pos>(from), -1);
}

/// Runs two positions, cuts their state into two blocks, joins them, loads the result into another
/// stream and compares it with what that stream then says of itself. Warms the weights up as well.
void Context::learn_codec() {
  const std::array<Row, 2> rows = {Row{0, 0, 0, false}, Row{1, 1, 0, true}};
  if (Result<void> computed = compute(rows); !computed) {
    log::warn("KV reuse is off: {}", computed.error().message);
    clear();
    return;
  }
  staging_.resize(llama_state_seq_get_size(context_, 0));
  staging_.resize(llama_state_seq_get_data(context_, staging_.data(), staging_.size(), 0));
  Result<StateCodec> learned = StateCodec::learn(staging_, 2);
  if (learned) {
    codec_ = std::move(*learned);
    std::vector<std::byte> first(codec_->bytes_per_token());
    std::vector<std::byte> second(codec_->bytes_per_token());
    codec_->cut(staging_, 2, 0, 1, first);
    codec_->cut(staging_, 2, 1, 1, second);
    const std::array<std::span<const std::byte>, 2> blocks = {first, second};
    const std::uint32_t other = sequences_max_ - 1;
    truncate(other, 0);
    bool same = load(other, blocks, 1);
    if (same) {
      const std::span<const std::uint8_t> again = save(other, 2);
      std::vector<std::byte> check(2 * codec_->bytes_per_token());
      same = again.size() == codec_->state_bytes(2);
      if (same) {
        codec_->cut(again, 2, 0, 1, std::span(check).first(first.size()));
        codec_->cut(again, 2, 1, 1, std::span(check).last(second.size()));
        same = std::equal(first.begin(), first.end(), check.begin()) &&
               std::equal(second.begin(), second.end(),
                          check.begin() + static_cast<std::ptrdiff_t>(first.size()));
      }
    }
    if (!same) codec_.reset();
  }
  if (!codec_) {
    log::warn("KV reuse is off: {}",
              learned ? "blocks did not come back as they were saved" : learned.error().message);
  }
  clear();
}

/// Some of them, now that the weights are warm, at the best of a few times, since others start
/// beside: what is first decided goes by it.
void Context::time_rows() {
  std::vector<Row> rows;
  for (std::uint32_t at = 0; at < std::min(kRowGroup, context_tokens_); ++at) {
    rows.push_back({0, at, 0, false});
  }
  rows.back().wants_logits = true;
  constexpr int kTimes = 3;
  for (int i = 0; i < kTimes; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const bool computed = compute(rows).has_value();
    llama_synchronize(context_);
    clear();
    if (!computed) return;
    const Nanos each = (std::chrono::steady_clock::now() - start) / rows.size();
    row_cost_ = i == 0 ? each : std::min(row_cost_, each);
  }
}

void Context::clear() {
  for (std::uint32_t s = 0; s < sequences_max_; ++s) truncate(s, 0);
}

/// Computes a row of each of `count` streams, together and alone.
bool Context::try_rows(std::uint32_t count) {
  const auto values =
      static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model_->handle())));
  std::vector<Row> rows;
  for (std::uint32_t s = 0; s < count; ++s) {
    rows.push_back({static_cast<Token>(s % values), 0, s, true});
  }
  const auto logits = [&](std::size_t row) {
    const float* at = llama_get_logits_ith(context_, static_cast<std::int32_t>(row));
    return at == nullptr ? std::vector<float>() : std::vector<float>(at, at + values);
  };
  bool alike = compute(rows).has_value();
  std::vector<std::vector<float>> together;
  for (std::size_t i = 0; alike && i < count; ++i) together.push_back(logits(i));
  clear();
  for (std::size_t i = 0; alike && i < count; ++i) {
    alike = compute({&rows[i], 1}).has_value() && !together[i].empty() && logits(0) == together[i];
  }
  clear();
  return alike;
}

std::span<const std::uint8_t> Context::save(std::uint32_t stream, std::uint32_t cells) {
  staging_.resize(codec_->state_bytes(cells));
  const std::size_t written = llama_state_seq_get_data(context_, staging_.data(), staging_.size(),
                                                       static_cast<llama_seq_id>(stream));
  if (written != staging_.size()) return {};
  return staging_;
}

bool Context::load(std::uint32_t stream, std::span<const std::span<const std::byte>> blocks,
                   std::uint32_t block_tokens) {
  codec_->join(blocks, block_tokens, staging_);
  const std::size_t read = llama_state_seq_set_data(context_, staging_.data(), staging_.size(),
                                                    static_cast<llama_seq_id>(stream));
  const bool whole = read == staging_.size();
  if (!whole) truncate(stream, 0);
  shrink_staging();
  return whole;
}

void Context::shrink_staging() {
  if (staging_.capacity() <= kStagingKeptBytes) return;
  staging_.clear();
  staging_.shrink_to_fit();
}

}  // namespace penstock::engine::llama
