#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "transfer/arena.h"

namespace penstock::transfer {

/// Offers an arena to other processes of this host over a local socket: whoever connects and is of
/// the same build gets the arena's memory file (or leave to read foreign memory through the kernel)
/// and a page of its own to note its reading in. Data never goes through the server. A reader that
/// dies is noticed by its socket, and its page no longer counts: only its own reading ends.
/// Outlived by its arena. Thread: one of its own; calls from any.
class HostServer final {
 public:
  static constexpr std::size_t kReadersMax = 256;

  /// `socket_path` is replaced if it exists, and removed at the end; only this user may connect.
  /// `compatibility`: at most 248 bytes.
  static Result<std::unique_ptr<HostServer>> open(Arena& arena, const std::string& socket_path,
                                                  const std::string& compatibility);
  ~HostServer();

  [[nodiscard]] std::uint32_t readers() const noexcept { return readers_.load(); }
  [[nodiscard]] std::uint64_t refused() const noexcept { return refused_.load(); }

 private:
  struct State;
  explicit HostServer(std::unique_ptr<State> state);
  void work();
  void greet(std::size_t at);
  void drop(std::size_t at);

  std::unique_ptr<State> state_;
  std::atomic<std::uint32_t> readers_{0};
  std::atomic<std::uint64_t> refused_{0};
  std::jthread thread_;
};

}  // namespace penstock::transfer
