#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <mutex>
#include <string>

#include "tiers/for_test.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;
using testing::block_of;
using testing::key_of;
using transfer::FileOp;

constexpr std::size_t kSectorBytes = 512;

/// The disk below the system's caches: what was synced stays, and of what was not any sector may.
/// Thread: any.
class Disk final {
 public:
  Disk(std::uint64_t seed, std::uint32_t failing_percent, int error)
      : rng_(seed), failing_percent_(failing_percent), error_(error) {}

  void create(int fd, std::uint64_t size_bytes) {
    const std::lock_guard lock(mutex_);
    files_[path_of(fd)] = File{.durable = std::vector<std::byte>(size_bytes), .pending = {}};
  }
  void write(const FileOp& op) {
    const std::lock_guard lock(mutex_);
    files_.at(path_of(op.fd))
        .pending.push_back({op.offset_bytes, {op.memory, op.memory + op.size_bytes}});
  }
  /// As Linux does it: after a sync that failed the pages count as written, and the next one is
  /// silent about them.
  int sync(int fd) {
    const std::lock_guard lock(mutex_);
    if (killed_) return EIO;
    File& file = files_.at(path_of(fd));
    const bool fails = rng_.below(100) < failing_percent_;
    for (const Write& write : file.pending) {
      if (!fails) std::ranges::copy(write.bytes, file.durable.data() + write.at);
    }
    file.pending.clear();
    return fails ? error_ : 0;
  }
  /// From now on nobody who writes comes as far as to a sync.
  void kill_writers(bool killed) {
    const std::lock_guard lock(mutex_);
    killed_ = killed;
  }
  /// Nobody has the files open.
  void lose_power() {
    const std::lock_guard lock(mutex_);
    for (auto& [path, file] : files_) {
      if (!std::filesystem::exists(path)) continue;
      const std::uint64_t kept_percent = rng_.below(101);
      for (const Write& write : file.pending) {
        for (std::size_t at = 0; at < write.bytes.size(); at += kSectorBytes) {
          if (rng_.below(100) >= kept_percent) continue;
          std::ranges::copy(std::span(write.bytes).subspan(at, kSectorBytes),
                            file.durable.data() + write.at + at);
        }
      }
      file.pending.clear();
      std::ofstream(path, std::ios::binary)
          .write(reinterpret_cast<const char*>(file.durable.data()),
                 static_cast<std::streamsize>(file.durable.size()));
    }
  }

 private:
  struct Write {
    std::uint64_t at;
    std::vector<std::byte> bytes;
  };
  struct File {
    std::vector<std::byte> durable;
    std::vector<Write> pending;
  };

  static std::string path_of(int fd) {
    return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd));
  }

  std::mutex mutex_;
  std::map<std::string, File> files_;
  Rng rng_;
  const std::uint32_t failing_percent_;
  const int error_;
  bool killed_ = false;
};

class CachedIo final : public BlockIo {
 public:
  explicit CachedIo(std::shared_ptr<Disk> disk) : disk_(std::move(disk)), plain_(no_faults(), 1) {}
  void run(std::span<FileOp> ops) override {
    plain_.run(ops);
    for (const FileOp& op : ops) {
      if (op.kind == FileOp::Kind::kWrite) disk_->write(op);
    }
  }
  int sync(int fd) override { return disk_->sync(fd); }
  int allocate(int fd, std::uint64_t size_bytes) override {
    disk_->create(fd, size_bytes);
    return plain_.allocate(fd, size_bytes);
  }

 private:
  static std::shared_ptr<testing::Faults> no_faults() {
    return std::make_shared<testing::Faults>();
  }
  std::shared_ptr<Disk> disk_;
  testing::FaultyIo plain_;
};

class PowerLoss : public ::testing::Test {
 protected:
  void start(std::uint64_t seed, std::uint32_t failing_percent, int error) {
    store.reset();
    folder = std::make_unique<testing::Folder>();
    disk = std::make_shared<Disk>(seed, failing_percent, error);
  }
  void open(std::uint32_t segments = 1000) {
    Options options = testing::small_store(folder->path(), nullptr, segments);
    options.io = [&]() -> Result<std::unique_ptr<BlockIo>> {
      return std::make_unique<CachedIo>(disk);
    };
    store = Store::open(options, clock).value();
  }
  void put(std::uint64_t i) { testing::put(*store, i); }
  [[nodiscard]] std::vector<std::uint64_t> on_disk(std::uint64_t end) const {
    std::vector<std::uint64_t> blocks;
    for (std::uint64_t i = 0; i < end; ++i) {
      if (store->on_disk(key_of(i))) blocks.push_back(i);
    }
    return blocks;
  }
  void expect(const std::vector<std::uint64_t>& blocks) {
    for (const std::uint64_t i : blocks) {
      const std::array keys{key_of(i)};
      Store::Fetch fetch = store->fetch(keys, Deadline(clock.now() + 1h));
      ASSERT_TRUE(fetch.wait(20s));
      const std::vector<Store::Pin> pins = fetch.take();
      ASSERT_EQ(pins.size(), 1U) << "block " << i << " is gone";
      std::vector<std::byte> to(testing::kBlockBytes);
      ASSERT_TRUE(pins[0].copy_to(to));
      ASSERT_EQ(to, block_of(i));
    }
  }
  /// Lives of a store, each ended by a power loss.
  void play(std::uint64_t seed, std::uint32_t failing_percent, int error) {
    constexpr int kLives = 10;
    start(seed, failing_percent, error);
    Rng rng(seed);
    std::uint64_t next = 0;
    std::vector<std::uint64_t> committed;
    for (int life = 0; life < kLives; ++life) {
      open();
      expect(committed);
      for (std::uint64_t more = 1 + rng.below(20); more > 0; --more) {
        put(next++);
        if (rng.below(2) == 0) {
          ASSERT_TRUE(store->flush(20s));
        }
        clock.advance(2min);
      }
      ASSERT_TRUE(store->flush(20s));
      committed = on_disk(next);
      store.reset();
      disk->lose_power();
    }
    EXPECT_GT(committed.size(), 10U);
  }

  std::unique_ptr<testing::Folder> folder;
  std::shared_ptr<Disk> disk;
  testing::TestClock clock;
  std::unique_ptr<Store> store;
};

TEST_F(PowerLoss, TakesNothingThatWasCommitted) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) play(seed, 0, 0);
}

TEST_F(PowerLoss, TakesNothingThatWasCommittedBesideSyncsThatFail) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    play(seed, 25, EIO);
    play(seed, 25, ENOSPC);
  }
}

TEST_F(PowerLoss, TakesNothingThatWasFoundWhereAWriterWasKilled) {
  constexpr std::uint32_t kFewSegments = 8;  // one writer, so both blocks go to one file
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    start(seed, 0, 0);
    open(kFewSegments);
    put(0);
    ASSERT_TRUE(store->flush(20s));
    disk->kill_writers(true);
    put(1);
    ASSERT_TRUE(store->flush(20s));
    store.reset();
    disk->kill_writers(false);
    open(kFewSegments);
    const std::vector<std::uint64_t> found = on_disk(2);
    EXPECT_EQ(found.size(), 2U);
    store.reset();
    disk->lose_power();
    open(kFewSegments);
    expect(found);
  }
}

}  // namespace
}  // namespace penstock::tiers
