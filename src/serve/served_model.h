#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/llama/llama_engine.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace penstock::serve {

/// One engine and what this process has given it to do. Load is counted at the pick, not when an
/// answer comes back, so that a burst does not pile up on one worker.
class Worker final {
 public:
  explicit Worker(std::unique_ptr<engine::Engine> engine) : engine_(std::move(engine)) {}

  /// Counts a request's tokens while it lives; movable, released once.
  class Charge final {
   public:
    Charge() = default;
    Charge(Worker& worker, std::uint64_t tokens) : worker_(&worker), tokens_(tokens) {
      worker_->charged_.fetch_add(tokens_, std::memory_order_relaxed);
    }
    Charge(Charge&& other) noexcept
        : worker_(std::exchange(other.worker_, nullptr)), tokens_(other.tokens_) {}
    Charge& operator=(Charge&& other) noexcept {
      std::swap(worker_, other.worker_);
      std::swap(tokens_, other.tokens_);
      return *this;
    }
    ~Charge() {
      if (worker_ != nullptr) worker_->charged_.fetch_sub(tokens_, std::memory_order_relaxed);
    }

   private:
    Worker* worker_ = nullptr;
    std::uint64_t tokens_ = 0;
  };

  [[nodiscard]] engine::Engine& engine() noexcept { return *engine_; }
  [[nodiscard]] std::uint64_t charged_tokens() const noexcept {
    return charged_.load(std::memory_order_relaxed);
  }

 private:
  std::unique_ptr<engine::Engine> engine_;
  std::atomic<std::uint64_t> charged_{0};
};

struct ModelOptions {
  std::string path;                // a GGUF file
  std::vector<std::string> names;  // what clients call it; the first is the one shown
  bool simulated = false;          // no weights: timing and tokens are made up
  double speedup = 1;              // of the simulated engine; infinity: no waiting
  std::uint32_t workers = 1;       // engines, each with its own context and thread
  std::string chat_template;       // replaces the model's own, if not empty
  engine::LlamaOptions llama;
};

/// A model being served: its text side and its workers. Immutable once loaded, but for the loads.
class ServedModel final {
 public:
  /// Opens the file and starts the workers; `progress` hears 0..1 (false: give up).
  static Result<std::unique_ptr<ServedModel>> load(const ModelOptions& options, const Clock& clock,
                                                   std::function<bool(float)> progress);

  [[nodiscard]] const std::string& name() const noexcept { return names_.front(); }
  [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }
  [[nodiscard]] bool answers_to(std::string_view name) const noexcept;
  [[nodiscard]] std::int64_t created() const noexcept { return created_; }
  [[nodiscard]] const text::Tokenizer& tokenizer() const noexcept { return *tokenizer_; }
  [[nodiscard]] const text::ChatTemplate& chat_template() const noexcept { return *template_; }
  [[nodiscard]] const engine::EngineInfo& info() const noexcept {
    return workers_.front()->engine().info();
  }
  [[nodiscard]] std::vector<std::unique_ptr<Worker>>& workers() noexcept { return workers_; }

  /// The worker with the fewest tokens charged.
  [[nodiscard]] Worker& pick() noexcept;

 private:
  ServedModel() = default;

  std::vector<std::string> names_;
  std::int64_t created_ = 0;
  std::unique_ptr<const text::Tokenizer> tokenizer_;
  std::unique_ptr<const text::ChatTemplate> template_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<std::uint32_t> next_{0};
};

}  // namespace penstock::serve
