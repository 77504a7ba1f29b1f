#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "cli/command.h"
#include "cli/load/fetch.h"
#include "cli/signals.h"
#include "cli/top/frame.h"
#include "cli/top/sample.h"

namespace penstock::cli {
namespace {

constexpr const char* kTopDescription =
    "Watch a server's workers in the terminal: load, caches, hit ratios, latencies";

constexpr const char* kTopFooter =
    "Every second anew; q or Ctrl-C leaves. Where standard output is no terminal, one frame.\n"
    "\n"
    "  trust      how far the router's picture of a worker's cache can be believed\n"
    "  prefill    prompt tokens not computed yet\n"
    "  KV in use  by running requests, of what they can use\n"
    "  cached     reusable KV blocks held, of what fits\n"
    "  hits       prompt tokens found cached, of all since the start\n"
    "  forecasts  requests whose cached tokens were predicted to the token\n"
    "\n"
    "Latencies are of the last second, or of all time when nothing came in it.\n"
    "Exit status: 0 done, 1 the server did not answer, 2 wrong usage.";

struct TopFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;
  double interval_s = 1;
  bool once = false;
};

/// A terminal of our own: another screen, keys without Enter. As it was when this is gone.
class Screen final {
 public:
  Screen() : raw_(tcgetattr(STDIN_FILENO, &before_) == 0) {
    if (raw_) {
      termios keys = before_;
      keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      tcsetattr(STDIN_FILENO, TCSANOW, &keys);
    }
    fmt::print("\x1b[?1049h\x1b[?25l");
  }
  ~Screen() {
    fmt::print("\x1b[?25h\x1b[?1049l");
    std::fflush(stdout);
    if (raw_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  static void show(const std::string& text) {
    fmt::print("\x1b[H\x1b[J{}", text);
    std::fflush(stdout);
  }
  static std::uint32_t columns() {
    winsize size{};
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
  }

 private:
  termios before_{};
  const bool raw_;
};

/// True once q was pressed. Waits no longer than `wait`.
bool wants_to_leave(Nanos wait) {
  pollfd keys{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  const auto wait_ms = std::chrono::duration_cast<std::chrono::milliseconds>(wait).count();
  if (poll(&keys, 1, static_cast<int>(wait_ms)) <= 0 || (keys.revents & POLLIN) == 0) return false;
  char key = 0;
  return read(STDIN_FILENO, &key, 1) == 1 && (key == 'q' || key == 'Q');
}

Result<top::Sample> look(load::Fetcher& server, const Clock& clock) {
  constexpr Nanos kTimeout = std::chrono::seconds(5);
  const Result<load::Fetched> workers = server.get("/debug/workers", kTimeout);
  if (!workers) return std::unexpected(workers.error());
  if (workers->status != 200) {
    return fail(Code::kUnavailable,
                fmt::format("GET /debug/workers: status {}{}", workers->status,
                            workers->status == 401   ? " (--api-key)"
                            : workers->status == 503 ? ", the model is not loaded yet"
                                                     : ""));
  }
  const Result<load::Fetched> metrics = server.get("/metrics", kTimeout);
  if (!metrics) return std::unexpected(metrics.error());
  return top::read_sample(workers->body, metrics->body, clock.now());
}

/// Until q or a signal. Beyond the first, a look that fails is shown and tried again.
int watch(load::Fetcher& server, const TopFlags& flags, top::Sample first, const Clock& clock,
          const Signals& signals) {
  constexpr Nanos kKeyWait = std::chrono::milliseconds(50);
  const Nanos interval = from_seconds(flags.interval_s);
  const Screen screen;
  const bool keys = isatty(STDIN_FILENO) != 0;
  std::optional<top::Sample> before;
  Result<top::Sample> now = std::move(first);
  while (true) {
    const top::FrameStyle style{.colour = true, .columns = Screen::columns()};
    Screen::show(now ? top::frame(flags.url, *now, before ? &*before : nullptr, style)
                     : fmt::format("{}: {}\n", flags.url, now.error().message));
    const TimePoint next = clock.now() + interval;
    while (clock.now() < next) {
      if (signals.next(keys ? Nanos::zero() : kKeyWait) != 0) return 0;
      if (keys && wants_to_leave(kKeyWait)) return 0;
    }
    if (now) before = std::move(*now);
    now = look(server, clock);
  }
}

int run_top(const TopFlags& flags) {
  const Result<net::Url> url = load::read_server_url(flags.url);
  if (!url) return refuse("top", url.error(), 2);
  const Signals signals;
  const SteadyClock clock;
  load::Fetcher server(*url, flags.api_key);
  Result<top::Sample> sample = look(server, clock);
  if (!sample) return refuse("top", sample.error(), 1);
  if (flags.once || isatty(STDOUT_FILENO) == 0) {
    fmt::print("{}", top::frame(flags.url, *sample, nullptr, {.columns = 200}));
    return 0;
  }
  return watch(server, flags, std::move(*sample), clock, signals);
}

}  // namespace

void add_top(CommandLine& line) {
  auto flags = std::make_shared<TopFlags>();
  Command& command = line.add_command("top", kTopDescription, "PENSTOCK_TOP_");
  command.footer(kTopFooter);
  command.add_config_file();
  command.add("--url", flags->url, "The server; http only");
  command.add("--api-key", flags->api_key, "Key to show, if the server wants one");
  command.add("--interval-s", flags->interval_s, "From frame to frame, seconds").range(0.1, 3600.0);
  command.add_switch("--once", flags->once, "Print one frame and leave");
  command.on_run([flags] { return run_top(*flags); });
}

}  // namespace penstock::cli
