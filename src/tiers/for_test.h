#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/rng.h"
#include "tiers/record.h"
#include "tiers/store.h"

/// What the tests and fuzz targets of this module share.
namespace penstock::tiers::testing {

inline constexpr std::uint32_t kBlockBytes = 8000;  // no whole number of pages
inline constexpr std::uint64_t kRecordBytes = 8192;
inline constexpr double kRecomputeNs = 1e9;  // always worth loading

inline Key key_of(std::uint64_t i) { return next_key(root_key("test", ""), std::vector{Token(i)}); }

inline std::vector<std::byte> block_of(std::uint64_t i) {
  std::vector<std::byte> block(kBlockBytes);
  Rng rng(i);
  for (std::size_t at = 0; at < block.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = rng.next();
    std::memcpy(block.data() + at, &word, sizeof word);
  }
  return block;
}

/// Moved by the test while the store's threads look at it.
class TestClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const noexcept override { return TimePoint(Nanos(now_.load())); }
  void advance(Nanos by) noexcept { now_ += by.count(); }

 private:
  std::atomic<std::int64_t> now_{0};
};

/// A folder of its own, gone with this.
class Folder final {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / "penstock-tiers-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::vector<std::string> segments() const {
    std::vector<std::string> files;
    for (const auto& file : std::filesystem::directory_iterator(path_)) {
      if (file.path().extension() == ".segment") files.push_back(file.path());
    }
    std::ranges::sort(files);
    return files;
  }

 private:
  std::string path_;
};

/// What is to go wrong from now on; thread: any.
struct Faults {
  std::atomic<int> read_error{0};  // an errno
  std::atomic<int> write_error{0};
  std::atomic<int> sync_error{0};
  std::atomic<int> allocate_error{0};
  std::atomic<std::int64_t> room_bytes{INT64_MAX};  // for writes: nothing is set aside for a file
  std::atomic<bool> cuts_reads{false};
  std::atomic<bool> tears_writes{false};        // half of it is written, and called whole
  std::atomic<bool> reads_elsewhere{false};     // the record before or after, and called right
  std::atomic<std::int64_t> flips_read_at{-1};  // a bit of that byte of what is read; -1: none
  std::atomic<bool> stalls{false};              // reads wait until this is false
  std::atomic<std::uint32_t> random{0};         // of a thousand operations, that many fail somehow
  std::atomic<std::uint32_t> runs{0};  // how often operations were handed over; counted here
};

/// Plain reads and writes, so that no test needs io_uring, with faults between.
class FaultyIo final : public BlockIo {
 public:
  FaultyIo(std::shared_ptr<Faults> faults, std::uint64_t seed)
      : faults_(std::move(faults)), rng_(seed) {}

  void run(std::span<transfer::FileOp> ops) override {
    ++faults_->runs;
    faults_->stalls.wait(true);
    for (transfer::FileOp& op : ops) run_one(op);
  }
  int sync(int /*fd*/) override { return strikes() ? EIO : faults_->sync_error.load(); }
  int allocate(int fd, std::uint64_t size_bytes) override {
    if (const int error = faults_->allocate_error; error != 0) return error;
    return ftruncate(fd, static_cast<off_t>(size_bytes)) == 0 ? 0 : errno;
  }

 private:
  bool strikes() { return rng_.below(1000) < faults_->random; }

  void run_one(transfer::FileOp& op) {
    using Kind = transfer::FileOp::Kind;
    using transfer::BlockStatus;
    const bool writes = op.kind == Kind::kWrite;
    int error = writes ? faults_->write_error : faults_->read_error;
    bool cut = !writes && faults_->cuts_reads;
    bool torn = writes && faults_->tears_writes;
    bool elsewhere = !writes && faults_->reads_elsewhere;
    bool flipped = false;
    if (strikes()) {
      switch (rng_.below(5)) {
        case 0: error = rng_.below(2) == 0 ? EIO : ENOSPC; break;
        case 1: cut = !writes; break;
        case 2: torn = writes; break;
        case 3: elsewhere = !writes && !op.checked.empty(); break;
        default: flipped = true;
      }
    }
    if (error != 0) {
      op.status = BlockStatus::kPathFailed;
      op.error_number = error;
      return;
    }
    auto offset = static_cast<off_t>(op.offset_bytes);
    if (writes) {
      const auto room = std::clamp<std::int64_t>(faults_->room_bytes, 0, op.size_bytes);
      faults_->room_bytes -= op.size_bytes;
      if (room < op.size_bytes) {  // as much as there is room for, and then the error
        [[maybe_unused]] const ssize_t moved =
            pwrite(op.fd, op.memory, static_cast<std::size_t>(room), offset);
        op.status = BlockStatus::kPathFailed;
        op.error_number = ENOSPC;
        return;
      }
      const std::size_t size = torn ? op.size_bytes / 2 : op.size_bytes;
      const ssize_t moved = pwrite(op.fd, op.memory, size, offset);
      op.status = moved == ssize_t(size) ? BlockStatus::kArrived : BlockStatus::kTruncated;
      if (flipped) flip(op.fd, offset, op.size_bytes);
      return;
    }
    if (elsewhere) offset += offset > off_t(kPageBytes) ? -off_t(op.size_bytes) : op.size_bytes;
    const ssize_t moved = pread(op.fd, op.memory, op.size_bytes, offset);
    if (cut || moved != ssize_t(op.size_bytes)) {
      op.status = BlockStatus::kTruncated;
      return;
    }
    if (flipped) op.memory[rng_.below(op.size_bytes)] ^= std::byte{4};
    if (const std::int64_t at = faults_->flips_read_at; at >= 0) op.memory[at] ^= std::byte{4};
    const bool right = elsewhere || verifies(op);
    op.status = right ? BlockStatus::kArrived : BlockStatus::kCorrupt;
  }

  void flip(int fd, off_t offset, std::uint32_t size) {
    char byte = 0;
    const auto at = offset + static_cast<off_t>(rng_.below(size));
    if (pread(fd, &byte, 1, at) != 1) return;
    byte = static_cast<char>(byte ^ 0x10);
    [[maybe_unused]] const ssize_t moved = pwrite(fd, &byte, 1, at);
  }

  std::shared_ptr<Faults> faults_;
  Rng rng_;
};

/// What a follower has told, as a reader would keep it.
struct Picture {
  std::map<std::uint64_t, Tier> tiers;
  std::size_t times_anew = 0;
  std::size_t told = 0;

  void take(const Store::Follower::News& news) {
    if (news.all_anew) tiers.clear();
    times_anew += news.all_anew ? 1 : 0;
    told += news.places.size();
    for (const BlockPlace& place : news.places) {
      if (place.tier) {
        tiers[place.key_low] = *place.tier;
      } else {
        tiers.erase(place.key_low);
      }
    }
  }
  void follow(Store::Follower& follower, std::size_t at_once = 100) {
    Store::Follower::News news;
    while (follower.read(at_once, news)) take(news);
  }
  [[nodiscard]] std::optional<Tier> of(std::uint64_t i) const {
    const auto found = tiers.find(key_of(i).low);
    return found == tiers.end() ? std::nullopt : std::optional(found->second);
  }
};

/// False: the store does not want it.
inline bool put(Store& store, std::uint64_t i, Keep keep = Keep::kWritten) {
  auto place = store.reserve(key_of(i), kRecomputeNs, keep);
  if (!place) return false;
  std::ranges::copy(block_of(i), place.bytes().begin());
  place.commit();
  return true;
}

/// Where the store says that it lies.
inline std::optional<Tier> tier_of(const Store& store, std::uint64_t i) {
  if (store.in_host(key_of(i))) return Tier::kHost;
  return store.on_disk(key_of(i)) ? std::optional(Tier::kDisk) : std::nullopt;
}

/// The options of a small store: 16 blocks in memory, `segments` of 8 on disk.
inline Options small_store(const std::string& folder, const std::shared_ptr<Faults>& faults,
                           std::uint32_t segments = 8, std::uint64_t seed = 1) {
  Options options;
  options.compatibility = "model";
  options.block_bytes = kBlockBytes;
  options.host_bytes = 16 * kRecordBytes;
  options.disk_folder = folder;
  options.segment_bytes = 8 * kRecordBytes + 3 * kPageBytes;
  options.disk_bytes = segments * Geometry::of(kBlockBytes, options.segment_bytes).segment_bytes;
  options.io = [faults, seed]() mutable -> Result<std::unique_ptr<BlockIo>> {
    return std::make_unique<FaultyIo>(faults, seed++);
  };
  return options;
}

}  // namespace penstock::tiers::testing
