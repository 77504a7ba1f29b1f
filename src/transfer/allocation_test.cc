// A transfer takes no memory: neither its submission nor the threads that carry it.
#include <gtest/gtest.h>

#include "base/counted_new.h"
#include "transfer/tcp_server.h"
#include "transfer/test_blocks.h"

namespace penstock::transfer {
namespace {

using namespace std::chrono_literals;

TEST(Allocation, NoneForATransfer) {
  const SteadyClock clock;
  const std::string secret = "a secret of thirty-two characters";
  const Layout layout = Layout::by_block(4000, 2, 256);
  const auto from = testing::make_arena(layout);
  const auto to = testing::make_arena(layout);
  testing::Order order(4000);
  order.granted = testing::fill_all(*from);
  const GrantId grant = *from->grants().open(order.granted, clock.now() + 1h);
  CopyPool pool(2);
  const auto server = TcpServer::open(*from, {.secret = secret}).value();
  PeerAddress address;
  address.tcp_host = "127.0.0.1";
  address.tcp_port = server->port();
  address.secret = secret;
  const auto local = Peer::local(*from, pool, clock);
  const auto remote = Peer::connect(address, pool, clock).value();
  for (Peer* peer : {local.get(), remote.get()}) {
    std::uint64_t before = 0;
    for (int round = 0; round < 20; ++round) {
      if (round == 10) before = allocations.load();  // buffers have the size they need by now
      Transfer transfer;
      ASSERT_TRUE(peer->pull(transfer, order.pull(grant), *to).has_value());
      ASSERT_TRUE(transfer.wait(Deadline(clock.now() + 20s), clock));
      ASSERT_EQ(transfer.arrived(), 4000U);
    }
    EXPECT_EQ(allocations.load(), before) << to_string(peer->paths()[0]->kind());
  }
}

}  // namespace
}  // namespace penstock::transfer
