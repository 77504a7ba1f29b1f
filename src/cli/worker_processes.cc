#include "cli/worker_processes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "base/log.h"

namespace penstock::cli {
namespace {

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> made;
  for (std::string& string : strings) made.push_back(string.data());
  made.push_back(nullptr);
  return made;
}

/// In the child, between fork and exec: nothing but system calls.
[[noreturn]] void become(const char* program, char* const* arguments, char* const* environment,
                         pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it was gone before that was said
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);  // NOLINT(concurrency-mt-unsafe): one thread here
  const int nowhere = open("/dev/null", O_RDWR);
  dup2(nowhere, STDIN_FILENO);
  dup2(nowhere, STDOUT_FILENO);
  if (close_range(STDERR_FILENO + 1, ~0U, 0) != 0) {  // not everywhere
    const auto end = static_cast<int>(sysconf(_SC_OPEN_MAX));
    for (int fd = STDERR_FILENO + 1; fd < end; ++fd) close(fd);
  }
  execve(program, arguments, environment);
  _exit(127);
}

std::string how_it_ended(int status) {
  return WIFSIGNALED(status) ? fmt::format("was killed by signal {}", WTERMSIG(status))
                             : fmt::format("ended with status {}", WEXITSTATUS(status));
}

}  // namespace

WorkerProcesses::WorkerProcesses(std::vector<ProcessCommand> commands, const Clock& clock)
    : clock_(clock) {
  signal(SIGCHLD, SIG_DFL);  // were it ignored, nobody could tell how a child has ended
  for (ProcessCommand& command : commands) {
    children_.push_back({.command = std::move(command), .started = {}, .start_at = clock.now()});
    start(children_.back());
  }
}

WorkerProcesses::~WorkerProcesses() {
  for (Child& child : children_) {
    if (child.pid < 0) continue;
    kill(child.pid, SIGKILL);
    while (waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

void WorkerProcesses::start(Child& child) {
  std::vector<std::string> arguments = child.command.arguments;
  std::vector<std::string> environment = child.command.environment;
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(environment);
  const std::string& program =
      child.command.program.empty() ? arguments.front() : child.command.program;
  const pid_t parent = getpid();
  child.started = clock_.now();
  child.pid = fork();
  if (child.pid == 0) become(program.c_str(), argv.data(), envp.data(), parent);
  if (child.pid < 0) start_later(child, "a worker cannot be started: " + errno_text(errno));
}

/// Notes its end, if it has ended.
void WorkerProcesses::collect(Child& child) {
  int status = 0;
  if (child.pid < 0 || waitpid(child.pid, &status, WNOHANG) != child.pid) return;
  const pid_t pid = child.pid;
  child.pid = -1;
  if (ending_) return;
  const std::string why = fmt::format("worker process {} {}", pid, how_it_ended(status));
  if (WIFEXITED(status) && WEXITSTATUS(status) == kUsageStatus) {
    log::error("{}", why);
    refused_ = true;
    child.start_at = TimePoint::max();
    return;
  }
  if (clock_.now() - child.started >= kLivedWell) child.pause = kPauseFirst;
  start_later(child, why);
}

void WorkerProcesses::start_later(Child& child, std::string_view why) {
  child.start_at = clock_.now() + child.pause;
  log::warn("{}; it is started again in {:.0f} ms", why, to_ms(child.pause));
  child.pause = std::min(2 * child.pause, kPauseMax);
}

void WorkerProcesses::look_after() {
  for (Child& child : children_) {
    collect(child);
    if (child.pid >= 0 || ending_ || clock_.now() < child.start_at) continue;
    ++restarts_;
    start(child);
  }
}

void WorkerProcesses::ask_to_end() {
  ending_ = true;
  for (const Child& child : children_) {
    if (child.pid >= 0) kill(child.pid, SIGTERM);
  }
}

std::size_t WorkerProcesses::running() {
  for (Child& child : children_) collect(child);
  return static_cast<std::size_t>(
      std::ranges::count_if(children_, [](const Child& child) { return child.pid >= 0; }));
}

}  // namespace penstock::cli
