#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "base/result.h"
#include "transfer/arena.h"

namespace penstock::transfer {

/// Offers an arena over TCP to readers that know a secret and are of the same build. Each
/// connection has a thread that sends what is asked for, straight from the slots; grants are
/// checked for each request, and a reader that is slow to take what it asked for is cut off when
/// its grant is revoked, so that draining ends. Whose host is gone without a word gives its place
/// back half a minute later. Who has not proved that it knows the secret has one of a few places of
/// its own, and loses it to a newcomer when all are taken; who has is never pushed out. The secret
/// proves who is who; the bytes are neither hidden nor, beyond their checksums, protected from
/// whoever can alter packets: use a network you trust. Outlived by its arena. Thread: its own;
/// calls from any.
class TcpServer final {
 public:
  /// Who proved the secret: the two connections each of as many workers as one knows at once
  /// (engine::KvExchange::kAwayMax). One costs a descriptor, a thread and some 50 KiB: 25 MiB all.
  static constexpr std::uint32_t kReadersMax = 512;
  static constexpr std::uint32_t kStrangersMax = 32;  // who did not, or not yet
  static constexpr std::size_t kSecretBytesMin = 16;

  struct Options {
    std::string host = "127.0.0.1";  // an address, not a name
    std::uint16_t port = 0;          // 0: any free one
    std::string secret;              // at least kSecretBytesMin
    std::string compatibility;       // at most 248 bytes
    std::uint32_t readers_max = kReadersMax;
  };
  static Result<std::unique_ptr<TcpServer>> open(Arena& arena, const Options& options);
  ~TcpServer();

  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  /// Connections that were closed for want of the secret, of the same build or of a place.
  [[nodiscard]] std::uint64_t refused() const noexcept { return counts_.refused.load(); }
  [[nodiscard]] std::uint64_t bytes_sent() const noexcept { return counts_.bytes_sent.load(); }

  struct Counts {
    std::atomic<std::uint64_t> refused{0};
    std::atomic<std::uint64_t> bytes_sent{0};
    std::atomic<std::uint32_t> readers{0};
  };

 private:
  struct State;
  TcpServer(std::unique_ptr<State> state, std::uint16_t port);
  void accept_all();

  std::unique_ptr<State> state_;
  std::uint16_t port_;
  Counts counts_;
  std::atomic<bool> stopping_{false};
  std::jthread thread_;
};

}  // namespace penstock::transfer
