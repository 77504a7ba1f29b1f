#include "cli/model_loader.h"

#include <algorithm>

#include "base/log.h"
#include "cli/engine_flags.h"
#include "cli/model_path.h"

namespace penstock::cli {

bool staffed(const serve::DispatcherView& view, Awaited awaited) {
  if (awaited == Awaited::kNobody) return true;
  const auto any = [&view](auto takes) {
    return std::ranges::any_of(view.workers, [&](const serve::WorkerView& worker) {
      return worker.state == fleet::WorkerState::kReady && takes(worker.role);
    });
  };
  const bool answers = any([](fleet::Role role) { return role != fleet::Role::kPrefill; });
  if (awaited == Awaited::kAnswers || !answers) return answers;
  return any([](fleet::Role role) { return role == fleet::Role::kPrefill; });
}

ModelLoader::ModelLoader(const serve::ModelOptions& options, const std::string& model,
                         const Clock& clock, serve::Service& service, Awaited awaited)
    : clock_(clock), service_(service), awaited_(awaited), thread_([this, options, model] {
        load(options, model);
        done_.set_value();
      }) {}

ModelLoader::~ModelLoader() {
  give_up_ = true;
  thread_.join();
}

bool ModelLoader::stop_within(Nanos wait) {
  give_up_ = true;
  return ended_.wait_for(wait) == std::future_status::ready;
}

void ModelLoader::load(serve::ModelOptions options, const std::string& name) {
  const TimePoint start = clock_.now();
  Result<std::string> path = resolve_model(name, give_up_);
  if (!path) return fail_with(path.error());
  path_ = options.path = *path;
  resolved_ = true;
  auto model = serve::ServedModel::load(options, clock_, [&](float fraction) {
    service_.set_loading(fraction);
    show_loading(fraction);
    return !give_up_.load();
  });
  if (!model) return fail_with(model.error());
  model_ = std::move(*model);
  wait_for_workers();
  service_.set_model(*model_);
  const engine::EngineInfo& info = model_->info();
  const std::size_t workers = model_->dispatcher().view().workers.size();
  log::info("ready in {:.0f} ms: {} by {} worker{}{}, {} tokens of context, {} at once each",
            to_ms(clock_.now() - start), model_->name(), workers, workers == 1 ? "" : "s",
            options.remote == nullptr ? "" : " and those that join", info.context_tokens_max,
            info.sequences_max);
}

void ModelLoader::wait_for_workers() {
  serve::Dispatcher& dispatcher = model_->dispatcher();
  const TimePoint until = clock_.now() + kPromptsWithin;
  while (!give_up_) {
    const serve::DispatcherView view = dispatcher.view();
    if (staffed(view, awaited_)) return;
    if (clock_.now() >= until && staffed(view, Awaited::kAnswers)) {
      log::warn("no worker that computes prompts has joined within {:.0f} s; going on without",
                to_ms(kPromptsWithin) / 1e3);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void ModelLoader::fail_with(const Error& error) {
  if (!give_up_) log::error("{}", error.message);
  service_.set_failed(error.message);
  failed_ = true;
}

}  // namespace penstock::cli
