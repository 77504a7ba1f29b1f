#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>

namespace penstock::log {
namespace {

std::atomic<Level> current_level{Level::kInfo};

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>(
        "penstock", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
    made->set_level(spdlog::level::trace);  // filtered before formatting, by enabled()
    return made;
  }();
  return *instance;
}

}  // namespace

Result<Level> parse_level(std::string_view text) {
  if (text == "debug") return Level::kDebug;
  if (text == "info") return Level::kInfo;
  if (text == "warn") return Level::kWarn;
  if (text == "error") return Level::kError;
  if (text == "off") return Level::kOff;
  return fail(Code::kInvalidArgument,
              fmt::format("log level \"{}\": expected debug, info, warn, error or off", text));
}

void set_level(Level level) { current_level.store(level, std::memory_order_relaxed); }

bool enabled(Level level) noexcept {
  return level >= current_level.load(std::memory_order_relaxed);
}

void write(Level level, std::string_view line) {
  switch (level) {
    case Level::kDebug: logger().debug("{}", line); break;
    case Level::kInfo: logger().info("{}", line); break;
    case Level::kWarn: logger().warn("{}", line); break;
    case Level::kError: logger().error("{}", line); break;
    case Level::kOff: break;
  }
}

}  // namespace penstock::log
