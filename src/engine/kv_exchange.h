#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/complaint.h"
#include "base/result.h"
#include "engine/kv_ticket.h"
#include "transfer/copy_pool.h"
#include "transfer/host_server.h"
#include "transfer/peer.h"
#include "transfer/tcp_server.h"

namespace penstock::engine {

/// How the workers of a process share KV with those of others. Nothing set: they do not.
struct KvSharing {
  std::string socket_folder;  // for those of this host, who map the memory; empty: not so
  std::string tcp_listen;     // a host of this machine, for those of any host; empty: not so
  std::string tcp_advertise;  // as KvAddress::tcp_host
  std::string secret;         // of all workers alike; for TCP, transfer::TcpServer::kSecretBytesMin
  bool alone = false;         // no other worker of this process is there to share with

  [[nodiscard]] bool outside() const noexcept {
    return !socket_folder.empty() || !tcp_listen.empty();
  }
};

/// Where workers find each other's KV: each offers the memory of its blocks, any other pulls what a
/// ticket names from it, in this process or (KvSharing) from another one, over whichever way is
/// open and quickest (transfer::Peer). Moves no block by itself and knows no requests.
/// Thread: any. `clock` and the exchange outlive the workers.
class KvExchange final {
 public:
  /// Workers of other processes that are known at once; of more the one longest unused is let go.
  static constexpr std::size_t kAwayMax = 256;
  static constexpr Nanos kUnusedMax = std::chrono::seconds(60);  // and then as well
  static constexpr std::size_t kOpenersMax = 4;                  // ways that are made at once
  /// Of this process for as many workers: two for the way there by memory and two for theirs here,
  /// and over TCP as many.
  static constexpr std::size_t kDescriptorsMax = 8 * kAwayMax;

  explicit KvExchange(const Clock& clock, KvSharing sharing = {});
  ~KvExchange();
  KvExchange(const KvExchange&) = delete;
  KvExchange& operator=(const KvExchange&) = delete;

  /// Whether memory that is offered should be transfer::MemoryKind::kShared: others map it. For TCP
  /// it need not be, and a system may have huge pages for private memory only.
  [[nodiscard]] bool shares_memory() const noexcept { return !sharing_.socket_folder.empty(); }

  /// Whether anybody could come to what has been offered.
  [[nodiscard]] bool reachable(const KvTicket& offered) const noexcept {
    return !sharing_.alone || !offered.at.nowhere();
  }

  /// Lets others pull from `arena`, which lives until withdraw(). Gives what tickets say of it.
  /// `compatibility`: only between workers that say the same are blocks of any use; at most 248
  /// bytes. What cannot be opened to other processes is logged, and not in the address.
  KvTicket offer(transfer::Arena& arena, std::string_view compatibility);
  /// From here on nobody reads there; waits for those who do, which is a chunk of a copy.
  void withdraw(std::uint64_t source);

  enum class Way : std::uint8_t {
    kOpen,    // the pull has begun
    kOpening  // it has not: the way to that worker is being made. To be asked again
  };
  /// Starts a pull (transfer::Peer::pull) from where the ticket says; never waits. Fails with
  /// kUnavailable if the worker is gone or cannot be reached, kUnprocessable if its blocks are
  /// others.
  Result<Way> pull(const KvTicket& ticket, std::string_view compatibility,
                   transfer::Transfer& transfer, const transfer::Pull& pull, transfer::Arena& to);
  /// Waits for a way that was kOpening to be open or not to be had, at most so long.
  void wait_for_ways(Nanos at_most);

 private:
  struct Source {
    std::string compatibility;
    std::unique_ptr<transfer::Peer> peer;
    std::unique_ptr<transfer::HostServer> host;
    std::unique_ptr<transfer::TcpServer> tcp;
  };
  /// A worker of another process, by its source.
  struct Away {
    std::uint64_t source = 0;
    KvAddress at;
    std::string compatibility;
    std::unique_ptr<transfer::Peer> peer;  // null: none (yet)
    TimePoint used{};                      // asked for, the last time
    bool opening = false;                  // a way is needed
    std::uint64_t attempt = 0;             // number of the one that is under way; 0: none yet
    TimePoint since{};                     // it is needed
    Error why;                             // the last time that it could not be reached
    TimePoint not_before = TimePoint::min();
  };

  void open_outside(Source& source, transfer::Arena& arena, KvAddress& at) const;
  Away& away(const KvTicket& ticket, std::string_view compatibility);
  void want_way(Away& owner);
  void open_ways(const std::stop_token& stop);
  void let_go();
  [[nodiscard]] static bool waits(const Away& owner) noexcept {
    return owner.opening && owner.attempt == 0;
  }
  [[nodiscard]] Away* longest_waiting();
  void open_way(Away& owner, std::unique_lock<std::mutex>& lock);
  [[nodiscard]] transfer::PeerAddress address_of(const Away& owner) const;

  const Clock& clock_;
  const KvSharing sharing_;
  transfer::CopyPool copies_;  // one thread: outlives the peers
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::unordered_map<std::uint64_t, Source> sources_;
  std::list<Away> away_;  // the last used first
  std::uint64_t attempts_ = 0;
  Complaint trouble_;  // with ways
  std::size_t busy_openers_ = 0;
  std::vector<std::unique_ptr<transfer::Peer>> unused_;  // their end waits: not under the lock
  std::vector<std::jthread> openers_;  // as many as were needed at once. Last: they use the others
};

}  // namespace penstock::engine
