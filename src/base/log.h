#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "base/result.h"

/// The process log: one line an event on standard error, with time and level. Never prompt or
/// answer text: sizes and ids only. Thread: any.
namespace penstock::log {

enum class Level { kDebug, kInfo, kWarn, kError, kOff };

/// "debug", "info", "warn", "error", "off"
Result<Level> parse_level(std::string_view text);
void set_level(Level level);
[[nodiscard]] bool enabled(Level level) noexcept;
void write(Level level, std::string_view line);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kDebug))
    write(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kInfo)) write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kWarn)) write(Level::kWarn, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kError))
    write(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace penstock::log
