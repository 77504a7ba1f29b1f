// Slots that are written again while they are read: what arrives is what the ticket named, by key
// and by every byte, whatever way it came.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "transfer/host_server.h"
#include "transfer/tcp_server.h"
#include "transfer/test_blocks.h"

namespace penstock::transfer {
namespace {

using namespace std::chrono_literals;
using testing::kClock;
using testing::key_of;
using testing::kSecret;

constexpr std::uint32_t kReuseSlots = 16;
constexpr std::uint32_t kBlockBytes = 16 << 10;
constexpr std::uint64_t kContents = 3;  // as many different blocks take turns in the slots
const Layout kReuseLayout = Layout::by_block(kReuseSlots, 1, kBlockBytes);

/// The bytes of block `i`, one of kContents.
const std::vector<std::byte>& content(std::uint64_t i) {
  static const auto contents = [] {
    std::array<std::vector<std::byte>, kContents> made;
    for (std::size_t n = 0; n < made.size(); ++n) {
      made[n].assign(kBlockBytes, static_cast<std::byte>(n + 1));
    }
    return made;
  }();
  return contents[i];
}

class Reuse : public ::testing::TestWithParam<PathKind> {
 protected:
  void SetUp() override {
    if (GetParam() == PathKind::kCma) {
      foreign.resize(kReuseLayout.end_bytes());
      from = Arena::adopt(kReuseLayout, foreign).value();
    } else {
      from = testing::make_arena(kReuseLayout, MemoryKind::kShared);
    }
    PeerAddress address;
    if (GetParam() == PathKind::kLocal) {
      peer = Peer::local(*from, pool, kClock);
    } else if (GetParam() == PathKind::kTcp) {
      tcp = TcpServer::open(*from, {.secret = kSecret}).value();
      address.tcp_host = "127.0.0.1";
      address.tcp_port = tcp->port();
      address.secret = kSecret;
      peer = Peer::connect(address, pool, kClock).value();
    } else {
      address.socket_path = ::testing::TempDir() + "penstock-reuse-" + std::to_string(getpid());
      host = HostServer::open(*from, address.socket_path, "").value();
      peer = Peer::connect(address, pool, kClock).value();
    }
    ASSERT_EQ(peer->paths()[0]->kind(), GetParam());
    for (std::uint32_t i = 0; i < kReuseSlots; ++i) order.take[i] = i;
    order.granted.resize(kReuseSlots);
  }
  void rewrite(std::uint64_t round) {
    const auto slot = static_cast<std::uint32_t>(mix64(round) % kReuseSlots);
    from->reserve(slot);
    from->fill(slot, 0, content(round % kContents).data());
    from->commit(slot, key_of(round % kContents));
  }
  /// What a prefill worker would have put into its ticket at this moment.
  void name_blocks() {
    for (std::uint32_t i = 0; i < kReuseSlots; ++i) {
      const BlockHead head = from->table().block(i);
      order.granted[i] = {i, static_cast<std::uint32_t>(head.generation)};
      order.keys[i] = head.key;
    }
  }

  std::vector<std::byte> foreign;
  std::unique_ptr<Arena> from;
  std::unique_ptr<Arena> to = testing::make_arena(kReuseLayout);
  std::unique_ptr<HostServer> host;
  std::unique_ptr<TcpServer> tcp;
  CopyPool pool;
  std::unique_ptr<Peer> peer;
  testing::Order order{kReuseSlots};
  Transfer transfer;
};

TEST_P(Reuse, WhatArrivesIsWhatWasNamed) {
  // So many rewrites the writer may do in all: a few while each pull is under way, and none in
  // every fourth, so that blocks arrive and blocks are missed whatever is quick on this machine.
  constexpr std::uint64_t kStop = UINT64_MAX;
  std::atomic<std::uint64_t> allowed{0};
  std::jthread writer([&](const std::stop_token& token) {
    const std::stop_callback stop(token, [&] {  // also when the test fails
      allowed = kStop;
      allowed.notify_one();
    });
    for (std::uint64_t done = 0; allowed != kStop;) {
      if (done < allowed) {
        rewrite(done++);
      } else {
        allowed.wait(done);
      }
    }
  });
  std::uint64_t rewrites = 0;
  std::size_t arrived = 0;
  std::size_t missed = 0;
  // The list is read by the owner's threads over TCP: it stays as it is while a grant is open.
  for (int round = 0; round < 1000 || arrived == 0 || missed == 0; ++round) {
    name_blocks();
    const GrantId grant = from->grants().open(order.granted, kClock.now() + 1h).value();
    rewrites += static_cast<std::uint64_t>(round % 4) * 4;
    allowed = rewrites;
    allowed.notify_one();
    ASSERT_TRUE(peer->pull(transfer, order.pull(grant), *to).has_value());
    ASSERT_TRUE(transfer.wait(Deadline(kClock.now() + 20s), kClock));
    ASSERT_TRUE(from->grants().close(grant, Deadline(kClock.now() + 20s), kClock).has_value());
    for (std::uint32_t i = 0; i < kReuseSlots; ++i) {
      if (order.status[i] != BlockStatus::kArrived) {
        ++missed;
        ASSERT_FALSE(to->ref(order.to[i]).has_value());
        continue;
      }
      ++arrived;
      ASSERT_LT(order.keys[i].low, kContents);
      const std::vector<std::byte>& wanted = content(order.keys[i].low);
      ASSERT_EQ(std::memcmp(to->part(order.to[i], 0), wanted.data(), kBlockBytes), 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(By, Reuse,
                         ::testing::Values(PathKind::kLocal, PathKind::kShared, PathKind::kCma,
                                           PathKind::kTcp),
                         testing::path_name);

}  // namespace
}  // namespace penstock::transfer
