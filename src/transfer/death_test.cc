// Owners and readers that are killed or stopped, in processes of their own.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <thread>

#include "transfer/host_server.h"
#include "transfer/internal/wire.h"
#include "transfer/tcp_server.h"
#include "transfer/test_blocks.h"

namespace penstock::transfer {
namespace {

using namespace std::chrono_literals;
using testing::fill_all;
using testing::in;
using testing::kClock;
using testing::kSecret;
using testing::make_arena;
using testing::Order;

/// A process that runs `life` and tells its parent one number; it is killed at the latest with
/// this.
class Child final {
 public:
  explicit Child(const std::function<std::uint64_t()>& life) {
    std::array<int, 2> ends{};
    CHECK_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const std::uint64_t word = life();
      CHECK_EQ(write(ends[1], &word, sizeof word), static_cast<ssize_t>(sizeof word));
      for (;;) pause();
    }
    close(ends[1]);
    if (read(ends[0], &word_, sizeof word_) != sizeof word_) word_ = 0;
    close(ends[0]);
  }
  ~Child() { send(SIGKILL, true); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void send(int signal, bool reap = false) {
    if (pid_ <= 0) return;
    kill(pid_, signal);
    if (signal == SIGSTOP) waitpid(pid_, nullptr, WUNTRACED);  // from here on it does nothing
    if (!reap) return;
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  [[nodiscard]] std::uint64_t word() const noexcept { return word_; }
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }

 private:
  pid_t pid_ = 0;
  std::uint64_t word_ = 0;
};

std::string path_for(const char* name) {
  return ::testing::TempDir() + "penstock-death-" + name + "-" + std::to_string(getpid());
}

/// A process that owns `slots` blocks, offered at a local socket and over TCP, under one grant that
/// every test can name: the first of its arena. Its word is the TCP port.
std::function<std::uint64_t()> owner(const std::string& path, const Layout& layout) {
  return [=]() -> std::uint64_t {
    auto* arena = make_arena(layout, MemoryKind::kShared).release();
    auto* refs = new std::vector<BlockRef>(fill_all(*arena));
    CHECK((arena->grants().open(*refs, kClock.now() + 1h) == GrantId{0, 1}));
    CHECK(HostServer::open(*arena, path, "build").value().release() != nullptr);
    auto* tcp =
        TcpServer::open(*arena, {.secret = kSecret, .compatibility = "build"}).value().release();
    return tcp->port();
  };
}

/// What `fill_all` of a fresh arena gives: each slot written once.
std::vector<BlockRef> fresh_refs(std::uint32_t slots) {
  std::vector<BlockRef> refs;
  for (std::uint32_t slot = 0; slot < slots; ++slot) refs.push_back({slot, 2});
  return refs;
}

PeerAddress local_address(const std::string& path) {
  PeerAddress address;
  address.socket_path = path;
  address.compatibility = "build";
  return address;
}
PeerAddress tcp_address(const Child& owner) {
  PeerAddress address;
  address.tcp_host = "127.0.0.1";
  address.tcp_port = static_cast<std::uint16_t>(owner.word());
  address.secret = kSecret;
  address.compatibility = "build";
  return address;
}

constexpr std::uint32_t kSlots = 512;
const Layout kLayout = Layout::by_block(kSlots, 1, 16 << 10);

class Death : public ::testing::TestWithParam<bool> {  // over TCP?
 protected:
  PeerAddress address(const std::string& path, const Child& owner) const {
    return GetParam() ? tcp_address(owner) : local_address(path);
  }
};

TEST_P(Death, OfAnOwnerFailsItsBlocksOnlyAndSaysWhichArrived) {
  const std::string doomed_path = path_for("doomed");
  const std::string other_path = path_for("other");
  Child doomed(owner(doomed_path, kLayout));
  Child other(owner(other_path, kLayout));
  CopyPool pool;
  auto doomed_peer = Peer::connect(address(doomed_path, doomed), pool, kClock).value();
  auto other_peer = Peer::connect(address(other_path, other), pool, kClock).value();
  const auto to = make_arena(kLayout);
  const auto other_to = make_arena(kLayout);
  const auto refs = fresh_refs(kSlots);
  Order order(kSlots);
  Order other_order(kSlots);
  order.granted = other_order.granted = refs;
  // Pull again and again until it dies in the middle of one.
  std::jthread killer;
  Transfer transfer;
  Transfer other_transfer;
  std::size_t arrived = kSlots;
  for (int round = 0; arrived == kSlots; ++round) {
    if (!doomed_peer->pull(transfer, order.pull({0, 1}), *to)) break;
    ASSERT_TRUE(other_peer->pull(other_transfer, other_order.pull({0, 1}), *other_to).has_value());
    if (round == 3) killer = std::jthread([&] { doomed.send(SIGKILL, true); });
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
    ASSERT_TRUE(other_transfer.wait(in(20s), kClock));
    ASSERT_EQ(other_transfer.arrived(), kSlots);
    arrived = transfer.arrived();
    for (std::size_t i = 0; i < kSlots; ++i) {
      if (order.status[i] == BlockStatus::kArrived) {
        ASSERT_TRUE(to->verify(order.to[i], order.keys[i]));
      } else {
        ASSERT_TRUE(order.status[i] == BlockStatus::kPeerDead ||
                    order.status[i] == BlockStatus::kPathFailed)
            << to_string(order.status[i]);
        if (round > 0) continue;  // the slot may hold the block of a round before
        ASSERT_FALSE(to->ref(order.to[i]).has_value());
      }
    }
  }
  while (doomed_peer->alive()) std::this_thread::yield();
  EXPECT_TRUE(other_peer->alive());
  // A new owner at the old address is another peer, with an epoch of its own.
  killer = {};
  if (!GetParam()) {
    Child reborn(owner(doomed_path, kLayout));
    const auto again = Peer::connect(local_address(doomed_path), pool, kClock).value();
    EXPECT_NE(again->epoch(), doomed_peer->epoch());
    ASSERT_TRUE(again->pull(transfer, order.pull({0, 1}), *to).has_value());
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
    EXPECT_EQ(transfer.arrived(), kSlots);
  }
}

std::string name(const ::testing::TestParamInfo<bool>& info) {
  return info.param ? "OverTcp" : "OnTheHost";
}
INSTANTIATE_TEST_SUITE_P(Paths, Death, ::testing::Bool(), name);

TEST(Stall, AStoppedOwnerCostsTheDeadlineAndIsUsedAgainWhenItGoesOn) {
  Child stalled(owner(path_for("stalled"), kLayout));
  CopyPool pool;
  const auto peer = Peer::connect(tcp_address(stalled), pool, kClock).value();
  const auto to = make_arena(kLayout);
  Order order(kSlots);
  order.granted = fresh_refs(kSlots);
  Transfer transfer;
  ASSERT_TRUE(peer->pull(transfer, order.pull({0, 1}), *to).has_value());
  ASSERT_TRUE(transfer.wait(in(20s), kClock));
  ASSERT_EQ(transfer.arrived(), kSlots);
  stalled.send(SIGSTOP);
  const TimePoint stopped = kClock.now();
  for (int round = 0; round < 5; ++round) {  // the first finds connections, the others none
    Pull pull = order.pull({0, 1});
    pull.deadline = in(50ms);
    ASSERT_TRUE(peer->pull(transfer, pull, *to).has_value());
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
    EXPECT_GT(order.count(BlockStatus::kDeadline), 0U);
    EXPECT_EQ(order.count(BlockStatus::kDeadline) + transfer.arrived(), kSlots);
  }
  EXPECT_LT(kClock.now() - stopped, 4s);  // connecting may take two, each time
  stalled.send(SIGCONT);
  EXPECT_TRUE(peer->alive());
  // Only now does it answer what it was asked before, on connections that are given up.
  ASSERT_TRUE(peer->pull(transfer, order.pull({0, 1}), *to).has_value());
  ASSERT_TRUE(transfer.wait(in(20s), kClock));
  EXPECT_EQ(transfer.arrived(), kSlots);
}

TEST(Stall, WhatIsCancelledEndsWhateverIsAheadOfIt) {
  Child stalled(owner(path_for("stalled"), kLayout));
  PeerAddress address = tcp_address(stalled);
  address.tcp_streams = 1;
  CopyPool pool;
  const auto peer = Peer::connect(address, pool, kClock).value();
  const auto to = make_arena(kLayout);
  const auto other_to = make_arena(kLayout);
  for (const std::uint32_t ahead : {64U, kSlots}) {  // one request, and more than are under way
    Order order(ahead);
    Order other_order(64);
    order.granted = other_order.granted = fresh_refs(kSlots);
    Transfer transfer;
    Transfer other;
    stalled.send(SIGSTOP);
    ASSERT_TRUE(peer->pull(transfer, order.pull({0, 1}), *to).has_value());
    ASSERT_TRUE(peer->pull(other, other_order.pull({0, 1}), *other_to).has_value());
    other.cancel();
    EXPECT_TRUE(other.wait(in(10s), kClock));
    EXPECT_FALSE(transfer.done());
    stalled.send(SIGCONT);
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
    EXPECT_EQ(transfer.arrived(), ahead);
    ASSERT_TRUE(other.wait(in(20s), kClock));
    EXPECT_EQ(other_order.count(BlockStatus::kCancelled), 64U);
  }
}

/// A reader that enters a grant as a copy thread would, and stays inside.
std::function<std::uint64_t()> intruder(const std::string& path) {
  return [=]() -> std::uint64_t {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return 0;
    wire::Hello hello;
    wire::Welcome welcome;
    std::array<Fd, 3> descriptors;
    if (!wire::send_message(fd, std::as_bytes(std::span(&hello, 1)), {}) ||
        !wire::receive_message(fd, std::as_writable_bytes(std::span(&welcome, 1)), descriptors,
                               5s)) {
      return 0;
    }
    auto* page = new Memory(Memory::map(descriptors[1].get(), sizeof(ReaderPage), true).value());
    reinterpret_cast<ReaderPage*>(page->data())->active[0].fetch_add(1);
    return 1;
  };
}

TEST(Stall, AReaderInsideHoldsTheSlotsUntilItIsDead) {
  const std::string path = path_for("intruder");
  const auto arena = make_arena(kLayout, MemoryKind::kShared);
  const auto refs = fill_all(*arena);
  const GrantId grant = *arena->grants().open(refs, kClock.now() + 1h);
  ASSERT_EQ(grant, (GrantId{0, 1}));
  auto server = HostServer::open(*arena, path, "").value();
  Child reader(intruder(path));
  ASSERT_EQ(reader.word(), 1U);
  EXPECT_EQ(server->readers(), 1U);
  reader.send(SIGSTOP);
  const auto closed = arena->grants().close(grant, Deadline(kClock.now()), kClock);
  ASSERT_FALSE(closed.has_value());
  EXPECT_EQ(closed.error().code, Code::kDeadlineExceeded);
  reader.send(SIGKILL, true);
  EXPECT_TRUE(arena->grants().close(grant, in(20s), kClock).has_value());
  while (server->readers() != 0) std::this_thread::yield();
}

TEST(Stall, ATcpReaderThatTakesNothingIsCutOffWhenItsGrantIsRevoked) {
  const Layout layout = Layout::by_block(64, 1, 1 << 20);  // more than sockets buffer
  const auto arena = make_arena(layout, MemoryKind::kShared);
  std::vector<BlockRef> refs;
  for (std::uint32_t slot = 0; slot < 64; ++slot) {
    arena->reserve(slot);
    arena->sum_and_commit(slot, testing::key_of(slot));
    refs.push_back(*arena->ref(slot));
  }
  const GrantId grant = *arena->grants().open(refs, kClock.now() + 1h);
  std::array<int, 2> port_pipe{};
  ASSERT_EQ(pipe2(port_pipe.data(), O_CLOEXEC), 0);
  // The child is made before the server's threads; it reads the port from the pipe, pulls, and
  // says so when it has its first block. Then it is stopped.
  const pid_t child = fork();
  if (child == 0) {
    std::uint16_t port = 0;
    if (read(port_pipe[0], &port, sizeof port) != sizeof port) _exit(1);
    PeerAddress address;
    address.tcp_host = "127.0.0.1";
    address.tcp_port = port;
    address.secret = kSecret;
    CopyPool pool;
    const auto peer = Peer::connect(address, pool, kClock).value();
    const auto to = make_arena(layout);
    Order order(64);
    order.granted = refs;
    for (;;) {
      Transfer transfer;
      if (!peer->pull(transfer, order.pull(grant), *to)) _exit(1);
      transfer.wait(in(20s), kClock);
    }
  }
  const auto server = TcpServer::open(*arena, {.secret = kSecret}).value();
  const std::uint16_t port = server->port();
  ASSERT_EQ(write(port_pipe[1], &port, sizeof port), static_cast<ssize_t>(sizeof port));
  while (server->bytes_sent() < (100 << 20)) std::this_thread::yield();
  kill(child, SIGSTOP);
  waitpid(child, nullptr, WUNTRACED);
  EXPECT_TRUE(arena->grants().close(grant, in(20s), kClock).has_value());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(port_pipe[0]);
  close(port_pipe[1]);
}

}  // namespace
}  // namespace penstock::transfer
