#include "engine/request_inbox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

namespace penstock::engine {
namespace {

using Inbox = RequestInbox<GenerateRequest>;

GenerateRequest request(std::uint64_t id) { return {.id = {id}, .prompt = {1}, .max_tokens = 1}; }

Result<void> submit(Inbox& inbox, std::uint64_t id) { return inbox.submit({id}, request(id)); }

std::vector<std::uint64_t> ids(const Inbox::Batch& batch) {
  std::vector<std::uint64_t> result;
  for (const GenerateRequest& r : batch.requests) result.push_back(r.id.value);
  return result;
}

using Ids = std::vector<std::uint64_t>;

TEST(RequestInbox, HandsOverInOrderAndOnce) {
  Inbox inbox({.sequences_max = 8});
  Inbox::Batch batch;
  EXPECT_FALSE(inbox.attention());
  EXPECT_TRUE(inbox.take(batch));
  EXPECT_TRUE(batch.requests.empty());
  for (const std::uint64_t id : {3, 1, 2}) ASSERT_TRUE(submit(inbox, id));
  EXPECT_TRUE(inbox.attention());
  EXPECT_TRUE(inbox.take(batch));
  EXPECT_FALSE(inbox.attention());
  ASSERT_TRUE(submit(inbox, 4));
  EXPECT_TRUE(inbox.take(batch));  // what the caller has not used yet stays in front
  EXPECT_EQ(ids(batch), (Ids{3, 1, 2, 4}));
}

TEST(RequestInbox, AnIdIsInUseUntilItsEndIsReported) {
  Inbox inbox({.sequences_max = 8});
  ASSERT_TRUE(submit(inbox, 1));
  const auto again = submit(inbox, 1);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kInvalidArgument);
  const std::vector<RequestId> ended = {{1}};
  Inbox::Batch batch;
  inbox.take(batch);
  inbox.report(0, 0, ended);
  EXPECT_TRUE(submit(inbox, 1));
}

TEST(RequestInbox, AbortsReachOnlyLiveRequestsAndOnlyOnce) {
  Inbox inbox({.sequences_max = 8});
  inbox.abort({1}, CancelReason::kClientGone);
  EXPECT_FALSE(inbox.attention());
  ASSERT_TRUE(submit(inbox, 1));
  inbox.abort({1}, CancelReason::kStopString);
  inbox.abort({1}, CancelReason::kClientGone);
  inbox.abort({2}, CancelReason::kClientGone);
  Inbox::Batch batch;
  inbox.take(batch);
  ASSERT_EQ(batch.aborts.size(), 1U);
  EXPECT_EQ(batch.aborts[0].id, RequestId{1});
  EXPECT_EQ(batch.aborts[0].reason, CancelReason::kStopString);
}

TEST(RequestInbox, FreePlacesFillBeforeTheQueueDoes) {
  Inbox inbox({.sequences_max = 2, .queue_max = 1, .retry_after_s = 7});
  for (const std::uint64_t id : {1, 2, 3}) ASSERT_TRUE(submit(inbox, id));
  const auto refused = submit(inbox, 4);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kOverloaded);
  EXPECT_EQ(refused.error().retry_after_s, 7);
  // Being taken makes no room; being reported as running does.
  Inbox::Batch batch;
  inbox.take(batch);
  EXPECT_EQ(inbox.unreported(), 3U);
  EXPECT_FALSE(submit(inbox, 4));
  inbox.report(1, 0, {});
  EXPECT_EQ(inbox.unreported(), 0U);
  EXPECT_TRUE(submit(inbox, 5));
  inbox.report(1, 0, {});  // says nothing of one that has not been taken
  EXPECT_EQ(inbox.unreported(), 1U);
  EXPECT_TRUE(submit(inbox, 6));
  EXPECT_FALSE(submit(inbox, 7));
}

TEST(RequestInbox, PlacesAreNoUseWhileSomebodyWaits) {
  Inbox inbox({.sequences_max = 8, .queue_max = 2});
  inbox.report(1, 1, {});  // short of memory, say
  EXPECT_TRUE(submit(inbox, 1));
  EXPECT_FALSE(submit(inbox, 2));
}

TEST(RequestInbox, EmbeddingsAreBoundedToo) {
  Inbox inbox({.sequences_max = 1, .queue_max = 2});
  const auto ignore = [](Result<std::vector<float>>) {};
  ASSERT_TRUE(inbox.submit(EmbedRequest{}, ignore));
  ASSERT_TRUE(inbox.submit(EmbedRequest{}, ignore));
  const auto refused = inbox.submit(EmbedRequest{}, ignore);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kOverloaded);
  Inbox::Batch batch;
  inbox.take(batch);
  EXPECT_EQ(batch.embeds.size(), 2U);
  // Being taken makes no room; being begun does.
  EXPECT_FALSE(inbox.submit(EmbedRequest{}, ignore));
  inbox.report(0, 0, {}, 1);
  EXPECT_TRUE(inbox.submit(EmbedRequest{}, ignore));
  EXPECT_FALSE(inbox.submit(EmbedRequest{}, ignore));
}

TEST(RequestInbox, CloseRefusesTheNewAndHandsOverTheRest) {
  Inbox inbox({.sequences_max = 8});
  ASSERT_TRUE(submit(inbox, 1));
  inbox.close();
  const auto refused = submit(inbox, 2);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_FALSE(inbox.submit(EmbedRequest{}, [](Result<std::vector<float>>) {}));
  Inbox::Batch batch;
  EXPECT_FALSE(inbox.wait(batch));
  EXPECT_EQ(ids(batch), Ids{1});
  EXPECT_TRUE(inbox.attention());  // and stays so
  EXPECT_FALSE(inbox.sleep(std::chrono::hours(1)));
}

TEST(RequestInbox, WaitEndsWithWhatComes) {
  Inbox inbox({.sequences_max = 8});
  for (int round = 0; round < 200; ++round) {
    std::jthread other([&] {
      inbox.abort({1}, CancelReason::kClientGone);  // unknown: no wake
      EXPECT_TRUE(submit(inbox, 1));
    });
    Inbox::Batch batch;
    ASSERT_TRUE(inbox.wait(batch));
    ASSERT_EQ(ids(batch), Ids{1});
    const std::vector<RequestId> ended = {{1}};
    inbox.report(0, 0, ended);
  }
}

TEST(RequestInbox, SleepIsEndedByCloseAlone) {
  Inbox inbox({.sequences_max = 8});
  EXPECT_TRUE(inbox.sleep(Nanos(0)));
  EXPECT_TRUE(inbox.sleep(Nanos(-5)));
  std::jthread other([&] {
    EXPECT_TRUE(submit(inbox, 1));
    inbox.close();
  });
  EXPECT_FALSE(inbox.sleep(std::chrono::hours(1)));
}

TEST(RequestInbox, NothingIsLostAmongThreadsAndTheBoundHolds) {
  constexpr std::uint32_t kPlaces = 3;
  constexpr std::uint32_t kQueue = 5;
  constexpr std::uint64_t kThreads = 4;
  constexpr std::uint64_t kEach = 500;
  Inbox inbox({.sequences_max = kPlaces, .queue_max = kQueue});
  std::vector<std::jthread> producers;
  for (std::uint64_t t = 0; t < kThreads; ++t) {
    producers.emplace_back([&inbox, t] {
      for (std::uint64_t i = 0; i < kEach; ++i) {
        const std::uint64_t id = t * kEach + i;
        while (!submit(inbox, id)) std::this_thread::yield();
        if (i % 3 == 0) inbox.abort({id}, CancelReason::kClientGone);
      }
    });
  }
  std::set<std::uint64_t> seen;
  std::set<std::uint64_t> aborted;
  std::vector<RequestId> waiting;  // the first kPlaces of them "run"
  while (seen.size() < kThreads * kEach) {
    Inbox::Batch batch;
    if (waiting.empty()) {
      ASSERT_TRUE(inbox.wait(batch));
    } else {
      ASSERT_TRUE(inbox.take(batch));
    }
    for (const GenerateRequest& r : batch.requests) {
      ASSERT_TRUE(seen.insert(r.id.value).second);
      waiting.push_back(r.id);
    }
    for (const Abort& a : batch.aborts) {
      ASSERT_TRUE(seen.contains(a.id.value));
      ASSERT_TRUE(aborted.insert(a.id.value).second);
    }
    ASSERT_LE(waiting.size(), kPlaces + kQueue);
    std::vector<RequestId> ended;
    while (!waiting.empty() && ended.size() < kPlaces) {
      ended.push_back(waiting.back());
      waiting.pop_back();
    }
    const auto left = static_cast<std::uint32_t>(waiting.size());
    inbox.report(std::min(left, kPlaces), left - std::min(left, kPlaces), ended);
  }
}

}  // namespace
}  // namespace penstock::engine
