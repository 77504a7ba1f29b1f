#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "transfer/host_path.h"
#include "transfer/internal/tcp_path.h"
#include "transfer/internal/wire.h"
#include "transfer/peer.h"

namespace penstock::transfer {
namespace {

constexpr auto kAnswerWithin = std::chrono::seconds(2);

/// What an owner on this host has handed us.
struct HostLink {
  Fd socket;
  Fd process;  // a pidfd
  pid_t pid = 0;
  wire::Welcome welcome;
  std::optional<BlockTable> table;
  Memory page;
  Memory memory;  // empty unless kShared
};

Result<Fd> connect_local(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(Code::kInvalidArgument, "the socket path is too long");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail(Code::kOverloaded, "no socket: " + errno_text(errno));
  // An owner that is stopped takes nobody in once its queue is full.
  const timeval within{.tv_sec = kAnswerWithin.count(), .tv_usec = 0};
  if (setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &within, sizeof within) != 0 ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail(Code::kUnavailable, fmt::format("nobody at {}: {}", path, errno_text(errno)));
  }
  return fd;
}

/// Takes what came with the welcome, trusting none of it.
Result<void> accept_offer(HostLink& link, std::span<Fd> descriptors) {
  const wire::Welcome& welcome = link.welcome;
  const bool shared = welcome.kind == MemoryKind::kShared;
  if (descriptors.size() != (shared ? 3U : 2U)) return std::unexpected(wire::refusal({}));
  if (auto ok = welcome.offer.layout.validate(welcome.memory_bytes); !ok) return ok;
  auto table = BlockTable::open(descriptors[0].get(), welcome.table_bytes, welcome.offer.layout);
  if (!table) return std::unexpected(table.error());
  if (table->epoch() != welcome.offer.epoch) return std::unexpected(wire::refusal({}));
  link.table = std::move(*table);
  auto page = Memory::map(descriptors[1].get(), sizeof(ReaderPage), true);
  if (!page) return std::unexpected(page.error());
  link.page = std::move(*page);
  if (!shared) return {};
  auto memory = Memory::map(descriptors[2].get(), welcome.memory_bytes, false);
  if (!memory) return std::unexpected(memory.error());
  link.memory = std::move(*memory);
  return {};
}

Result<HostLink> link_to_host(const PeerAddress& address) {
  HostLink link;
  const auto key = wire::compatibility(address.compatibility);
  if (!key) return std::unexpected(key.error());
  auto socket = connect_local(address.socket_path);
  if (!socket) return std::unexpected(socket.error());
  link.socket = std::move(*socket);
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(link.socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return fail(Code::kUnavailable, "the owner's process cannot be told");
  }
  link.pid = credentials.pid;
  link.process = Fd(static_cast<int>(syscall(SYS_pidfd_open, credentials.pid, 0)));
  if (!link.process.valid()) return fail(Code::kUnavailable, "the owner's process is gone");
  wire::Hello hello;
  hello.compatibility = *key;
  auto sent = wire::send_message(link.socket.get(), std::as_bytes(std::span(&hello, 1)), {});
  if (!sent) return std::unexpected(sent.error());
  std::array<Fd, 3> descriptors;
  const auto got =
      wire::receive_message(link.socket.get(), std::as_writable_bytes(std::span(&link.welcome, 1)),
                            descriptors, kAnswerWithin);
  if (!got) return std::unexpected(got.error());
  const wire::Welcome& welcome = link.welcome;
  if (welcome.magic != wire::kMagic || welcome.version != wire::kVersion) {
    return std::unexpected(wire::refusal({}));
  }
  if (welcome.answer != wire::Answer::kWelcome) {
    return std::unexpected(wire::refusal(welcome.answer));
  }
  auto taken = accept_offer(link, std::span(descriptors).first(*got));
  if (!taken) return std::unexpected(taken.error());
  return link;
}

class RemotePeer final : public Peer {
 public:
  RemotePeer(const wire::Offer& offer, std::optional<HostLink> host, CopyPool& pool,
             const Clock& clock)
      : Peer(offer.layout, offer.epoch, clock), pool_(pool), host_(std::move(host)) {
    if (!host_) return;
    watches_ = {pool.deaths().watch(host_->socket.get(), &gone_),
                pool.deaths().watch(host_->process.get(), &gone_)};
    const HostSource source{layout_, &*host_->table,
                            reinterpret_cast<ReaderPage*>(host_->page.data()), &gone_, &clock_};
    if (host_->welcome.kind == MemoryKind::kShared) {
      add_path(std::make_unique<MappedPath>(PathKind::kShared, source, host_->memory.data(),
                                            pool.queue()));
    }
    add_path(
        std::make_unique<CmaPath>(source, host_->pid, host_->welcome.memory_address, pool.queue()));
  }
  ~RemotePeer() override {
    shut();
    for (const std::uint64_t watch : watches_) pool_.deaths().unwatch(watch);
  }
  void add_tcp(std::unique_ptr<TcpLink> first, const PeerAddress& address) {
    // Only where there is no other sign of life does TCP's word on it count.
    add_path(std::make_unique<TcpPath>(std::move(first), address, gone_, !host_, clock_));
  }

 private:
  CopyPool& pool_;
  std::optional<HostLink> host_;
  std::array<std::uint64_t, 2> watches_{};
};

}  // namespace

Result<std::unique_ptr<Peer>> Peer::connect(const PeerAddress& address, CopyPool& pool,
                                            const Clock& clock) {
  std::optional<HostLink> host;
  std::unique_ptr<TcpLink> tcp;
  Error why{Code::kInvalidArgument, "a peer without an address"};
  const auto meant = [&](const wire::Offer& offer) {
    if (offer.epoch == address.epoch.value_or(offer.epoch)) return true;
    why = {Code::kUnavailable, "another arena is there by now"};
    return false;
  };
  if (!address.socket_path.empty()) {
    auto linked = link_to_host(address);
    if (!linked) {
      why = linked.error();
    } else if (meant(linked->welcome.offer)) {
      host = std::move(*linked);
    }
  }
  if (!address.tcp_host.empty()) {
    auto linked = TcpLink::connect(address);
    if (!linked) {
      why = linked.error();
    } else if (meant((*linked)->offer())) {
      tcp = std::move(*linked);
    }
  }
  if (!host && !tcp) return std::unexpected(why);
  const wire::Offer offer = host ? host->welcome.offer : tcp->offer();
  if (host && tcp && (tcp->offer().epoch != offer.epoch || tcp->offer().layout != offer.layout)) {
    return fail(Code::kInvalidArgument, "the two addresses lead to different arenas");
  }
  auto peer = std::make_unique<RemotePeer>(offer, std::move(host), pool, clock);
  if (tcp) peer->add_tcp(std::move(tcp), address);
  return peer;
}

}  // namespace penstock::transfer
