// Workers of different processes find each other's KV. Each exchange here is what a process has.
#include "engine/kv_exchange.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <list>
#include <optional>
#include <vector>

#include "transfer/test_blocks.h"

namespace penstock::engine {
namespace {

using namespace std::chrono_literals;
namespace blocks = transfer::testing;

constexpr std::uint32_t kBlocks = 40;
const transfer::Layout kLayout = transfer::Layout::by_block(kBlocks, 1, 16 << 10);
const std::string kSecret = "sixteen characters or more";

std::string test_folder() {
  std::string folder = ::testing::TempDir() + "/penstock-kv-" + std::to_string(getpid());
  mkdir(folder.c_str(), 0700);
  return folder;
}

KvSharing by_memory() {
  return {.socket_folder = test_folder(), .tcp_listen = {}, .tcp_advertise = {}, .secret = {}};
}
KvSharing by_tcp() {
  return {.socket_folder = {},
          .tcp_listen = "127.0.0.1",
          .tcp_advertise = "127.0.0.1",
          .secret = kSecret};
}
KvSharing by_both() {
  KvSharing sharing = by_tcp();
  sharing.socket_folder = test_folder();
  return sharing;
}

/// A process with a worker whose memory is full of blocks.
struct Owner {
  Owner(const Clock& clock, const KvSharing& sharing, const std::string& compatibility = "one")
      : exchange(clock, sharing),
        arena(blocks::make_arena(kLayout, transfer::MemoryKind::kShared)),
        refs(blocks::fill_all(*arena)),
        ticket(exchange.offer(*arena, compatibility)) {
    ticket.blocks = refs;
    ticket.grant = *arena->grants().open(refs, TimePoint::max());
  }
  ~Owner() { end(); }
  void end() {
    if (arena != nullptr) exchange.withdraw(ticket.source);
    arena.reset();
  }
  KvExchange exchange;
  std::unique_ptr<transfer::Arena> arena;
  std::vector<transfer::BlockRef> refs;
  KvTicket ticket;
};

class KvExchangeTest : public ::testing::Test {
 protected:
  /// Pulls all of the ticket's blocks into `to`: how many came, or why none could.
  Result<std::size_t> pull(KvExchange& exchange, const KvTicket& ticket, transfer::Arena& to,
                           const std::string& compatibility = "one") {
    blocks::Order order(kBlocks);
    transfer::Transfer transfer;
    transfer::Pull wanted = order.pull(ticket.grant);
    wanted.granted = ticket.blocks;
    for (;;) {
      const auto way = exchange.pull(ticket, compatibility, transfer, wanted, to);
      if (!way) return std::unexpected(way.error());
      if (*way == KvExchange::Way::kOpen) break;
      exchange.wait_for_ways(1ms);
    }
    EXPECT_TRUE(transfer.wait(Deadline(clock_.now() + 60s), clock_));
    for (std::uint32_t i = 0; i < kBlocks; ++i) {
      if (order.status[i] != transfer::BlockStatus::kArrived) continue;
      EXPECT_TRUE(blocks::holds(to, order.to[i], order.take[i]));
    }
    return order.count(transfer::BlockStatus::kArrived);
  }

  SteadyClock clock_;
  std::unique_ptr<transfer::Arena> to_ = blocks::make_arena(kLayout);
};

TEST_F(KvExchangeTest, BlocksComeFromAnotherProcessByEachWay) {
  for (const KvSharing& sharing : {by_memory(), by_tcp(), by_both()}) {
    Owner owner(clock_, sharing);
    EXPECT_EQ(owner.ticket.at.socket_path.empty(), sharing.socket_folder.empty());
    EXPECT_EQ(owner.ticket.at.tcp_port == 0, sharing.tcp_listen.empty());
    KvExchange reader(clock_, by_both());
    for (int i = 0; i < 3; ++i) EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
  }
}

TEST_F(KvExchangeTest, AWayThatDoesNotLeadThereIsLeftOut) {
  Owner owner(clock_, by_both());
  KvTicket ticket = owner.ticket;
  ticket.at.socket_path += ".elsewhere";  // as from another host
  KvExchange by_port(clock_, by_both());
  EXPECT_EQ(pull(by_port, ticket, *to_), kBlocks);
  ticket = owner.ticket;
  ticket.at.tcp_port = 1;
  KvExchange by_path(clock_, by_both());
  EXPECT_EQ(pull(by_path, ticket, *to_), kBlocks);
}

TEST_F(KvExchangeTest, WhoIsOfAnotherBuildOrDoesNotKnowTheSecretGetsNothing) {
  Owner owner(clock_, by_both());
  KvExchange reader(clock_, by_both());
  EXPECT_EQ(pull(reader, owner.ticket, *to_, "two").error().code, Code::kUnprocessable);
  KvSharing stranger = by_tcp();
  stranger.secret = "another secret than theirs";
  KvExchange unknown(clock_, stranger);
  KvTicket ticket = owner.ticket;
  ticket.at.socket_path.clear();
  EXPECT_EQ(pull(unknown, ticket, *to_).error().code, Code::kUnauthorized);
}

TEST_F(KvExchangeTest, WhoSharesNothingOutsideReachesNobodyThere) {
  Owner owner(clock_, by_memory());
  KvExchange alone(clock_);
  EXPECT_EQ(pull(alone, owner.ticket, *to_).error().code, Code::kUnavailable);
  Owner inside(clock_, {});
  EXPECT_TRUE(inside.ticket.at.nowhere());
  EXPECT_EQ(pull(inside.exchange, inside.ticket, *to_), kBlocks);
  EXPECT_EQ(pull(inside.exchange, inside.ticket, *to_, "two").error().code, Code::kUnprocessable);
  KvExchange reader(clock_, by_memory());
  EXPECT_EQ(pull(reader, inside.ticket, *to_).error().code, Code::kUnavailable);
}

TEST_F(KvExchangeTest, WhatCouldBeOpenedNowhereIsOutOfReachUnlessTheProcessHasOthers) {
  KvSharing closed = by_both();
  closed.socket_folder += "/there/is/none";
  closed.tcp_listen = "192.0.2.1";  // of no interface
  for (const bool alone : {false, true}) {
    closed.alone = alone;
    Owner owner(clock_, closed);
    EXPECT_TRUE(owner.ticket.at.nowhere());
    EXPECT_EQ(owner.exchange.reachable(owner.ticket), !alone);
  }
  KvSharing open = by_tcp();
  open.alone = true;
  Owner owner(clock_, open);
  EXPECT_TRUE(owner.exchange.reachable(owner.ticket));
}

TEST_F(KvExchangeTest, WhereAWorkerIsATicketSaysUntilThereIsAWay) {
  Owner owner(clock_, by_both());
  KvTicket wrong = owner.ticket;
  wrong.at = {.socket_path = owner.ticket.at.socket_path + ".elsewhere"};
  KvExchange reader(clock_, by_both());
  EXPECT_EQ(pull(reader, wrong, *to_).error().code, Code::kUnavailable);
  EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
  EXPECT_EQ(pull(reader, wrong, *to_), kBlocks);  // it is known by then
  EXPECT_EQ(pull(reader, owner.ticket, *to_, "two").error().code, Code::kUnprocessable);
  KvTicket nobody = owner.ticket;
  nobody.source = 0;
  EXPECT_EQ(pull(reader, nobody, *to_).error().code, Code::kUnavailable);
}

/// Where nobody ever answers: a worker that is stopped. A full one takes nobody in either.
class Stopped {
 public:
  explicit Stopped(std::string path, bool full = false) : path_(std::move(path)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::ranges::copy(path_, address.sun_path);
    const auto* at = reinterpret_cast<const sockaddr*>(&address);
    unlink(path_.c_str());
    EXPECT_EQ(bind(listener_.get(), at, sizeof address), 0);
    EXPECT_EQ(listen(listener_.get(), full ? 1 : 64), 0);
    for (int i = 0; full && i < 1000; ++i) {
      waiting_.emplace_back(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      if (connect(waiting_.back().get(), at, sizeof address) != 0) break;
    }
  }
  ~Stopped() { unlink(path_.c_str()); }
  /// Whoever came here next; hears that nobody is here once what is given ends.
  [[nodiscard]] transfer::Fd visitor() const {
    return transfer::Fd(accept(listener_.get(), nullptr, nullptr));
  }
  Stopped(const Stopped&) = delete;
  Stopped& operator=(const Stopped&) = delete;

 private:
  const std::string path_;
  const transfer::Fd listener_{socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  std::vector<transfer::Fd> waiting_;
};

TEST_F(KvExchangeTest, AWorkerThatHangsHoldsUpNobodyElse) {
  const Stopped stopped(test_folder() + "/stopped");
  const auto goes_first = [&] {
    Owner owner(clock_, by_memory());
    KvTicket hung = owner.ticket;
    hung.source = 1;
    hung.at = {.socket_path = test_folder() + "/stopped"};
    KvExchange reader(clock_, by_memory());
    blocks::Order order(kBlocks);
    transfer::Transfer transfer;
    const auto ask = [&] {
      return reader.pull(hung, "one", transfer, order.pull(hung.grant), *to_).has_value();
    };
    EXPECT_TRUE(ask());
    EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
    return ask();  // that way is still being made
  };
  // It must be so; where the machine stands still for seconds it may once not be seen.
  EXPECT_TRUE(goes_first() || goes_first() || goes_first());
}

TEST_F(KvExchangeTest, AnAttemptThatEndsLateSaysNothingOfTheOneAfterIt) {
  std::list<Stopped> stopped;
  std::list<transfer::Fd> visitors;
  KvExchange reader(clock_, by_memory());
  blocks::Order order(kBlocks);
  transfer::Transfer transfer;
  const auto ask = [&](std::uint64_t source, const std::string& path) {
    const KvTicket ticket{.source = source, .at = {.socket_path = path}};
    return reader.pull(ticket, "one", transfer, order.pull({}), *to_);
  };
  const auto hang = [&](std::uint64_t source) {  // an opener waits there from here on
    const std::string path = test_folder() + "/hangs-" + std::to_string(stopped.size());
    stopped.emplace_back(path);
    EXPECT_TRUE(ask(source, path).has_value());
    visitors.push_back(stopped.back().visitor());
    return path;
  };
  hang(1);
  Owner owner(clock_, by_memory());
  for (std::size_t i = 0; i < KvExchange::kAwayMax; ++i) {  // it is let go meanwhile
    EXPECT_TRUE(ask(i + 10, test_folder() + "/nobody").has_value());
  }
  const std::string again = hang(1);
  for (std::uint64_t source = 2; source < KvExchange::kOpenersMax; ++source) hang(source);
  visitors.pop_front();
  EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);  // by the opener that is free now
  // The attempt goes on; on a machine that stands still for seconds it may be over by itself.
  const auto last = ask(1, again);
  EXPECT_TRUE(last.has_value() || last.error().code != Code::kUnprocessable);
  visitors.clear();  // whom nobody keeps waiting, the reader need not wait for
}

TEST_F(KvExchangeTest, AWorkerThatTakesNobodyInIsGivenUp) {
  const Stopped stopped(test_folder() + "/full", true);
  KvTicket hung{.source = 1, .at = {.socket_path = test_folder() + "/full"}};
  KvExchange reader(clock_, by_memory());
  EXPECT_EQ(pull(reader, hung, *to_).error().code, Code::kUnavailable);
}

TEST_F(KvExchangeTest, AnOwnerThatIsGoneIsNotWaitedForAndAnotherAtItsPlaceIsNotIt) {
  for (const KvSharing& sharing : {by_memory(), by_tcp()}) {
    auto owner = std::make_optional<Owner>(clock_, sharing);
    const KvTicket ticket = owner->ticket;
    KvExchange reader(clock_, by_both());
    EXPECT_EQ(pull(reader, ticket, *to_), kBlocks);
    owner.reset();
    // What was under way may find that out, what comes after it cannot begin.
    const Result<std::size_t> last = pull(reader, ticket, *to_);
    EXPECT_EQ(last.value_or(0), 0U);
    EXPECT_FALSE(pull(reader, ticket, *to_).has_value());

    Owner other(clock_, sharing);
    KvTicket mixed = ticket;
    mixed.at = other.ticket.at;
    KvExchange fresh(clock_, by_both());
    EXPECT_EQ(pull(fresh, mixed, *to_).error().code, Code::kUnavailable);
  }
}

/// Pieces of memory files that are mapped here.
std::ptrdiff_t mapped() {
  std::ifstream maps("/proc/self/maps");
  const std::string text{std::istreambuf_iterator<char>(maps), {}};
  std::ptrdiff_t count = 0;
  for (std::size_t at = 0; (at = text.find("penstock-arena", at)) != std::string::npos; ++at) {
    ++count;
  }
  return count;
}

TEST_F(KvExchangeTest, MemoryOfAWorkerThatDiedIsLetGoThoughNobodyAsksForItAgain) {
  const std::ptrdiff_t before = mapped();
  KvExchange reader(clock_, by_memory());
  {
    Owner owner(clock_, by_memory());
    EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
  }
  for (int i = 0; mapped() > before; ++i) {
    ASSERT_LT(i, 60'000);
    reader.wait_for_ways(1ms);
  }
}

TEST_F(KvExchangeTest, AWayThatNobodyUsesIsLetGoThoughTheWorkerLives) {
  ManualClock clock;
  Owner owner(clock, by_memory());
  const std::ptrdiff_t before = mapped();
  KvExchange reader(clock, by_memory());
  EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
  EXPECT_GT(mapped(), before);
  clock.advance(KvExchange::kUnusedMax);
  for (int i = 0; mapped() > before; ++i) {
    ASSERT_LT(i, 60'000);
    reader.wait_for_ways(1ms);
  }
  EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
}

TEST_F(KvExchangeTest, ARevokedGrantGivesNothing) {
  Owner owner(clock_, by_both());
  KvExchange reader(clock_, by_both());
  EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
  owner.arena->grants().revoke(owner.ticket.grant);
  EXPECT_EQ(pull(reader, owner.ticket, *to_), 0U);
}

TEST_F(KvExchangeTest, OfManyOwnersTheLongestUnusedAreLetGo) {
  Owner owner(clock_, by_memory());
  const std::ptrdiff_t before = mapped();
  KvExchange reader(clock_, by_memory());
  EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
  KvTicket nobody = owner.ticket;
  for (std::size_t i = 0; i < 2 * KvExchange::kAwayMax; ++i) {
    nobody.source = i + 1;
    EXPECT_FALSE(pull(reader, nobody, *to_).has_value());
  }
  for (int i = 0; mapped() > before; ++i) {
    ASSERT_LT(i, 20'000);  // before it is let go for being unused
    reader.wait_for_ways(1ms);
  }
  EXPECT_EQ(pull(reader, owner.ticket, *to_), kBlocks);
}

}  // namespace
}  // namespace penstock::engine
