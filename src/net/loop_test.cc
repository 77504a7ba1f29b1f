#include "net/loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "net/http_client.h"
#include "net/internal/asio_loop.h"
#include "net/internal/test_support.h"

namespace penstock::net {
namespace {

using test::run_on;

TEST(LoopTest, RunsTasksInTheOrderTheyWerePosted) {
  const auto thread = start_loop_thread();
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) thread->loop().post([&order, i] { order.push_back(i); });
  run_on(thread->loop(), [] {});
  ASSERT_EQ(order.size(), 1000U);
  EXPECT_TRUE(std::ranges::is_sorted(order));
}

TEST(LoopTest, KnowsItsThread) {
  const auto thread = start_loop_thread();
  EXPECT_FALSE(thread->loop().in_loop_thread());
  bool inside = false;
  run_on(thread->loop(), [&] { inside = thread->loop().in_loop_thread(); });
  EXPECT_TRUE(inside);
}

TEST(LoopTest, TasksFromManyThreadsAllRun) {
  const auto thread = start_loop_thread();
  int ran = 0;  // loop thread only
  std::vector<std::jthread> posters;
  for (int t = 0; t < 4; ++t) {
    posters.emplace_back([&] {
      for (int i = 0; i < 2500; ++i) thread->loop().post([&ran] { ++ran; });
    });
  }
  posters.clear();
  int seen = 0;
  run_on(thread->loop(), [&] { seen = ran; });
  EXPECT_EQ(seen, 10000);
}

TEST(LoopTest, TimersRunInOrderOfTheirMomentNotOfTheirCreation) {
  const auto thread = start_loop_thread();
  std::vector<int> order;
  std::vector<std::unique_ptr<Loop::Timer>> timers;
  std::promise<void> last;
  run_on(thread->loop(), [&] {
    Loop& loop = thread->loop();
    for (const int ms : {9, 3, 6, 1}) {
      timers.push_back(
          loop.after(std::chrono::milliseconds(ms), [&order, ms] { order.push_back(ms); }));
    }
    timers.push_back(loop.after(std::chrono::milliseconds(10), [&last] { last.set_value(); }));
  });
  last.get_future().wait();
  EXPECT_THAT(order, testing::ElementsAre(1, 3, 6, 9));
  run_on(thread->loop(), [&] { timers.clear(); });
}

TEST(LoopTest, ADestroyedTimerNeverFiresEvenIfItIsDue) {
  const auto thread = start_loop_thread();
  bool fired = false;
  std::promise<void> later;
  std::unique_ptr<Loop::Timer> first;
  std::unique_ptr<Loop::Timer> second;
  std::unique_ptr<Loop::Timer> third;
  run_on(thread->loop(), [&] {
    // Both are due when the first runs; it cancels the second, which then must not.
    first = thread->loop().after(Nanos(0), [&] { second.reset(); });
    second = thread->loop().after(Nanos(0), [&] { fired = true; });
    third = thread->loop().after(std::chrono::milliseconds(1), [&] { later.set_value(); });
    std::this_thread::yield();
  });
  later.get_future().wait();
  EXPECT_FALSE(fired);
  run_on(thread->loop(), [&] { first.reset(), third.reset(); });
}

TEST(LoopTest, ATimerMayBeDestroyedByItsOwnTask) {
  const auto thread = start_loop_thread();
  std::unique_ptr<Loop::Timer> timer;
  auto held = std::make_shared<int>(7);
  std::promise<int> value;
  run_on(thread->loop(), [&] {
    timer = thread->loop().after(Nanos(0), [&timer, &value, held] {
      timer.reset();
      value.set_value(*held);  // the captures are still there
    });
  });
  EXPECT_EQ(value.get_future().get(), 7);
}

TEST(LoopTest, ATimerAtTheEndOfTimeIsNoTrouble) {
  const auto thread = start_loop_thread();
  run_on(thread->loop(),
         [&] { const auto timer = thread->loop().after(Nanos::max(), [] { FAIL(); }); });
}

TEST(LoopTest, StoppingDestroysWhatIsQueuedUnrun) {
  AsioLoop loop(3);
  EXPECT_EQ(loop.index(), 3U);
  const auto held = std::make_shared<int>(0);
  loop.post([&loop, held] {
    loop.post([held] { FAIL() << "the loop has stopped"; });
    loop.stop();
    loop.post([held] { FAIL() << "the loop has stopped"; });
  });
  loop.run();
  EXPECT_EQ(held.use_count(), 2);  // the task queued before stop() waits for the loop's end
}

}  // namespace
}  // namespace penstock::net
