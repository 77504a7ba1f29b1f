#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/kv_exchange.h"
#include "engine/llama/llama_engine.h"
#include "engine/llama/shared_store.h"
#include "engine/simulated/simulated_engine.h"
#include "serve/dispatcher.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace penstock::serve {

class Keeper;
class RemoteWorkers;

/// What a model's progress is while it waits for the first worker to join.
inline constexpr float kAwaitsWorker = -1;

struct ModelOptions {
  std::string path;                // a GGUF file
  std::vector<std::string> names;  // what clients call it; the first is the one shown
  // No weights: timing and tokens are made up. Its vocabulary comes from the file.
  std::optional<engine::SimulatedOptions> simulated;
  std::uint32_t workers = 1;  // engines here, each with its own context and thread; 0: see `remote`
  RemoteWorkers* remote = nullptr;  // where workers of other processes join; outlives the model
  std::string chat_template;        // replaces the model's own, if not empty
  engine::LlamaOptions llama;
  engine::KvSharing sharing;  // of the workers here with those that join
  tiers::Options store;       // behind all workers' reusable KV; host_bytes 0: none
  DispatchOptions dispatch;
};

/// A model being served: its text side and its workers. Immutable once loaded, but for what the
/// dispatcher keeps.
class ServedModel final {
 public:
  /// Opens the file and starts the workers; `progress` hears 0..1 (false: give up). Without workers
  /// here it waits for the first that joins, since only that one says how it cuts blocks;
  /// `progress` then hears kAwaitsWorker, again and again.
  static Result<std::unique_ptr<ServedModel>> load(const ModelOptions& options, const Clock& clock,
                                                   std::function<bool(float)> progress);
  ~ServedModel();
  ServedModel(const ServedModel&) = delete;
  ServedModel& operator=(const ServedModel&) = delete;

  [[nodiscard]] const std::string& name() const noexcept { return names_.front(); }
  [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }
  [[nodiscard]] bool answers_to(std::string_view name) const noexcept;
  [[nodiscard]] std::int64_t created() const noexcept { return created_; }
  [[nodiscard]] const text::Tokenizer& tokenizer() const noexcept { return *tokenizer_; }
  [[nodiscard]] const text::ChatTemplate& chat_template() const noexcept { return *template_; }
  [[nodiscard]] const engine::EngineInfo& info() const noexcept { return dispatcher_->info(); }
  [[nodiscard]] Dispatcher& dispatcher() noexcept { return *dispatcher_; }

 private:
  ServedModel();

  std::vector<std::string> names_;
  std::int64_t created_ = 0;
  std::unique_ptr<const text::Tokenizer> tokenizer_;
  std::unique_ptr<const text::ChatTemplate> template_;
  std::unique_ptr<Dispatcher> dispatcher_;
  RemoteWorkers* remote_ = nullptr;
  std::unique_ptr<Keeper> keeper_;
};

/// Fails if such a worker keeps no KV that it could hand to others, whatever way there is to them.
Result<void> check_keeps_kv(const engine::EngineInfo& info);

/// One worker by itself, as `options` have it (`workers`, `names` and what is about templates and
/// routing do not matter).
Result<std::unique_ptr<engine::Engine>> load_engine(const ModelOptions& options, const Clock& clock,
                                                    std::function<bool(float)> progress);

}  // namespace penstock::serve
