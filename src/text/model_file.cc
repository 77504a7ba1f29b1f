#include "text/model_file.h"

#include <fmt/format.h>
#include <llama.h>
#define XXH_STATIC_LINKING_ONLY  // the hash state lives on the stack
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <vector>

#include "base/log.h"

namespace penstock::text {
namespace {

/// llama.cpp's messages go to our log; its chatter below a warning only at debug level.
void log_llama(ggml_log_level level, const char* text, void*) {
  std::string_view line(text);
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.remove_suffix(1);
  if (line.empty() || line == ".") return;
  if (level == GGML_LOG_LEVEL_ERROR) {
    log::warn("llama.cpp: {}", line);
  } else {
    log::debug("llama.cpp: {}", line);
  }
}

void start_llama_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(log_llama, nullptr);
    llama_backend_init();
  });
}

bool on_progress(float fraction, void* user) {
  return (*static_cast<std::function<bool(float)>*>(user))(fraction);
}

/// Adds a file to `state`; `read_bytes` hears how much of it as it is read (false: give up). Fails
/// with kNotFound, kUnavailable when it cannot be read to its end, and kCancelled.
Result<void> add_file(const std::string& path, XXH3_state_t& state,
                      const std::function<bool(std::size_t)>& read_bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(Code::kNotFound, fmt::format("cannot open the model file {}", path));
  std::vector<char> buffer(1 << 20);
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    const auto came = static_cast<std::size_t>(file.gcount());
    XXH3_128bits_update(&state, buffer.data(), came);
    if (!read_bytes(came)) return fail(Code::kCancelled, "loading the model was given up");
  }
  if (!file.eof()) return fail(Code::kUnavailable, fmt::format("{} cannot be read", path));
  return {};
}

/// `path`, and where it is the first part of a model in several files the others.
std::vector<std::string> files_of(const std::string& path) {
  constexpr std::string_view kFirst = "-00001-of-";
  constexpr std::string_view kEnd = "NNNNN.gguf";
  const std::size_t size = kFirst.size() + kEnd.size();
  const std::size_t at = path.size() - std::min(size, path.size());
  const std::string_view tail = std::string_view(path).substr(at);
  int parts = 0;
  const char* const digits = tail.data() + kFirst.size();
  if (tail.size() != size || !tail.starts_with(kFirst) || !tail.ends_with(".gguf") ||
      std::from_chars(digits, digits + 5, parts).ptr != digits + 5 || parts < 1) {
    return {path};
  }
  std::vector<std::string> files;
  for (int part = 1; part <= parts; ++part) {
    files.push_back(fmt::format("{}-{:05}-of-{:05}.gguf", path.substr(0, at), part, parts));
  }
  return files;
}

}  // namespace

Result<std::string> fingerprint_of(const std::string& path,
                                   const std::function<bool(float)>& progress) {
  const std::vector<std::string> files = files_of(path);
  std::uintmax_t size_bytes = 0;
  for (const std::string& file : files) {
    std::error_code problem;
    size_bytes += std::filesystem::file_size(file, problem);
    if (problem) {
      return fail(Code::kNotFound,
                  fmt::format("cannot open the model file {}: {}", file, problem.message()));
    }
  }
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  std::uintmax_t done_bytes = 0;
  for (const std::string& file : files) {
    const Result<void> added = add_file(file, state, [&](std::size_t bytes) {
      done_bytes += bytes;
      const double all = static_cast<double>(std::max<std::uintmax_t>(size_bytes, 1));
      return !progress || progress(static_cast<float>(static_cast<double>(done_bytes) / all));
    });
    if (!added) return std::unexpected(added.error());
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return fmt::format("{}-{:016x}{:016x}", size_bytes, hash.high64, hash.low64);
}

Result<std::shared_ptr<const ModelFile>> ModelFile::open(Options options) {
  {
    std::error_code problem;
    if (!std::filesystem::exists(options.path, problem)) {
      return fail(Code::kNotFound,
                  fmt::format("cannot open the model file {}: no such file", options.path));
    }
    std::ifstream file(options.path, std::ios::binary);
    char magic[4] = {};
    file.read(magic, sizeof magic);
    if (std::string_view(magic, sizeof magic) != "GGUF") {
      return fail(
          Code::kInvalidArgument,
          fmt::format("{} is not a GGUF file; convert the model to GGUF first", options.path));
    }
  }
  const auto hears = [&options](float from, float share) -> std::function<bool(float)> {
    return [&options, from, share](float fraction) {
      return !options.progress || options.progress(from + fraction * share);
    };
  };
  // Half of it all, where weights are loaded after it: by then the page cache may have them.
  const float reading = options.weights ? 0.5F : 1;
  std::function<bool(float)> loads = hears(reading, 1 - reading);
  Result<std::string> fingerprint = fingerprint_of(options.path, hears(0, reading));
  if (!fingerprint) return std::unexpected(fingerprint.error());

  start_llama_once();
  llama_model_params params = llama_model_default_params();
  params.vocab_only = !options.weights;
  params.n_gpu_layers = options.gpu_layers;
  params.progress_callback = on_progress;
  params.progress_callback_user_data = &loads;

  std::shared_ptr<ModelFile> file(new ModelFile());
  file->model_ = llama_model_load_from_file(options.path.c_str(), params);
  if (file->model_ == nullptr) {
    return fail(Code::kInvalidArgument,
                fmt::format("llama.cpp cannot load {}: the file is damaged or truncated, its "
                            "architecture is unknown to this version, or memory is short "
                            "(--log-level debug shows its messages)",
                            options.path));
  }
  file->path_ = std::move(options.path);
  file->fingerprint_ = std::move(*fingerprint);
  file->has_weights_ = options.weights;
  return file;
}

ModelFile::~ModelFile() {
  if (model_ != nullptr) llama_model_free(model_);
}

std::string ModelFile::metadata(const std::string& key) const {
  std::string value(64, '\0');
  while (true) {
    const std::int32_t size =
        llama_model_meta_val_str(model_, key.c_str(), value.data(), value.size());
    if (size < 0) return {};
    if (static_cast<std::size_t>(size) < value.size()) {
      value.resize(static_cast<std::size_t>(size));
      return value;
    }
    value.resize(static_cast<std::size_t>(size) + 1);
  }
}

std::uint32_t ModelFile::context_tokens_trained() const noexcept {
  return static_cast<std::uint32_t>(std::max(0, llama_model_n_ctx_train(model_)));
}

}  // namespace penstock::text
