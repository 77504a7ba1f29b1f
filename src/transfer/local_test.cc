// Pulls within one process: what arrives, what is refused, and how the end is told.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <semaphore>
#include <thread>

#include "transfer/checksum.h"
#include "transfer/test_blocks.h"

namespace penstock::transfer {
namespace {

using namespace std::chrono_literals;
using testing::fill_all;
using testing::holds;
using testing::in;
using testing::kClock;
using testing::key_of;
using testing::make_arena;
using testing::Order;
using testing::put;

class Local : public ::testing::Test {
 public:
  void use(const Layout& from_layout, const Layout& to_layout, unsigned threads = 1) {
    peer.reset();
    from = make_arena(from_layout);
    to = make_arena(to_layout);
    pool = std::make_unique<CopyPool>(threads);
    peer = Peer::local(*from, *pool, kClock);
    order = std::make_unique<Order>(from_layout.slots);
    order->granted = fill_all(*from);
    grant = *from->grants().open(order->granted, kClock.now() + 1h);
  }
  void run(const Pull& pull) {
    ASSERT_TRUE(peer->pull(transfer, pull, *to).has_value());
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
  }
  void run() { run(order->pull(grant)); }
  /// Slots that hold what they should, by the checker's own reading of the bytes.
  std::size_t right() const {
    std::size_t count = 0;
    for (std::size_t i = 0; i < order->take.size(); ++i) {
      count += holds(*to, order->to[i], order->take[i]) ? 1 : 0;
    }
    return count;
  }

  std::unique_ptr<Arena> from;
  std::unique_ptr<Arena> to;
  std::unique_ptr<CopyPool> pool;
  std::unique_ptr<Peer> peer;
  std::unique_ptr<Order> order;
  GrantId grant;
  Transfer transfer;  // first to go
};

TEST_F(Local, BlocksArriveWhateverTheLayouts) {
  const std::uint32_t slots = 50;
  for (const unsigned threads : {1U, 3U}) {
    for (const std::uint32_t part_bytes : {1U, 100U, 4096U, 10007U}) {
      for (const std::uint32_t parts : {1U, 12U}) {
        const Layout blocks = Layout::by_block(slots, parts, part_bytes);
        const Layout layers = Layout::by_part(slots, parts, part_bytes);
        for (const auto& [a, b] : {std::pair{blocks, layers}, std::pair{layers, blocks}}) {
          use(a, b, threads);
          run();
          EXPECT_EQ(order->count(BlockStatus::kArrived), slots);
          EXPECT_EQ(transfer.arrived(), slots);
          EXPECT_EQ(right(), slots);
        }
      }
    }
  }
}

TEST_F(Local, ATransferBeginsAgainAsSoonAsItsEndIsSeen) {
  use(Layout::by_block(1, 1, 64), Layout::by_block(1, 1, 64));
  const Fd event(eventfd(0, EFD_CLOEXEC));
  Transfer again;  // goes before the eventfd does
  again.eventfd = event.get();
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(peer->pull(again, order->pull(grant), *to).has_value());
    while (!again.done()) std::this_thread::yield();
    ASSERT_EQ(again.arrived(), 1U);
  }
  testing::settle(*peer);
  EXPECT_EQ(peer->paths()[0]->meter().blocks(BlockStatus::kArrived), 2000U);
}

TEST_F(Local, LargeTransfersStoreAroundTheCacheAndArriveAlike) {
  use(Layout::by_block(100, 1, 64 << 10), Layout::by_block(100, 1, 64 << 10), 2);
  run();
  EXPECT_EQ(right(), 100U);
}

TEST_F(Local, EachWrongBlockIsAMissOfItsOwnAndTheOthersArrive) {
  use(Layout::by_block(40, 2, 512), Layout::by_block(40, 2, 512));
  const auto at = [&](std::uint32_t block) {  // where in the order it is
    return static_cast<std::size_t>(std::ranges::find(order->take, block) - order->take.begin());
  };
  put(*from, 3, 1003);  // reused by another block
  put(*from, 4, 4);     // written again, same content: the ticket is old all the same
  from->reserve(5);     // being written
  from->part(6, 1)[511] ^= std::byte{1};  // a bit flipped in memory
  from->table().reserve(7);
  from->table().commit(7, key_of(7), 512);  // half a block
  order->granted[7] = *from->ref(7);
  order->keys[at(8)] = key_of(999);
  order->take[at(9)] = 40;
  order->to[at(10)] = 40;
  run();
  const std::vector<std::pair<std::uint32_t, BlockStatus>> wanted{
      {3, BlockStatus::kStale},       {4, BlockStatus::kStale},      {5, BlockStatus::kStale},
      {6, BlockStatus::kCorrupt},     {7, BlockStatus::kTruncated},  {8, BlockStatus::kWrongKey},
      {40, BlockStatus::kOutOfRange}, {10, BlockStatus::kOutOfRange}};
  for (const auto& [block, status] : wanted) {
    EXPECT_EQ(order->status[at(block)], status)
        << block << ": " << to_string(order->status[at(block)]);
    if (status != BlockStatus::kOutOfRange) {
      EXPECT_FALSE(to->ref(order->to[at(block)]).has_value()) << block << " became readable";
    }
  }
  EXPECT_EQ(order->count(BlockStatus::kArrived), 40 - wanted.size());
  EXPECT_EQ(right(), 40 - wanted.size());
  testing::settle(*peer);
  EXPECT_EQ(peer->paths()[0]->meter().blocks(BlockStatus::kStale), 3U);
}

TEST_F(Local, AMissLeavesNoOldBlockReadableInItsSlot) {
  use(Layout::by_block(1, 1, 64), Layout::by_block(1, 1, 64));
  put(*to, 0, 77);
  from->part(0, 0)[0] ^= std::byte{4};
  run();
  EXPECT_EQ(order->status[0], BlockStatus::kCorrupt);
  EXPECT_FALSE(to->ref(0).has_value());
}

TEST_F(Local, LayerRangesCompleteInOrder) {
  use(Layout::by_block(64, 8, 1000), Layout::by_part(64, 8, 1000), 2);
  const std::vector<std::uint32_t> ends{1, 3, 8};
  Pull pull = order->pull(grant);
  pull.range_ends = ends;
  ASSERT_TRUE(peer->pull(transfer, pull, *to).has_value());
  for (std::uint32_t range = 0; range < ends.size(); ++range) {
    while (!transfer.range_done(range)) std::this_thread::yield();
    for (std::size_t i = 0; i < order->take.size(); ++i) {
      for (std::uint32_t part = 0; part < ends[range]; ++part) {
        ASSERT_TRUE(testing::is_block(to->part(order->to[i], part), 1000, order->take[i], part));
      }
    }
  }
  ASSERT_TRUE(transfer.wait(in(20s), kClock));
  EXPECT_EQ(right(), 64U);
}

TEST_F(Local, ARangeWithAMissIsNotDone) {
  use(Layout::by_block(8, 4, 256), Layout::by_block(8, 4, 256));
  from->part(2, 2)[0] ^= std::byte{1};
  const std::vector<std::uint32_t> ends{1, 2, 3, 4};
  Pull pull = order->pull(grant);
  pull.range_ends = ends;
  run(pull);
  EXPECT_TRUE(transfer.range_done(1));
  EXPECT_FALSE(transfer.range_done(2));
  EXPECT_FALSE(transfer.range_done(3));
  EXPECT_EQ(right(), 7U);
}

TEST_F(Local, ARevokedOrExpiredGrantReadsNothing) {
  use(Layout::by_block(8, 1, 256), Layout::by_block(8, 1, 256));
  from->grants().revoke(grant);
  run();
  EXPECT_EQ(order->count(BlockStatus::kRevoked), 8U);
  EXPECT_TRUE(from->grants().close(grant, in(1s), kClock).has_value());
  const GrantId expired = *from->grants().open(order->granted, kClock.now() - 1ns);
  run(order->pull(expired));
  EXPECT_EQ(order->count(BlockStatus::kRevoked), 8U);
  EXPECT_TRUE(from->grants().renew(expired, kClock.now() + 1h));
  run(order->pull(expired));
  EXPECT_EQ(right(), 8U);
  run(order->pull(GrantId{5000, 1}));  // no such cell
  EXPECT_EQ(order->count(BlockStatus::kRevoked), 8U);
}

TEST_F(Local, AGrantsCellIsNotItsSuccessor) {
  use(Layout::by_block(2, 1, 64), Layout::by_block(2, 1, 64));
  ASSERT_TRUE(from->grants().close(grant, in(1s), kClock).has_value());
  std::vector<GrantId> all;
  while (auto opened = from->grants().open(order->granted, kClock.now() + 1h)) {
    all.push_back(*opened);
  }
  EXPECT_EQ(all.size(), BlockTable::kGrantsMax);  // bounded, and the old cell is in use again
  run();
  EXPECT_EQ(order->count(BlockStatus::kRevoked), 2U);
}

TEST_F(Local, CloseWaitsForTheReaderInside) {
  use(Layout::by_block(2, 1, 64), Layout::by_block(2, 1, 64));
  std::optional<ReadGuard> inside;
  inside.emplace(from->local_readers(), from->table(), grant, kClock.now());
  ASSERT_TRUE(*inside);
  const auto closed = from->grants().close(grant, Deadline(kClock.now()), kClock);
  ASSERT_FALSE(closed.has_value());
  EXPECT_EQ(closed.error().code, Code::kDeadlineExceeded);
  EXPECT_EQ(from->grants().open_count(), 1U);
  const ReadGuard late(from->local_readers(), from->table(), grant, kClock.now());
  EXPECT_FALSE(late);  // nobody enters any more
  inside.reset();
  EXPECT_TRUE(from->grants().close(grant, Deadline(kClock.now()), kClock).has_value());
  EXPECT_EQ(from->grants().open_count(), 0U);
}

TEST_F(Local, CancelledAndLateTransfersEndAndSayWhichBlocksCame) {
  use(Layout::by_block(200, 1, 4096), Layout::by_block(200, 1, 4096));
  Pull late = order->pull(grant);
  late.deadline = Deadline(kClock.now());
  run(late);
  EXPECT_EQ(order->count(BlockStatus::kDeadline), 200U);
  for (int round = 0; round < 50; ++round) {
    ASSERT_TRUE(peer->pull(transfer, order->pull(grant), *to).has_value());
    transfer.cancel();
    ASSERT_TRUE(transfer.wait(in(20s), kClock));
    ASSERT_EQ(order->count(BlockStatus::kArrived) + order->count(BlockStatus::kCancelled), 200U);
    for (std::size_t i = 0; i < 200; ++i) {
      if (order->status[i] != BlockStatus::kArrived) continue;
      ASSERT_TRUE(to->verify(order->to[i], order->keys[i]));
    }
  }
}

TEST_F(Local, TheTransfersEndIsQuiescence) {
  use(Layout::by_block(500, 1, 4096), Layout::by_block(500, 1, 4096), 2);
  for (int round = 0; round < 20; ++round) {
    auto gone = std::make_unique<Transfer>();
    ASSERT_TRUE(peer->pull(*gone, order->pull(grant), *to).has_value());
    gone.reset();
    EXPECT_EQ(order->count(BlockStatus::kPending), 0U);
    EXPECT_EQ(from->local_readers().active[grant.cell].load(), 0U);
  }
}

TEST_F(Local, TheEndIsToldByEventfdCallbackAndCoroutine) {
  use(Layout::by_block(10, 1, 4096), Layout::by_block(10, 1, 4096));
  const Fd event(eventfd(0, EFD_CLOEXEC));
  transfer.eventfd = event.get();
  ASSERT_TRUE(peer->pull(transfer, order->pull(grant), *to).has_value());
  pollfd ready{event.get(), POLLIN, 0};
  ASSERT_EQ(poll(&ready, 1, 20000), 1);
  EXPECT_TRUE(transfer.done());

  std::binary_semaphore called(0);
  Transfer second;
  second.on_done = [](void* context) { static_cast<std::binary_semaphore*>(context)->release(); };
  second.context = &called;
  ASSERT_TRUE(peer->pull(second, order->pull(grant), *to).has_value());
  called.acquire();
  EXPECT_EQ(second.arrived(), 10U);

  struct Task {            // starts at once, runs to its end unobserved
    struct promise_type {  // NOLINT(readability-identifier-naming): the language's name
      Task get_return_object() { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() { std::terminate(); }
    };
  };
  const auto pull_twice = [](Local* test, std::binary_semaphore* over, bool* ok) -> Task {
    {
      Transfer mine;  // dies inside the callback that resumes us
      const auto first =
          co_await Pulled(*test->peer, mine, test->order->pull(test->grant), *test->to);
      *ok = first.has_value() && mine.arrived() == 10;
    }
    Transfer again;
    Pull wrong = test->order->pull(test->grant);
    wrong.keys = wrong.keys.first(1);
    const auto refused = co_await Pulled(*test->peer, again, wrong, *test->to);
    *ok = *ok && !refused.has_value();
    over->release();
  };
  bool ok = false;
  pull_twice(this, &called, &ok);
  called.acquire();
  EXPECT_TRUE(ok);
}

TEST_F(Local, TheEndIsThereBeforeAnyoneIsWokenForIt) {
  use(Layout::by_block(10, 1, 4096), Layout::by_block(10, 1, 4096));
  for (const bool corrupt : {false, true}) {
    if (corrupt) from->part(3, 0)[100] ^= std::byte{1};
    // Whoever tells of the end is held up there until this is read.
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
    const Fd reads(ends[0]);
    const Fd full(ends[1]);
    std::vector<std::byte> page(4096);
    while (write(full.get(), page.data(), page.size()) > 0) {
    }
    ASSERT_EQ(fcntl(full.get(), F_SETFL, 0), 0);

    Transfer told;
    told.eventfd = full.get();
    ASSERT_TRUE(peer->pull(told, order->pull(grant), *to).has_value());
    EXPECT_TRUE(told.wait(in(20s), kClock));
    EXPECT_EQ(order->count(BlockStatus::kCorrupt), corrupt ? 1U : 0U);
    while (read(reads.get(), page.data(), page.size()) > 0) {
    }
  }
}

TEST_F(Local, HigherPriorityGoesFirst) {
  use(Layout::by_block(600, 1, 4096), Layout::by_block(600, 1, 4096));
  std::vector<int> ends;
  std::mutex mutex;
  struct Note {
    std::vector<int>* ends;
    std::mutex* mutex;
    int who;
  };
  const auto note = [](void* context) {
    const Note& mine = *static_cast<Note*>(context);
    const std::lock_guard lock(*mine.mutex);
    mine.ends->push_back(mine.who);
  };
  // The first one's callback holds the only thread until all others wait.
  std::binary_semaphore queued(0);
  Transfer first;
  first.on_done = [](void* context) { static_cast<std::binary_semaphore*>(context)->acquire(); };
  first.context = &queued;
  ASSERT_TRUE(peer->pull(first, order->pull(grant), *to).has_value());
  Order low_order(600, 2);
  Order high_order(600, 3);
  low_order.granted = high_order.granted = order->granted;
  Note low_note{&ends, &mutex, 1};
  Note high_note{&ends, &mutex, 2};
  Transfer low;
  Transfer high;
  low.on_done = high.on_done = note;
  low.context = &low_note;
  high.context = &high_note;
  ASSERT_TRUE(peer->pull(low, low_order.pull(grant), *to).has_value());
  Pull urgent = high_order.pull(grant);
  urgent.priority = 9;
  ASSERT_TRUE(peer->pull(high, urgent, *to).has_value());
  queued.release();
  ASSERT_TRUE(low.wait(in(20s), kClock));
  ASSERT_TRUE(high.wait(in(20s), kClock));
  while (true) {
    const std::lock_guard lock(mutex);
    if (ends.size() == 2) break;
  }
  EXPECT_EQ(ends, (std::vector<int>{2, 1}));
}

TEST_F(Local, RefusesWhatDoesNotFit) {
  use(Layout::by_block(4, 2, 64), Layout::by_block(4, 2, 64));
  const auto code = [&](const Pull& pull, Arena& arena) {
    auto result = peer->pull(transfer, pull, arena);
    return result ? Code::kInternal : result.error().code;
  };
  Pull pull = order->pull(grant);
  pull.to = pull.to.first(3);
  EXPECT_EQ(code(pull, *to), Code::kInvalidArgument);
  for (const std::vector<std::uint32_t>& ends :
       {std::vector<std::uint32_t>{1}, {2, 1}, {0, 2}, {1, 1, 2}, {3}}) {
    pull = order->pull(grant);
    pull.range_ends = ends;
    EXPECT_EQ(code(pull, *to), Code::kInvalidArgument);
  }
  const auto other = make_arena(Layout::by_block(4, 1, 128));
  EXPECT_EQ(code(order->pull(grant), *other), Code::kUnprocessable);
  EXPECT_TRUE(transfer.done());
  const auto wide = make_arena(Layout::by_block(4, 1, 64));
  EXPECT_FALSE(
      Arena::create(Layout::by_block(1U << 20, 1, 1U << 20), MemoryKind::kDevice).has_value());
}

TEST_F(Local, ForeignMemoryIsTakenAndSaysSo) {
  use(Layout::by_block(4, 1, 64), Layout::by_block(4, 1, 64));
  std::vector<std::byte> memory(4 * 64);
  const auto theirs = Arena::adopt(Layout::by_block(4, 1, 64), memory);
  ASSERT_TRUE(theirs.has_value());
  EXPECT_EQ((*theirs)->memory().kind(), MemoryKind::kForeign);
  ASSERT_TRUE(peer->pull(transfer, order->pull(grant), **theirs).has_value());
  ASSERT_TRUE(transfer.wait(in(20s), kClock));
  EXPECT_EQ(order->count(BlockStatus::kArrived), 4U);
  EXPECT_FALSE(Arena::adopt(Layout::by_block(5, 1, 64), memory).has_value());
}

}  // namespace
}  // namespace penstock::transfer
