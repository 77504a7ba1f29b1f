// kill -9 in the middle of writing: what was reported as on disk is there afterwards, and right.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <csignal>

#include "tiers/for_test.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;
using testing::block_of;
using testing::key_of;

Options options_in(const std::string& folder) {
  Options options = testing::small_store(folder, std::make_shared<testing::Faults>(), 2000);
  if (make_ring_io()) options.io = make_ring_io;
  return options;
}

/// Writes blocks from `first` on and reports each as soon as it is on disk.
void write_until_killed(const std::string& folder, std::uint64_t first, int report) {
  const SteadyClock clock;
  const auto store = Store::open(options_in(folder), clock).value();
  std::uint64_t reported = first;
  for (std::uint64_t i = first;; ++i) {
    if (auto place = store->reserve(key_of(i), 1e9, Keep::kWritten)) {
      std::ranges::copy(block_of(i), place.bytes().begin());
      place.commit();
    } else if (!store->on_disk(key_of(i))) {  // a life before got that far
      --i;                                    // too many wait: again
      (void)store->flush(1s);
    }
    if (i - first == 200) pause();
    while (reported <= i && store->on_disk(key_of(reported))) {
      if (write(report, &reported, sizeof reported) != sizeof reported) _exit(1);
      ++reported;
    }
  }
}

TEST(Crash, CommittedBlocksSurviveKill9) {
  testing::Folder folder;
  Rng rng(11);
  std::vector<std::uint64_t> committed;
  std::uint64_t first = 0;
  for (int round = 0; round < 40; ++round) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) write_until_killed(folder.path(), first, ends[1]);
    close(ends[1]);
    for (std::uint32_t left = 1 + rng.below(24); left > 0; --left) {
      std::uint64_t reported = 0;
      ASSERT_EQ(read(ends[0], &reported, sizeof reported), ssize_t(sizeof reported));
      committed.push_back(reported);
    }
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    close(ends[0]);
    first = committed.back() + 100;  // what came after the last report may be there or not

    const SteadyClock clock;
    const auto store = Store::open(options_in(folder.path()), clock).value();
    for (const std::uint64_t i : committed) ASSERT_TRUE(store->on_disk(key_of(i))) << i;
    const std::uint64_t from = committed.back() < 40 ? 0 : committed.back() - 40;
    for (std::uint64_t i = from; i < first; ++i) {
      const std::array keys{key_of(i)};
      if (!store->on_disk(keys[0])) continue;
      Store::Fetch fetch = store->fetch(keys, Deadline());
      ASSERT_TRUE(fetch.wait(20s));
      const std::vector<Store::Pin> pins = fetch.take();
      ASSERT_EQ(pins.size(), 1U);
      std::vector<std::byte> to(testing::kBlockBytes);
      for (const Store::Pin& pin : pins) {
        ASSERT_TRUE(pin.copy_to(to));
        ASSERT_EQ(to, block_of(i));
      }
    }
    ASSERT_EQ(store->stats().missed, decltype(Stats::missed){});
  }
}

}  // namespace
}  // namespace penstock::tiers
