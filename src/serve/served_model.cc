#include "serve/served_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <thread>

#include "serve/keeper.h"
#include "serve/remote_workers.h"

namespace penstock::serve {
namespace {

/// Tokens that are plain words, for the simulated engine to answer with.
std::vector<Token> plain_words(const text::Tokenizer& tokenizer) {
  std::vector<Token> words;
  for (Token t = 0; t < static_cast<Token>(tokenizer.size()) && words.size() < 4096; ++t) {
    const std::string_view bytes = tokenizer.bytes(t);
    const bool is_word = bytes.size() >= 3 && bytes.size() <= 12 && bytes[0] == ' ' &&
                         std::ranges::all_of(bytes.substr(1), [](char c) {
                           return std::islower(static_cast<unsigned char>(c)) != 0;
                         });
    if (is_word) words.push_back(t);
  }
  if (words.empty()) words.push_back(0);
  return words;
}

Result<std::unique_ptr<engine::Engine>> make_engine(const ModelOptions& options,
                                                    std::shared_ptr<const text::ModelFile> file,
                                                    const text::Tokenizer& tokenizer,
                                                    const Clock& clock, bool tells_tokens) {
  if (!options.simulated) {
    engine::LlamaOptions llama = options.llama;
    llama.kv_event_tokens = tells_tokens;
    return engine::make_llama_engine(std::move(file), llama, clock);
  }
  engine::SimulatedOptions simulated = *options.simulated;
  simulated.vocabulary = plain_words(tokenizer);
  simulated.vocabulary_size = tokenizer.size();
  simulated.kv_event_tokens = tells_tokens;
  return engine::make_simulated_engine(std::move(simulated), clock);
}

/// What one of several workers gets of the machine.
ModelOptions share_of(const ModelOptions& options) {
  ModelOptions each = options;
  const std::uint32_t workers = std::max(1U, options.workers);
  if (each.llama.threads == 0) {
    each.llama.threads = std::max(1U, std::max(1U, std::thread::hardware_concurrency()) / workers);
  }
  each.llama.reuse_bytes /= workers;
  return each;
}

struct OpenModel {
  std::shared_ptr<const text::ModelFile> file;
  std::unique_ptr<const text::Tokenizer> tokenizer;
};

Result<OpenModel> open_model(const ModelOptions& options, bool weights,
                             std::function<bool(float)> progress) {
  OpenModel model;
  Result<std::shared_ptr<const text::ModelFile>> file = text::ModelFile::open(
      {.path = options.path, .weights = weights, .progress = std::move(progress)});
  if (!file) return std::unexpected(file.error());
  model.file = std::move(*file);
  Result<std::unique_ptr<const text::Tokenizer>> tokenizer = text::Tokenizer::open(model.file);
  if (!tokenizer) return std::unexpected(tokenizer.error());
  model.tokenizer = std::move(*tokenizer);
  return model;
}

std::shared_ptr<engine::SharedStore> open_store(const ModelOptions& options, const Clock& clock) {
  if (options.store.host_bytes == 0 || options.simulated || options.workers == 0) return nullptr;
  return std::make_shared<engine::SharedStore>(options.store, clock);
}

}  // namespace

Result<std::unique_ptr<ServedModel>> ServedModel::load(const ModelOptions& options,
                                                       const Clock& clock,
                                                       std::function<bool(float)> progress) {
  Result<OpenModel> opened =
      open_model(options, !options.simulated && options.workers > 0, progress);
  if (!opened) return std::unexpected(opened.error());
  const std::shared_ptr<const text::ModelFile> file = std::move(opened->file);

  std::unique_ptr<ServedModel> model(new ServedModel());
  model->names_ = options.names;
  model->created_ = std::chrono::duration_cast<std::chrono::seconds>(
                        std::chrono::system_clock::now().time_since_epoch())
                        .count();
  model->tokenizer_ = std::move(opened->tokenizer);
  Result<std::unique_ptr<const text::ChatTemplate>> chat =
      text::ChatTemplate::open(*file, *model->tokenizer_, options.chat_template);
  if (!chat) return std::unexpected(chat.error());
  model->template_ = std::move(*chat);

  ModelOptions each = share_of(options);
  each.llama.store = open_store(options, clock);
  if (options.workers > 1 || options.sharing.outside()) {
    engine::KvSharing sharing = options.sharing;
    sharing.alone = options.workers == 1;
    each.llama.exchange = std::make_shared<engine::KvExchange>(clock, std::move(sharing));
  }
  std::vector<std::unique_ptr<engine::Engine>> engines;
  for (std::uint32_t i = 0; i < options.workers; ++i) {
    Result<std::unique_ptr<engine::Engine>> engine =
        make_engine(each, file, *model->tokenizer_, clock, false);  // an index asks for hashes
    if (!engine) return std::unexpected(engine.error());
    if (i < options.dispatch.roles.size() && options.dispatch.roles[i] == fleet::Role::kPrefill) {
      if (Result<void> fine = check_keeps_kv((*engine)->info()); !fine) {
        return std::unexpected(fine.error());
      }
    }
    engines.push_back(std::move(*engine));
  }
  DispatchOptions dispatch = options.dispatch;
  Result<engine::EngineInfo> info = engine::EngineInfo{};
  if (!engines.empty()) info = engines.front()->info();
  if (options.remote != nullptr) {
    dispatch.joins_max = options.remote->options().workers_max;
    dispatch.health = health_options(options.remote->options());
    if (engines.empty()) {
      info = options.remote->wait_for_card(
          options.simulated ? options.simulated->model : file->fingerprint(),
          model->tokenizer_->size(), [&progress] { return progress(kAwaitsWorker); });
    }
  }
  if (!info) return std::unexpected(info.error());
  model->dispatcher_ = std::make_unique<Dispatcher>(*info, std::move(engines), dispatch, clock);
  model->keeper_ = std::make_unique<Keeper>(*model->dispatcher_);
  if (options.remote != nullptr) {
    model->remote_ = options.remote;
    model->remote_->serve(*model->dispatcher_);
  }
  return model;
}

Result<void> check_keeps_kv(const engine::EngineInfo& info) {
  if (info.kv_blocks_max > 0) return {};
  return fail(Code::kUnprocessable,
              "no prompts can be computed for other workers: this model's KV cannot be cut into "
              "blocks (recurrent layers, a sliding window), or --kv-cache-mib has no room for one; "
              "workers that take whole requests can (--workers, --role both)");
}

ServedModel::ServedModel() = default;

ServedModel::~ServedModel() {
  if (remote_ != nullptr) remote_->stop_serving();
}

Result<std::unique_ptr<engine::Engine>> load_engine(const ModelOptions& options, const Clock& clock,
                                                    std::function<bool(float)> progress) {
  Result<OpenModel> opened = open_model(options, !options.simulated, std::move(progress));
  if (!opened) return std::unexpected(opened.error());
  ModelOptions all = share_of(options);
  all.llama.store = open_store(options, clock);
  if (options.sharing.outside()) {
    engine::KvSharing sharing = options.sharing;
    sharing.alone = true;
    all.llama.exchange = std::make_shared<engine::KvExchange>(clock, std::move(sharing));
  }
  return make_engine(all, std::move(opened->file), *opened->tokenizer, clock, true);
}

bool ServedModel::answers_to(std::string_view name) const noexcept {
  return std::ranges::find(names_, name) != names_.end();
}

}  // namespace penstock::serve
