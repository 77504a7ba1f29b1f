#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "transfer/arena.h"
#include "transfer/copy_pool.h"
#include "transfer/path.h"
#include "transfer/transfer.h"

namespace penstock::transfer {

/// Where an owner offers its arena: over a local socket (HostServer), TCP (TcpServer), or both.
struct PeerAddress {
  std::string socket_path;  // empty: not on this host
  std::string tcp_host;     // an address, not a name; empty: no TCP
  std::uint16_t tcp_port = 0;
  std::string secret;                  // what the owner's TCP readers must know
  std::string compatibility;           // equal to the owner's, or it refuses
  std::optional<std::uint64_t> epoch;  // of the arena that is meant; absent: whichever is there
  unsigned tcp_streams = 2;
};

/// One owner's arena, as whoever pulls from it sees it: which paths lead there, what each costs,
/// and whether the owner lives. Each pull takes the path with the least predicted time; what fails
/// there is tried on the others. Thread: any. Outlives its transfers.
class Peer {
 public:
  /// An arena of this process, which outlives the peer.
  static std::unique_ptr<Peer> local(Arena& arena, CopyPool& pool, const Clock& clock);

  /// An arena of another process, by each way that leads there: it has another one to be left out.
  /// Takes four seconds at most for each that does not answer. Fails, with what is wrong with the
  /// last, if none does: kUnavailable if nobody is there, or another arena than that of `epoch`;
  /// kUnprocessable if it is of another build, kUnauthorized if it does not accept the secret,
  /// kOverloaded if it has no place left, or this process no descriptor.
  static Result<std::unique_ptr<Peer>> connect(const PeerAddress& address, CopyPool& pool,
                                               const Clock& clock);

  virtual ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  /// Starts moving blocks into reserved or unused slots of `to`. Takes constant time (but for
  /// setting `pull.status` to kPending) and no memory; `transfer` tells of the end. Fails, and
  /// starts nothing, if the spans do not fit each other (kInvalidArgument), blocks do not fit the
  /// slots (kUnprocessable), the owner is gone (kUnavailable) or too much waits (kOverloaded).
  Result<void> pull(Transfer& transfer, const Pull& pull, Arena& to);

  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }
  /// False once the owner's process is known to be dead; for good: connect anew.
  [[nodiscard]] bool alive() const noexcept { return !gone_.load(std::memory_order_acquire); }
  [[nodiscard]] std::span<const std::unique_ptr<Path>> paths() const noexcept { return paths_; }
  /// Blocks are on their way; false: every transfer that has ended is in the meters.
  [[nodiscard]] bool busy() const noexcept {
    return in_flight_.load(std::memory_order_acquire) > 0;
  }
  /// What was pulled from it.
  [[nodiscard]] Traffic::ByPath traffic() const { return traffic_.sums(); }

 protected:
  Peer(const Layout& layout, std::uint64_t epoch, const Clock& clock) noexcept
      : layout_(layout), epoch_(epoch), clock_(clock) {}
  void add_path(std::unique_ptr<Path> path);
  /// Ends what is in flight; a subclass calls it before what its paths use goes.
  void shut() noexcept;

  const Layout layout_;
  const std::uint64_t epoch_;
  const Clock& clock_;
  std::atomic<bool> gone_{false};

 private:
  friend class Path;
  void finished(Transfer& transfer) noexcept;
  bool retry(Transfer& transfer) noexcept;
  [[nodiscard]] Path* choose(const Transfer& transfer) noexcept;
  Result<void> check(const Pull& pull, const Arena& to) const;

  struct Standing {                              // of one path
    std::atomic<std::int64_t> down_until_ns{0};  // failed lately: taken only if no other is left
  };
  std::vector<std::unique_ptr<Path>> paths_;
  std::vector<std::unique_ptr<Standing>> standings_;
  std::atomic<std::uint64_t> pulls_{0};
  Traffic traffic_;
  std::atomic<std::uint64_t> in_flight_{0};
};

/// `co_await Pulled(peer, transfer, pull, arena)`: the submission's result, once the transfer is
/// done. Resumes on a thread of the path, which must not be held: post to your own loop.
class Pulled final {
 public:
  Pulled(Peer& peer, Transfer& transfer, const Pull& pull, Arena& to) noexcept
      : peer_(peer), transfer_(transfer), pull_(pull), to_(to) {}

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiting) {
    transfer_.on_done = [](void* frame) { std::coroutine_handle<>::from_address(frame).resume(); };
    transfer_.context = waiting.address();
    auto started = peer_.pull(transfer_, pull_, to_);
    if (started) return true;  // `this` may be gone by now
    result_ = std::move(started);
    return false;
  }
  Result<void> await_resume() noexcept { return std::move(result_); }

 private:
  Peer& peer_;
  Transfer& transfer_;
  Pull pull_;
  Arena& to_;
  Result<void> result_;
};

}  // namespace penstock::transfer
