#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "transfer/internal/tcp_socket.h"
#include "transfer/path.h"
#include "transfer/peer.h"

namespace penstock::transfer {

/// A connection to an owner, both sides sure of each other.
class TcpLink final {
 public:
  /// Takes two seconds at most, and asks `stop` every tick. Fails with kUnavailable only if nobody
  /// listens there; kOverloaded: it hung up at once, or no descriptor is left here;
  /// kDeadlineExceeded: stopped, or no answer.
  static Result<std::unique_ptr<TcpLink>> connect(
      const PeerAddress& address, const std::function<bool()>& stop = [] { return false; });
  [[nodiscard]] const wire::Offer& offer() const noexcept { return offer_; }
  [[nodiscard]] int socket() const noexcept { return socket_.get(); }

 private:
  TcpLink(Fd socket, const wire::Offer& offer) noexcept
      : socket_(std::move(socket)), offer_(offer) {}
  Fd socket_;
  wire::Offer offer_;
};

/// Pulls over several connections, each with a thread that keeps some requests under way, and
/// verifies what comes while it copies it into the slots. A broken connection is made anew, and
/// what it had under way is asked for again; a chunk that has seen several break is kPathFailed.
/// Whatever the connections do, what nobody wants any more ends a few ticks later: what is under
/// way on one costs it.
class TcpPath final : public Path {
 public:
  /// `gone`: the peer's; set here only if `judge_of_death`, when nobody listens at the address or
  /// an arena of another epoch does.
  TcpPath(std::unique_ptr<TcpLink> first, PeerAddress address, std::atomic<bool>& gone,
          bool judge_of_death, const Clock& clock);
  ~TcpPath() override;
  ChunkQueue& queue() noexcept override { return queue_; }

 private:
  class Stream;

  PeerAddress address_;
  wire::Offer offer_;
  std::atomic<bool>& gone_;
  const bool judge_of_death_;
  const Clock& clock_;
  ChunkQueue queue_;
  std::vector<std::jthread> threads_;
};

}  // namespace penstock::transfer
