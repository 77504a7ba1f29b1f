// Random work against a plain map, without faults and with all of them at once: what is given is
// always right, and without faults whatever the store says it has is given.
#include <gtest/gtest.h>

#include "tiers/for_test.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;
using testing::block_of;
using testing::key_of;

constexpr std::uint32_t kKeys = 120;

class Work {
 public:
  Work(std::uint64_t seed, std::uint32_t segments) : rng_(seed), segments_(segments) { reopen(); }

  void step(std::uint32_t faults) {
    faults_->random = faults;
    const std::uint32_t what = rng_.below(100);
    if (what < 45) {
      put();
    } else if (what < 95) {
      get(faults > 0);
    } else if (what < 97) {
      (void)store_->flush(20s);
    } else if (what == 97) {
      clock_.advance(1s);  // breakers
    } else if (what == 98) {
      reopen();
    }
    if (rng_.below(4) == 0 && follower_->read(1 + rng_.below(20), news_)) picture_.take(news_);
    if (rng_.below(50) == 0) compare_picture();
    const Stats stats = store_->stats();
    ASSERT_LE(stats.disk_bytes, stats.disk_bytes_max);
    ASSERT_LE(stats.host_blocks, stats.host_blocks_max);
  }
  std::uint64_t given = 0;
  std::uint64_t promises_kept = 0;

 private:
  void reopen() {
    follower_.reset();
    store_.reset();
    // A folder that cannot be read right now is an error of `open`, not of the next one.
    for (;;) {
      auto opened = Store::open(
          testing::small_store(folder_.path(), faults_, segments_, rng_.next()), clock_);
      if (!opened) continue;
      store_ = std::move(*opened);
      follower_.emplace(*store_);
      return;
    }
  }
  /// Reads and writes that go on may move blocks for a moment.
  void compare_picture() {
    const auto is_right = [&] {
      picture_.follow(*follower_);
      for (std::uint64_t i = 0; i < kKeys; ++i) {
        if (picture_.of(i) != testing::tier_of(*store_, i)) return false;
      }
      return true;
    };
    const auto until = std::chrono::steady_clock::now() + 20s;
    while (!is_right()) {
      ASSERT_LT(std::chrono::steady_clock::now(), until);
      std::this_thread::yield();
    }
  }
  void put() {
    const std::uint64_t i = rng_.below(kKeys);
    auto place = store_->reserve(key_of(i), 1e9, rng_.below(2) == 0 ? Keep::kWritten : Keep::kHeld);
    if (!place) return;
    std::ranges::copy(block_of(i), place.bytes().begin());
    if (rng_.below(10) > 0) place.commit();
  }
  void get(bool faulty) {
    std::vector<Key> keys;
    const std::uint64_t first = rng_.below(kKeys);
    const std::uint32_t count = 1 + rng_.below(6);
    const bool late = rng_.below(8) == 0;
    bool promised = !faulty && !late && store_->flush(20s);  // nothing moves now
    for (std::uint64_t i = first; i < first + count; ++i) {
      keys.push_back(key_of(i));
      promised = promised && (store_->in_host(keys.back()) || store_->on_disk(keys.back()));
    }
    (void)store_->choose(keys, 0, 1e9);
    const auto before = store_->stats().missed;
    Store::Fetch fetch = store_->fetch(keys, Deadline(clock_.now() + (late ? 0ns : Nanos(1h))));
    ASSERT_TRUE(fetch.wait(20s));
    if (rng_.below(10) == 0) return;  // whoever asked has left
    const std::vector<Store::Pin> pins = fetch.take();
    constexpr auto kFull = static_cast<std::size_t>(Reason::kHostFull);
    const auto missed = store_->stats().missed;
    promised = promised && missed[kFull] == before[kFull];
    ASSERT_TRUE(!promised || pins.size() == keys.size());
    ASSERT_TRUE(pins.size() == keys.size() || missed != before);  // a reason is counted
    promises_kept += promised ? 1 : 0;
    for (std::size_t i = 0; i < pins.size(); ++i) {
      std::vector<std::byte> to(testing::kBlockBytes);
      if (!pins[i].copy_to(to)) continue;
      ++given;
      ASSERT_EQ(to, block_of(first + i));
    }
  }

  Rng rng_;
  const std::uint32_t segments_;
  testing::Folder folder_;
  std::shared_ptr<testing::Faults> faults_ = std::make_shared<testing::Faults>();
  testing::TestClock clock_;
  std::unique_ptr<Store> store_;
  std::optional<Store::Follower> follower_;
  Store::Follower::News news_;
  testing::Picture picture_;
};

TEST(StoreProperty, WhatIsHeldIsGivenAndRight) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    Work work(seed, 1000);  // nothing is dropped
    for (int i = 0; i < 1500; ++i) {
      work.step(0);
      ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "seed " << seed << ", step " << i;
    }
    EXPECT_GT(work.promises_kept, 100U);
  }
}

TEST(StoreProperty, WhateverFailsNothingWrongIsGiven) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    Work work(seed, seed % 2 == 0 ? 6 : 16);  // for one writer, and for all of them
    for (int i = 0; i < 1500; ++i) {
      work.step(seed * 10);
      ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "seed " << seed << ", step " << i;
    }
    EXPECT_GT(work.given, 0U);
  }
}

/// The same without a moving store: bytes of its files are changed anywhere while it is closed.
TEST(StoreProperty, FilesThatWereTamperedWithGiveNothingWrong) {
  testing::TestClock clock;
  Rng rng(5);
  for (int round = 0; round < 60; ++round) {
    testing::Folder folder;
    auto faults = std::make_shared<testing::Faults>();
    const auto open_store = [&] {
      return Store::open(testing::small_store(folder.path(), faults), clock).value();
    };
    auto store = open_store();
    for (std::uint64_t i = 0; i < 20; ++i) {
      ASSERT_TRUE(testing::put(*store, i));
      ASSERT_TRUE(store->flush(20s));
    }
    store.reset();
    for (const std::string& path : folder.segments()) {
      const transfer::Fd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
      const auto size = static_cast<std::uint32_t>(std::filesystem::file_size(path));
      switch (rng.below(3)) {
        case 0:  // bits
          for (int n = 0; n < 3; ++n) {
            char byte = 0;
            const off_t at = rng.below(size);
            ASSERT_EQ(pread(file.get(), &byte, 1, at), 1);
            byte = static_cast<char>(byte ^ (1 << rng.below(8)));
            ASSERT_EQ(pwrite(file.get(), &byte, 1, at), 1);
          }
          break;
        case 1: ASSERT_EQ(ftruncate(file.get(), rng.below(size)), 0); break;
        default: {  // a record over another
          std::vector<char> record(testing::kRecordBytes);
          const auto at = [&] { return kPageBytes + rng.below(8) * testing::kRecordBytes; };
          ASSERT_GT(pread(file.get(), record.data(), record.size(), off_t(at())), 0);
          ASSERT_GT(pwrite(file.get(), record.data(), record.size(), off_t(at())), 0);
        }
      }
    }
    store = open_store();
    for (std::uint64_t i = 0; i < 20; ++i) {
      const std::array keys{key_of(i)};
      Store::Fetch fetch = store->fetch(keys, Deadline());
      ASSERT_TRUE(fetch.wait(20s));
      for (const Store::Pin& pin : fetch.take()) {
        std::vector<std::byte> to(testing::kBlockBytes);
        ASSERT_TRUE(!pin.copy_to(to) || to == block_of(i));
      }
    }
  }
}

}  // namespace
}  // namespace penstock::tiers
