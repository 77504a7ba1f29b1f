#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/complaint.h"
#include "tiers/budget.h"
#include "tiers/frequency_sketch.h"
#include "tiers/internal/segment.h"
#include "tiers/read_cost.h"
#include "tiers/store.h"
#include "transfer/arena.h"
#include "transfer/meter.h"

namespace penstock::tiers {

/// What the index knows of a block. Gone when it is in no tier and nobody holds it.
struct Store::Entry {
  enum class Host : std::uint8_t {
    kNone,
    kFilling,  // reserved, not committed
    kLoading,  // coming from disk
    kReady,
    kBad,  // did not verify: nobody gets it any more
  };
  static constexpr std::uint32_t kNoSlot = UINT32_MAX;

  Key key;
  double recompute_ns = 0;

  Host host = Host::kNone;
  Keep keep = Keep::kHeld;
  bool to_disk = false;  // waits to be written, or is being written
  std::uint32_t slot = kNoSlot;
  std::uint32_t pins = 0;
  std::list<Entry*>::iterator place;  // in `lru` while kReady

  std::shared_ptr<Segment> segment;  // on disk
  std::uint32_t record = 0;
  std::uint64_t generation = 0;
  transfer::Checksum block_sum = 0;
  Deadline wanted_until;           // while kLoading
  std::optional<Reason> left_out;  // why it was not read; counted by who waits for it
};

/// All of a store, under one lock that is never held during I/O or a copy. The writers' threads
/// alone make, fill and drop segments.
struct Store::State {
  /// A thread that reads or writes.
  struct IoThread {
    std::unique_ptr<BlockIo> io;
    TimePoint late_from = TimePoint::max();  // what it is doing should be done by then
    std::thread thread;
  };
  struct Writer : IoThread {
    std::shared_ptr<Segment> segment;  // it alone fills that one; null: none yet
  };

  State(const Options& chosen, const Clock& time);

  const Options options;
  const Clock& clock;
  const Key compatibility;
  const Geometry geometry;
  int lock_fd = -1;

  mutable std::mutex mutex;
  std::condition_variable work_changed;  // for our threads
  std::condition_variable done_changed;  // for those who wait for them
  std::unordered_map<Key, Entry> index;
  std::unique_ptr<transfer::Arena> arena;
  std::vector<std::uint32_t> free_slots;
  std::list<Entry*> lru;  // coldest first
  FrequencySketch sketch;
  std::deque<Entry*> to_write;
  std::deque<Entry*> to_read;
  std::size_t writing = 0;  // blocks being written
  std::size_t reading = 0;  // blocks being read

  // Blocks that are somewhere else than before, for followers: the last ones of all so far.
  static constexpr std::size_t kChangesMax = 1 << 16;
  std::deque<Key> changed;
  std::uint64_t changes = 0;

  std::deque<std::shared_ptr<Segment>> segments;  // as they were sealed, oldest first
  std::uint64_t disk_bytes = 0;
  std::uint64_t next_segment = 1;
  std::uint64_t generation = 0;
  double oldest_value = 0;  // a block of the segment to go next, at the mean; see `value`
  std::uint64_t cold_refusals = 0;
  // Reading and writing fail, hang and recover apart: what is on a disk that is full or has become
  // read-only is as good as before.
  Breaker read_breaker;
  Breaker write_breaker;
  TimePoint full_until = TimePoint::min();  // the disk had no room: nobody writes
  Complaint read_complaint;
  Complaint write_complaint;
  std::vector<std::string> to_say;  // lines of the log, for one of our threads without the lock
  WearBudget wear;
  ReadCost read_cost;
  TimePoint reads_measured_until = TimePoint::min();
  std::size_t unmeasured_reads = 0;  // blocks that came since
  transfer::Meter writes;
  transfer::Meter copies;
  Stats stats;
  bool stopping = false;
  TimePoint stop_by;

  std::vector<Writer> writers;  // none: there is no disk
  std::vector<IoThread> readers;

  // store.cc; under the lock unless said otherwise.
  Result<void> take_memory();
  [[nodiscard]] bool has_disk() const noexcept { return !writers.empty(); }
  [[nodiscard]] static bool are_in_time(const auto& threads, TimePoint now) noexcept {
    return std::ranges::all_of(threads, [now](const auto& t) { return now < t.late_from; });
  }
  [[nodiscard]] bool reads_work(TimePoint now) const noexcept {
    return read_breaker.allows(now) && are_in_time(readers, now);
  }
  [[nodiscard]] bool writes_work(TimePoint now) const noexcept {
    return write_breaker.allows(now) && are_in_time(writers, now);
  }
  [[nodiscard]] std::byte* record(std::uint32_t slot) const noexcept {
    return arena->part(slot, 0) - kRecordHeaderBytes;
  }
  [[nodiscard]] Entry* find(const Key& key);
  [[nodiscard]] const Entry* find(const Key& key) const;
  [[nodiscard]] static std::optional<Tier> tier_of(const Entry& entry) noexcept {
    if (entry.host == Entry::Host::kReady) return Tier::kHost;
    return entry.segment != nullptr ? std::optional(Tier::kDisk) : std::nullopt;
  }
  [[nodiscard]] std::optional<Tier> tier_of(const Key& key) const {
    const Entry* entry = find(key);
    return entry != nullptr ? tier_of(*entry) : std::nullopt;
  }
  [[nodiscard]] std::vector<Tier> leading(std::span<const Key> keys) const;
  [[nodiscard]] LoadCosts costs(double recompute_ns) const;
  [[nodiscard]] double value(const Entry& entry) const noexcept;
  [[nodiscard]] double disk_block_ns() const noexcept;
  bool wanted_on_disk(const Key& key, double recompute_ns);
  [[nodiscard]] std::uint32_t take_slot();  // kNoSlot: none
  [[nodiscard]] std::size_t records_left() const noexcept;
  void queue_write(Entry& entry);
  void moved(const Entry& entry);
  void became_ready(Entry& entry);
  void left_host(const Entry& entry);
  void drop_host(Entry& entry);
  void drop_disk(Entry& entry);
  void forget_if_gone(Entry& entry);
  void unpin(Entry& entry);
  void refuse(Reason reason) { ++stats.refused[static_cast<std::size_t>(reason)]; }
  void miss(Reason reason) { ++stats.missed[static_cast<std::size_t>(reason)]; }

  // disk.cc: recovery, and the threads, which let go of the lock for I/O.
  Result<void> open_disk();
  void note_wear(const Segment& segment);
  void fill_or_seal_found();
  void index_segment(const std::shared_ptr<Segment>& segment);
  [[nodiscard]] TimePoint late_from(std::size_t blocks, double block_ns) const;
  void writing_failed(int error);
  void say(std::unique_lock<std::mutex>& lock);
  void write_forever(Writer& writer);
  void write_some(std::unique_lock<std::mutex>& lock, Writer& writer);
  std::vector<Entry*> take_to_write(std::size_t blocks);
  int find_room(std::unique_lock<std::mutex>& lock, Writer& writer);
  void make_room(std::unique_lock<std::mutex>& lock, std::uint64_t bytes);
  bool drop_oldest(std::unique_lock<std::mutex>& lock);
  [[nodiscard]] std::shared_ptr<Segment> oldest() const;
  void drop_entries(const Segment& segment);
  void update_oldest_value();
  void settle_write(Entry& entry, const std::shared_ptr<Segment>& segment,
                    const transfer::FileOp& op, const RecordHeader& header, int sync_error);
  void end_write(Entry& entry);
  void read_forever(IoThread& reader);
  void read_batch(std::unique_lock<std::mutex>& lock, BlockIo& io,
                  const std::vector<Entry*>& batch);
  void measure_reads(std::size_t blocks, TimePoint start);
  void settle_read(Entry& entry, const std::shared_ptr<Segment>& segment,
                   const transfer::FileOp& op);
  void reading_failed(std::string_view what);
  void quarantine(Segment& segment);
  void stop();
};

}  // namespace penstock::tiers
