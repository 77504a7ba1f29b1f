// Pulls from an owner behind sockets: by every path the same blocks arrive and the same are missed.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <thread>

#include "transfer/host_path.h"
#include "transfer/host_server.h"
#include "transfer/internal/wire.h"
#include "transfer/tcp_server.h"
#include "transfer/test_blocks.h"

namespace penstock::transfer {
namespace {

using namespace std::chrono_literals;
using testing::fill_all;
using testing::holds;
using testing::in;
using testing::kClock;
using testing::key_of;
using testing::kSecret;
using testing::make_arena;
using testing::Order;
using testing::put;

std::string remote_path() {
  return ::testing::TempDir() + "penstock-transfer-" + std::to_string(getpid());
}

/// Which way, and so whose memory and which addresses.
class Remote : public ::testing::TestWithParam<PathKind> {
 protected:
  void serve(const Layout& layout, const std::string& build = "build 1") {
    if (GetParam() == PathKind::kCma) {
      foreign.resize(layout.end_bytes());
      from = std::move(*Arena::adopt(layout, foreign));
    } else {
      from = make_arena(layout, MemoryKind::kShared);
    }
    refs = fill_all(*from);
    grant = *from->grants().open(refs, kClock.now() + 1h);
    if (GetParam() == PathKind::kTcp) {
      tcp = std::move(*TcpServer::open(*from, {.secret = kSecret, .compatibility = build}));
    } else {
      host = std::move(*HostServer::open(*from, remote_path(), build));
    }
  }
  PeerAddress address() const {
    PeerAddress made;
    made.compatibility = "build 1";
    made.secret = kSecret;
    if (tcp != nullptr) {
      made.tcp_host = "127.0.0.1";
      made.tcp_port = tcp->port();
    } else {
      made.socket_path = remote_path();
    }
    return made;
  }
  void connect() {
    auto connected = Peer::connect(address(), pool, kClock);
    ASSERT_TRUE(connected.has_value()) << connected.error().message;
    peer = std::move(*connected);
    // With shared memory there is CMA beside it; here each is tried alone.
    ASSERT_EQ(peer->paths()[0]->kind(), GetParam());
  }
  void run(Order& order, Arena& to, GrantId with) {
    order.granted = refs;
    ASSERT_TRUE(peer->pull(transfer, order.pull(with), to).has_value());
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
  }

  std::vector<std::byte> foreign;
  std::unique_ptr<Arena> from;
  std::vector<BlockRef> refs;
  GrantId grant;
  std::unique_ptr<HostServer> host;
  std::unique_ptr<TcpServer> tcp;
  CopyPool pool{2};
  std::unique_ptr<Peer> peer;
  Transfer transfer;
};

TEST_P(Remote, BlocksArriveWhateverTheLayouts) {
  serve(Layout::by_part(300, 3, 5000));
  connect();
  EXPECT_EQ(peer->epoch(), from->table().epoch());
  for (const Layout& layout : {Layout::by_block(300, 3, 5000), Layout::by_part(300, 3, 5000)}) {
    const auto to = make_arena(layout);
    Order order(300);
    run(order, *to, grant);
    for (std::size_t i = 0; i < 300; ++i) {
      ASSERT_EQ(order.status[i], BlockStatus::kArrived);
      ASSERT_TRUE(holds(*to, order.to[i], order.take[i]));
    }
  }
}

TEST_P(Remote, PartsOfAnySizeArrive) {
  // Larger than what is received at once, as large, a little more, and a few bytes.
  for (const std::uint32_t part_bytes : {200'003U, 65'536U, 65'537U, 131'072U, 7U}) {
    peer.reset();
    host.reset();
    tcp.reset();
    serve(Layout::by_block(6, 3, part_bytes));
    connect();
    const auto to = make_arena(Layout::by_part(6, 3, part_bytes));
    Order order(6);
    run(order, *to, grant);
    for (std::size_t i = 0; i < 6; ++i) {
      ASSERT_EQ(order.status[i], BlockStatus::kArrived) << part_bytes;
      ASSERT_TRUE(holds(*to, order.to[i], order.take[i])) << part_bytes;
    }
  }
}

TEST_P(Remote, LayerRangesCompleteInOrder) {
  serve(Layout::by_block(100, 4, 3000));
  connect();
  const auto to = make_arena(Layout::by_part(100, 4, 3000));
  Order order(100);
  order.granted = refs;
  const std::vector<std::uint32_t> ends{1, 2, 4};
  Pull pull = order.pull(grant);
  pull.range_ends = ends;
  ASSERT_TRUE(peer->pull(transfer, pull, *to).has_value());
  for (std::uint32_t range = 0; range < 3; ++range) {
    while (!transfer.range_done(range)) std::this_thread::yield();
    for (std::size_t i = 0; i < 100; ++i) {
      ASSERT_TRUE(testing::is_block(to->part(order.to[i], ends[range] - 1), 3000, order.take[i],
                                    ends[range] - 1));
    }
  }
  ASSERT_TRUE(transfer.wait(in(20s), kClock));
  EXPECT_EQ(transfer.arrived(), 100U);
}

TEST_P(Remote, EachWrongBlockIsAMissOfItsOwnAndTheOthersArrive) {
  serve(Layout::by_block(40, 2, 1000));
  connect();
  Order order(40);
  const auto at = [&](std::uint32_t block) {
    return static_cast<std::size_t>(std::ranges::find(order.take, block) - order.take.begin());
  };
  put(*from, 3, 1003);
  from->reserve(5);
  from->part(6, 0)[999] ^= std::byte{1};  // the part after it is right
  from->table().reserve(7);
  from->table().commit(7, key_of(7), 1000);
  refs[7] = *from->ref(7);
  order.keys[at(8)] = key_of(999);
  order.to[at(10)] = 40;
  order.take[at(9)] = 4000;
  const auto to = make_arena(Layout::by_block(40, 2, 1000));
  run(order, *to, grant);
  EXPECT_EQ(order.status[at(3)], BlockStatus::kStale);
  EXPECT_EQ(order.status[at(5)], BlockStatus::kStale);
  EXPECT_EQ(order.status[at(6)], BlockStatus::kCorrupt);
  EXPECT_EQ(order.status[at(7)], BlockStatus::kTruncated);
  EXPECT_EQ(order.status[at(8)], BlockStatus::kWrongKey);
  EXPECT_EQ(order.status[at(10)], BlockStatus::kOutOfRange);
  EXPECT_EQ(order.status[at(4000)], BlockStatus::kOutOfRange);
  EXPECT_EQ(transfer.arrived(), 33U);
  for (std::size_t i = 0; i < 40; ++i) {
    if (order.to[i] == 40) continue;
    EXPECT_EQ(holds(*to, order.to[i], order.take[i]), order.status[i] == BlockStatus::kArrived);
  }
}

TEST_P(Remote, ARevokedGrantReadsNothingAndAnotherStillDoes) {
  serve(Layout::by_block(10, 1, 100));
  connect();
  const auto to = make_arena(Layout::by_block(10, 1, 100));
  const GrantId other = *from->grants().open(refs, kClock.now() + 1h);
  Order order(10);
  run(order, *to, grant);
  EXPECT_EQ(transfer.arrived(), 10U);
  ASSERT_TRUE(from->grants().close(grant, in(5s), kClock).has_value());
  run(order, *to, grant);
  EXPECT_EQ(order.count(BlockStatus::kRevoked), 10U);
  run(order, *to, other);
  EXPECT_EQ(transfer.arrived(), 10U);
}

TEST_P(Remote, AnotherBuildIsRefused) {
  serve(Layout::by_block(2, 1, 100), "build 2");
  const auto connected = Peer::connect(address(), pool, kClock);
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code, Code::kUnprocessable) << connected.error().message;
}

TEST_P(Remote, NobodyThereIsAnError) {
  serve(Layout::by_block(2, 1, 100));
  const PeerAddress there = address();
  host.reset();
  tcp.reset();
  const auto connected = Peer::connect(there, pool, kClock);
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code, Code::kUnavailable);
}

TEST_P(Remote, AnOwnerThatStopsServingIsNoticed) {
  serve(Layout::by_block(10, 1, 100));
  connect();
  host.reset();
  tcp.reset();
  const auto to = make_arena(Layout::by_block(10, 1, 100));
  Order order(10);
  order.granted = refs;
  const auto pulled = peer->pull(transfer, order.pull(grant), *to);
  if (pulled) {  // it was not noticed yet: then the blocks say so
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
  }
  while (peer->alive()) std::this_thread::yield();
  EXPECT_EQ(peer->pull(transfer, order.pull(grant), *to).error().code, Code::kUnavailable);
}

TEST_P(Remote, ManyTransfersAtOnceEndOnce) {
  serve(Layout::by_block(64, 1, 4096));
  connect();
  std::vector<std::unique_ptr<Arena>> arenas;
  std::vector<std::unique_ptr<Order>> orders;
  std::vector<std::unique_ptr<Transfer>> transfers;
  std::atomic<int> ends{0};
  for (int i = 0; i < 20; ++i) {
    arenas.push_back(make_arena(Layout::by_block(64, 1, 4096)));
    orders.push_back(std::make_unique<Order>(64, i));
    orders.back()->granted = refs;
    transfers.push_back(std::make_unique<Transfer>());
    transfers.back()->on_done = [](void* count) { ++*static_cast<std::atomic<int>*>(count); };
    transfers.back()->context = &ends;
    ASSERT_TRUE(
        peer->pull(*transfers.back(), orders.back()->pull(grant), *arenas.back()).has_value());
    if (i % 5 == 4) transfers.back()->cancel();  // breaks into the others' stream
  }
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(transfers[i]->wait(in(20s), kClock));
    if (i % 5 != 4) {
      EXPECT_EQ(transfers[i]->arrived(), 64U) << i;
    }
  }
  transfers.clear();
  while (ends != 20) std::this_thread::yield();
}

INSTANTIATE_TEST_SUITE_P(By, Remote,
                         ::testing::Values(PathKind::kShared, PathKind::kCma, PathKind::kTcp),
                         testing::path_name);

TEST(Tcp, WhoDoesNotKnowTheSecretLearnsNothing) {
  const auto arena = make_arena(Layout::by_block(2, 1, 100));
  EXPECT_FALSE(TcpServer::open(*arena, {.secret = "short"}).has_value());
  const auto server = std::move(*TcpServer::open(*arena, {.secret = kSecret}));
  CopyPool pool;
  PeerAddress address;
  address.tcp_host = "127.0.0.1";
  address.tcp_port = server->port();
  address.secret = kSecret + "!";
  const auto connected = Peer::connect(address, pool, kClock);
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code, Code::kUnauthorized);
  EXPECT_EQ(server->refused(), 1U);
  address.secret = kSecret;
  EXPECT_TRUE(Peer::connect(address, pool, kClock).has_value());
}

TEST(Servers, WithoutADescriptorForAReaderWaitForOne) {
  const auto arena = make_arena(Layout::by_block(2, 1, 100), MemoryKind::kShared);
  const auto host = std::move(*HostServer::open(*arena, remote_path(), ""));
  const auto tcp = std::move(*TcpServer::open(*arena, {.secret = kSecret}));
  {
    CopyPool pool;
    PeerAddress address;
    address.socket_path = remote_path();
    address.tcp_host = "127.0.0.1";
    address.tcp_port = tcp->port();
    address.secret = kSecret;
    ASSERT_TRUE(Peer::connect(address, pool, kClock).has_value());
    while (host->readers() > 0) std::this_thread::yield();
  }
  sockaddr_un path{};
  path.sun_family = AF_UNIX;
  remote_path().copy(path.sun_path, sizeof path.sun_path - 1);
  sockaddr_in port{};
  port.sin_family = AF_INET;
  port.sin_port = htons(tcp->port());
  port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const Fd by_host(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const Fd by_tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  pollfd greeted{by_tcp.get(), POLLIN, 0};
  {
    const testing::NoDescriptors none;
    ASSERT_EQ(connect(by_host.get(), reinterpret_cast<sockaddr*>(&path), sizeof path), 0);
    ASSERT_EQ(connect(by_tcp.get(), reinterpret_cast<sockaddr*>(&port), sizeof port), 0);
    const std::clock_t before = std::clock();
    EXPECT_EQ(poll(&greeted, 1, 300), 0);
    EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 15);  // of all threads: nobody spins
  }
  EXPECT_EQ(poll(&greeted, 1, 20'000), 1);
  const wire::Hello hello;
  ASSERT_TRUE(wire::send_message(by_host.get(), std::as_bytes(std::span(&hello, 1)), {}));
  while (host->readers() == 0) std::this_thread::yield();
}

TEST(Tcp, BothEndsNoticeAHostThatIsGoneWithoutAWord) {
  const auto arena = make_arena(Layout::by_block(2, 1, 100));
  const auto server = std::move(*TcpServer::open(*arena, {.secret = kSecret}));
  CopyPool pool;
  PeerAddress address;
  address.tcp_host = "127.0.0.1";
  address.tcp_port = server->port();
  address.secret = kSecret;
  const auto peer = std::move(*Peer::connect(address, pool, kClock));
  int ends = 0;
  for (int fd = 0; fd < 1024; ++fd) {  // both are this process's
    sockaddr_in other{};
    socklen_t size = sizeof other;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&other), &size) != 0) continue;
    if (other.sin_family != AF_INET) continue;
    ++ends;
    const auto option = [&](int level, int name) {
      int value = 0;
      socklen_t bytes = sizeof value;
      EXPECT_EQ(getsockopt(fd, level, name, &value, &bytes), 0);
      return value;
    };
    EXPECT_EQ(option(SOL_SOCKET, SO_KEEPALIVE), 1);
    EXPECT_EQ(option(IPPROTO_TCP, TCP_KEEPIDLE), 10);
    EXPECT_EQ(option(IPPROTO_TCP, TCP_KEEPINTVL), 5);
    EXPECT_EQ(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 30'000);
  }
  EXPECT_EQ(ends, 2);
}

/// A peer with one path that fails in a chosen way before the one that works.
class Unreliable final : public Peer {
 public:
  class Failing final : public CopiedPath {
   public:
    Failing(ChunkQueue& queue, BlockStatus status)
        : CopiedPath(PathKind::kShared, queue), status_(status) {}
    void run(const Chunk& chunk) noexcept override {
      for (std::uint32_t block = chunk.begin; block < chunk.end; block += 2) {
        if (chunk.pending(block)) chunk.pull().status[block] = status_;
      }
      for (std::uint32_t block = chunk.begin + 1; block < chunk.end; block += 2) {
        if (chunk.pending(block)) chunk.pull().status[block] = BlockStatus::kStale;
      }
    }

   private:
    BlockStatus status_;
  };

  Unreliable(Arena& arena, CopyPool& pool, BlockStatus status)
      : Peer(arena.layout(), arena.table().epoch(), kClock) {
    add_path(std::make_unique<Failing>(pool.queue(), status));
    const HostSource source{arena.layout(), &arena.table(), &arena.local_readers(), nullptr,
                            &kClock};
    add_path(
        std::make_unique<MappedPath>(PathKind::kCma, source, arena.memory().data(), pool.queue()));
  }
  ~Unreliable() override { shut(); }
};

TEST(Paths, WhatOnePathFailsAnotherCarries) {
  const auto from = make_arena(Layout::by_block(20, 1, 100));
  const auto to = make_arena(Layout::by_block(20, 1, 100));
  const auto refs = fill_all(*from);
  const GrantId grant = *from->grants().open(refs, kClock.now() + 1h);
  CopyPool pool;
  for (const BlockStatus status : {BlockStatus::kPathFailed, BlockStatus::kCorrupt}) {
    Unreliable peer(*from, pool, status);
    Order order(20);
    order.granted = refs;
    Traffic carried;
    Transfer transfer;
    transfer.traffic = &carried;
    ASSERT_TRUE(peer.pull(transfer, order.pull(grant), *to).has_value());
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
    EXPECT_EQ(order.count(BlockStatus::kArrived), 10U);
    EXPECT_EQ(order.count(BlockStatus::kStale), 10U);  // that is final
    EXPECT_EQ(transfer.arrived(), 10U);
    testing::settle(peer);
    const Traffic::ByPath traffic = peer.traffic();
    EXPECT_EQ(traffic, carried.sums());
    const auto& failing = traffic[static_cast<std::size_t>(PathKind::kShared)];
    EXPECT_EQ(failing, (PathTraffic{.pulls = 1, .failed_blocks = 10, .took = failing.took}));
    const auto& working = traffic[static_cast<std::size_t>(PathKind::kCma)];
    EXPECT_EQ(
        working,
        (PathTraffic{.pulls = 1, .retries = 1, .blocks = 10, .bytes = 1000, .took = working.took}));
    EXPECT_GT(working.took, 0ns);
    EXPECT_EQ(peer.paths()[0]->meter().blocks(status), 10U);
    EXPECT_EQ(peer.paths()[1]->meter().blocks(BlockStatus::kArrived), 10U);
    if (status == BlockStatus::kCorrupt) continue;
    // A path that has just failed is not the first choice.
    ASSERT_TRUE(peer.pull(transfer, order.pull(grant), *to).has_value());
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
    EXPECT_EQ(transfer.arrived(), 20U);
    testing::settle(peer);
    EXPECT_EQ(peer.traffic()[static_cast<std::size_t>(PathKind::kCma)].retries, 1U);
  }
}

TEST(Paths, ThePathOfTheLeastMeasuredCostIsTaken) {
  Meter slow(0, 1.0);
  Meter quick(0, 2.0);
  EXPECT_LT(slow.predict_ns(1 << 20), quick.predict_ns(1 << 20));  // as assumed
  std::array<std::uint64_t, kBlockStatuses> blocks{};
  blocks[static_cast<std::size_t>(BlockStatus::kArrived)] = 4;
  for (int i = 0; i < 20; ++i) {
    slow.record(blocks, 1 << 20, 1us, 10ms);
    quick.record(blocks, 1 << 20, 1us, 100us);
  }
  EXPECT_GT(slow.predict_ns(1 << 20), quick.predict_ns(1 << 20));  // as measured
  EXPECT_LT(slow.predict_ns(1 << 10), quick.predict_ns(1 << 10));  // of that size only
  EXPECT_EQ(quick.blocks(BlockStatus::kArrived), 80U);
  EXPECT_EQ(quick.ran().count(16), 20U);  // 65.5 to 131 us
}

}  // namespace
}  // namespace penstock::transfer
