#pragma once

#include <atomic>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "serve/served_model.h"
#include "serve/service.h"

namespace penstock::cli {

/// Who has to have joined before requests are let in, of workers that this process has started.
enum class Awaited : std::uint8_t {
  kNobody,
  kAnswers,            // one that answers
  kPromptsAndAnswers,  // and one that computes prompts for it
};

/// Whether those are there, and ready.
[[nodiscard]] bool staffed(const serve::DispatcherView& view, Awaited awaited);

/// Loads the model beside the server that is already listening, and waits for who is `awaited`: for
/// those that compute prompts kPromptsWithin, since without them answers are only later. The others
/// join as they come.
class ModelLoader final {
 public:
  static constexpr Nanos kPromptsWithin = std::chrono::seconds(60);

  /// `clock` and `service` outlive it.
  ModelLoader(const serve::ModelOptions& options, const std::string& model, const Clock& clock,
              serve::Service& service, Awaited awaited);
  ~ModelLoader();
  ModelLoader(const ModelLoader&) = delete;
  ModelLoader& operator=(const ModelLoader&) = delete;

  [[nodiscard]] bool failed() const noexcept { return failed_.load(); }
  /// The model's file, once it is there.
  [[nodiscard]] const std::string* path() const noexcept {
    return resolved_.load() ? &path_ : nullptr;
  }
  /// Tells it to give up. False when it still has not after `wait`: llama.cpp cannot be told while
  /// it makes a context.
  [[nodiscard]] bool stop_within(Nanos wait);

 private:
  void load(serve::ModelOptions options, const std::string& name);
  void wait_for_workers();
  void fail_with(const Error& error);

  const Clock& clock_;
  serve::Service& service_;
  const Awaited awaited_;
  std::string path_;
  std::atomic<bool> resolved_{false};
  std::atomic<bool> give_up_{false};
  std::atomic<bool> failed_{false};
  std::unique_ptr<serve::ServedModel> model_;
  std::promise<void> done_;
  std::future<void> ended_ = done_.get_future();
  std::thread thread_;  // last: it uses the others
};

}  // namespace penstock::cli
