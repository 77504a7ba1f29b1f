#pragma once

#include <chrono>
#include <thread>

namespace penstock::engine {

/// Until it is so; each of these is told by another thread that has nobody to tell it to. False
/// after a minute, far beyond what anything here takes.
template <class Condition>
[[nodiscard]] bool until(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace penstock::engine
