#include "cli/model_path.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/model_script.h"

namespace penstock::cli {
namespace {

namespace fs = std::filesystem;

/// What comes out of `fd` until its end. On `give_up` the process group of `child` is told to end.
std::string read_until_end(int fd, pid_t child, const std::atomic<bool>& give_up) {
  constexpr int kLookMs = 100;
  std::string text;
  std::array<char, 512> part{};
  bool told = false;
  while (true) {
    if (give_up.load() && !std::exchange(told, true)) kill(-child, SIGTERM);
    pollfd descriptor{.fd = fd, .events = POLLIN, .revents = 0};
    if (poll(&descriptor, 1, kLookMs) <= 0) continue;
    const ssize_t size = read(fd, part.data(), part.size());
    if (size > 0) {
      text.append(part.data(), static_cast<std::size_t>(size));
    } else if (size == 0 || errno != EINTR) {
      return text;
    }
  }
}

/// Runs `script` with bash and returns what it prints, or nothing when it fails. Its standard error
/// is ours: it shows its progress there.
std::optional<std::string> output_of(const char* script, const std::atomic<bool>& give_up) {
  std::array<int, 2> pipe_ends{};
  if (pipe2(pipe_ends.data(), O_CLOEXEC) != 0) return std::nullopt;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);  // ours blocks what should end the script
  // A group of its own, which can be told to end as a whole: bash waits for what it has started.
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  std::array<char*, 4> arguments = {const_cast<char*>("bash"), const_cast<char*>("-c"),
                                    const_cast<char*>(script), nullptr};
  pid_t child = 0;
  const int failure =
      posix_spawnp(&child, "bash", &actions, &attributes, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(pipe_ends[1]);
  std::string text;
  if (failure == 0) text = read_until_end(pipe_ends[0], child, give_up);
  close(pipe_ends[0]);
  int status = 1;
  if (failure == 0) waitpid(child, &status, 0);
  if (status != 0) return std::nullopt;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

Result<std::string> demo_model(const std::atomic<bool>& give_up) {
  std::optional<std::string> path = output_of(kModelScript, give_up);
  if (!path || path->empty()) {
    return fail(Code::kNotFound,
                "the demo model could not be fetched (see above); give a file of your own with "
                "--model FILE.gguf");
  }
  return *path;
}

}  // namespace

Result<std::string> resolve_model(const std::string& model, const std::atomic<bool>& give_up) {
  if (model == "demo" || model == "simulated") return demo_model(give_up);
  return find_model(model);
}

Result<std::string> find_model(const std::string& model) {
  if (model == "demo" || model == "simulated") return model;
  std::error_code problem;
  if (!fs::exists(model, problem)) {
    return fail(Code::kNotFound, fmt::format("{}: no such file; --model takes demo, simulated, a "
                                             ".gguf file, or a folder with one",
                                             model));
  }
  if (!fs::is_directory(model, problem)) {
    std::array<char, 4> magic{};
    std::ifstream(model, std::ios::binary).read(magic.data(), magic.size());
    if (std::string_view(magic.data(), magic.size()) == "GGUF") return model;
    return fail(Code::kInvalidArgument, fmt::format("{} is not a model in GGUF", model));
  }
  std::vector<std::string> found;
  for (fs::directory_iterator entry(model, problem), end; !problem && entry != end;
       entry.increment(problem)) {
    if (entry->path().extension() == ".gguf") found.push_back(entry->path().string());
  }
  if (problem) {
    return fail(Code::kNotFound, fmt::format("cannot read {}: {}", model, problem.message()));
  }
  if (found.size() == 1) return found[0];
  return fail(Code::kInvalidArgument,
              found.empty()
                  ? fmt::format("{} holds no .gguf file", model)
                  : fmt::format("{} holds {} .gguf files; name one of them", model, found.size()));
}

std::string model_name(const std::string& model) {
  if (model == "demo" || model == "simulated") return model;
  const fs::path path =
      fs::path(model).has_filename() ? fs::path(model) : fs::path(model).parent_path();
  return path.extension() == ".gguf" ? path.stem().string() : path.filename().string();
}

}  // namespace penstock::cli
