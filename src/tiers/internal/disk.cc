// The disk tier of a store: recovery, and the two threads that write and read.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/log.h"
#include "tiers/internal/state.h"

namespace penstock::tiers {
namespace {

using Host = Store::Entry::Host;
using transfer::BlockStatus;
using transfer::FileOp;

constexpr std::size_t kWriteBatchMax = 32;  // blocks that share a sync
constexpr std::size_t kReadBatchMax = 128;
constexpr auto kFlushMax = std::chrono::seconds(5);
constexpr std::int64_t kDayS = 86400;
constexpr std::string_view kSuffix = ".segment";

/// Ids of the segments in a folder, rising.
std::vector<std::uint64_t> segments_in(const std::string& folder, std::error_code& error) {
  std::vector<std::uint64_t> ids;
  for (const auto& file : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = file.path().filename();
    if (!name.ends_with(kSuffix)) continue;
    const std::uint64_t id = std::strtoull(name.c_str(), nullptr, 16);
    if (name == segment_name(id)) ids.push_back(id);
  }
  std::ranges::sort(ids);
  return ids;
}

Reason reason_of(BlockStatus status) {
  switch (status) {
    case BlockStatus::kCorrupt: return Reason::kCorrupt;
    case BlockStatus::kTruncated: return Reason::kTruncated;
    default: return Reason::kIoError;
  }
}

}  // namespace

Result<void> Store::State::open_disk() {
  const TimePoint start = std::chrono::steady_clock::now();
  const std::string& folder = options.disk_folder;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  lock_fd = ::open((folder + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd < 0) {
    return fail(Code::kUnavailable,
                fmt::format("{} cannot be used: {}", folder, std::strerror(errno)));
  }
  if (flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
    return fail(Code::kUnavailable, fmt::format("{} is in use by another server", folder));
  }
  if (options.disk_bytes < 2 * geometry.segment_bytes) {
    return fail(Code::kInvalidArgument, fmt::format("{} bytes on disk: at least two segments of {}",
                                                    options.disk_bytes, geometry.segment_bytes));
  }
  for (auto* io : {&write_io, &read_io}) {
    auto made = options.io();
    if (!made) return std::unexpected(made.error());
    *io = std::move(*made);
  }
  const std::int64_t now_s = std::chrono::duration_cast<std::chrono::seconds>(
                                 std::chrono::system_clock::now().time_since_epoch())
                                 .count();
  std::uint64_t spent = 0;
  for (const std::uint64_t id : segments_in(folder, error)) {
    next_segment = std::max(next_segment, id + 1);
    const std::string path = folder + "/" + segment_name(id);
    auto segment = Segment::open(path, geometry, compatibility, *read_io);
    if (!segment) {
      log::warn("{} is left out: {}", path, segment.error().message);
      // Cut off before it had a header, or that cannot be read any more.
      if (segment.error().code == Code::kUnprocessable) ::unlink(path.c_str());
      continue;
    }
    if ((*segment)->created_unix_s() > now_s - kDayS) spent += (*segment)->bytes();
    index_segment(*segment);
  }
  if (error) {
    return fail(Code::kUnavailable, fmt::format("{} cannot be read: {}", folder, error.message()));
  }
  wear = WearBudget(options.wear_bytes_per_day, spent, clock.now());
  for (std::size_t i = 0; i + 1 < segments.size(); ++i) {
    if (segments[i]->fits() && !segments[i]->sealed) {
      segments[i]->sealed = segments[i]->write_footer(*write_io);
    }
  }
  {
    std::unique_lock lock(mutex);
    make_room(lock, 0);
    update_oldest_value();
  }
  stats.recovered_blocks = stats.disk_blocks;
  stats.recovery_ms = to_ms(std::chrono::steady_clock::now() - start);
  writer = std::thread([this] { write_forever(); });
  reader = std::thread([this] { read_forever(); });
  return {};
}

void Store::State::index_segment(const std::shared_ptr<Segment>& segment) {
  segments.push_back(segment);
  disk_bytes += segment->bytes();
  stats.direct = stats.direct && segment->direct();
  if (!segment->fits()) ++stats.incompatible_segments;
  for (std::uint32_t record = 0; record < segment->entries.size(); ++record) {
    const FooterEntry& found = segment->entries[record];
    if (found.generation == 0) continue;
    generation = std::max(generation, found.generation);
    Entry& entry = index[found.key];
    if (entry.generation > found.generation) continue;
    drop_disk(entry);
    entry.key = found.key;
    entry.recompute_ns = found.recompute_us * 1e3;
    entry.segment = segment;
    entry.record = record;
    entry.generation = found.generation;
    entry.record_sum = found.record_sum;
    ++segment->live;
    ++stats.disk_blocks;
  }
}

void Store::State::stop() {
  {
    const std::lock_guard lock(mutex);
    stopping = true;
    stop_by = clock.now() + kFlushMax;
    work_changed.notify_all();
  }
  if (writer.joinable()) writer.join();
  if (reader.joinable()) reader.join();
  if (lock_fd >= 0) ::close(lock_fd);
}

// Writing.

void Store::State::write_forever() {
  std::unique_lock lock(mutex);
  for (;;) {
    work_changed.wait(lock, [&] { return stopping || !to_write.empty(); });
    if (to_write.empty() || (stopping && clock.now() >= stop_by)) return;
    std::vector<Entry*> batch;
    while (!to_write.empty() && batch.size() < kWriteBatchMax) {
      batch.push_back(to_write.front());
      to_write.pop_front();
    }
    under_way = batch.size();
    write_batch(lock, std::move(batch));
    under_way = 0;
    done_changed.notify_all();
  }
}

/// Drops whole segments from the oldest on until `bytes` more fit.
void Store::State::make_room(std::unique_lock<std::mutex>& lock, std::uint64_t bytes) {
  while (disk_bytes + bytes > options.disk_bytes && drop_oldest(lock)) {
  }
}

/// False: there is none but the one being filled.
bool Store::State::drop_oldest(std::unique_lock<std::mutex>& lock) {
  if (segments.size() < 2) return false;
  const std::shared_ptr<Segment> oldest = segments.front();
  segments.pop_front();
  disk_bytes -= oldest->bytes();
  ++stats.segments_dropped;
  drop_entries(*oldest);
  update_oldest_value();
  lock.unlock();
  oldest->unlink();
  lock.lock();
  return true;
}

void Store::State::drop_entries(const Segment& segment) {
  for (const FooterEntry& in : segment.entries) {
    Entry* entry = in.generation == 0 ? nullptr : find(in.key);
    if (entry == nullptr || entry->segment.get() != &segment) continue;
    drop_disk(*entry);
    forget_if_gone(*entry);
  }
}

void Store::State::update_oldest_value() {
  oldest_value = 0;
  if (segments.empty() || segments.front()->live == 0) return;
  const Segment& oldest = *segments.front();
  for (const FooterEntry& in : oldest.entries) {
    const Entry* entry = in.generation == 0 ? nullptr : find(in.key);
    if (entry != nullptr && entry->segment.get() == &oldest) oldest_value += value(*entry);
  }
  oldest_value /= oldest.live;
}

/// Null: `error` says why.
std::shared_ptr<Segment> Store::State::segment_to_fill(std::unique_lock<std::mutex>& lock,
                                                       int& error) {
  error = 0;
  if (records_left() > 0) return segments.back();
  if (!segments.empty() && segments.back()->fits() && !segments.back()->sealed) {
    const std::shared_ptr<Segment> last = segments.back();
    lock.unlock();
    const bool written = last->write_footer(*write_io);
    lock.lock();
    last->sealed = written;
  }
  make_room(lock, geometry.segment_bytes);
  for (bool again = false;; again = true) {
    const std::uint64_t id = next_segment++;
    lock.unlock();
    Segment::Created created =
        Segment::create(options.disk_folder, id, geometry, compatibility, *write_io);
    lock.lock();
    if (created.segment != nullptr) {
      segments.push_back(created.segment);
      disk_bytes += created.segment->bytes();
      stats.direct = stats.direct && created.segment->direct();
      update_oldest_value();
      return created.segment;
    }
    error = created.error_number;
    // Others fill this disk as well: what is oldest of ours makes room, once.
    if (error != ENOSPC || again || !drop_oldest(lock)) return nullptr;
  }
}

void Store::State::write_batch(std::unique_lock<std::mutex>& lock, std::vector<Entry*> batch) {
  int error = 0;
  const bool tries = breaker.allows(clock.now());
  const std::shared_ptr<Segment> segment = tries ? segment_to_fill(lock, error) : nullptr;
  if (segment == nullptr) {
    if (tries) breaker.failed(clock.now());
    for (Entry* entry : batch) {
      refuse(!tries            ? Reason::kBreakerOpen
             : error == ENOSPC ? Reason::kDiskFull
                               : Reason::kIoError);
      end_write(*entry);
    }
    return;
  }
  while (batch.size() > geometry.records - segment->next) {  // the rest goes to the next one
    to_write.push_front(batch.back());
    batch.pop_back();
  }
  std::vector<FileOp> ops(batch.size());
  std::vector<RecordHeader> headers(batch.size());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const Entry& entry = *batch[i];
    headers[i] = segment->header_of(segment->next++, entry.key, ++generation,
                                    static_cast<std::uint32_t>(entry.recompute_ns / 1e3),
                                    arena->table().checksum(entry.slot, 0));
    ops[i] = {.kind = FileOp::Kind::kWrite,
              .fd = segment->fd(),
              .offset_bytes = geometry.record_at(headers[i].record),
              .memory = record(entry.slot),
              .size_bytes = static_cast<std::uint32_t>(geometry.record_bytes)};
  }
  lock.unlock();
  for (std::size_t i = 0; i < ops.size(); ++i) {
    std::memcpy(ops[i].memory, &headers[i], sizeof headers[i]);
  }
  write_io->run(ops);
  error = write_io->sync(segment->fd());
  lock.lock();
  wear.spend(ops.size() * geometry.record_bytes);
  stats.bytes_written += ops.size() * geometry.record_bytes;
  bool failed = error != 0;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    if (error == 0 && ops[i].status != BlockStatus::kArrived) failed = true;
    settle_write(*batch[i], segment, ops[i], headers[i], error);
  }
  if (failed) {
    breaker.failed(clock.now());
    segment->next = geometry.records;  // what is committed in it stays, nothing is added
  } else {
    breaker.succeeded();
  }
}

void Store::State::settle_write(Entry& entry, const std::shared_ptr<Segment>& segment,
                                const FileOp& op, const RecordHeader& header, int sync_error) {
  if (entry.host == Host::kBad) return end_write(entry);  // so is what was written
  if (op.status != BlockStatus::kArrived || sync_error != 0) {
    const bool full = op.error_number == ENOSPC || sync_error == ENOSPC;
    refuse(full ? Reason::kDiskFull : Reason::kIoError);
  } else {
    entry.segment = segment;
    entry.record = header.record;
    entry.generation = header.generation;
    entry.record_sum = op.checksum;
    segment->entries[header.record] = {.key = entry.key,
                                       .generation = header.generation,
                                       .record_sum = op.checksum,
                                       .recompute_us = header.recompute_us};
    ++segment->live;
    ++stats.disk_blocks;
  }
  end_write(entry);
}

/// The block's memory can be given to another again; the entry may be gone after this.
void Store::State::end_write(Entry& entry) {
  entry.to_disk = false;
  if (entry.host != Host::kBad) {
    lru.splice(lru.begin(), lru, entry.place);  // evicted, or its maker has it: missed least
    return;
  }
  if (entry.pins == 0) drop_host(entry);
  forget_if_gone(entry);
}

// Reading.

void Store::State::read_forever() {
  std::unique_lock lock(mutex);
  for (;;) {
    work_changed.wait(lock, [&] { return stopping || !to_read.empty(); });
    if (stopping) return;
    std::vector<Entry*> batch;
    const TimePoint now = clock.now();
    while (!to_read.empty() && batch.size() < kReadBatchMax) {
      Entry& entry = *to_read.front();
      to_read.pop_front();
      if (entry.wanted_until.passed(now) || entry.segment == nullptr) {
        drop_host(entry);
        forget_if_gone(entry);
      } else {
        batch.push_back(&entry);
      }
    }
    reading = batch.size();
    if (!batch.empty()) read_batch(lock, batch);
    reading = 0;
    done_changed.notify_all();
  }
}

void Store::State::read_batch(std::unique_lock<std::mutex>& lock,
                              const std::vector<Entry*>& batch) {
  std::vector<FileOp> ops;
  std::vector<std::shared_ptr<Segment>> from;  // so that files stay open
  for (const Entry* entry : batch) {
    from.push_back(entry->segment);
    ops.push_back({.fd = entry->segment->fd(),
                   .offset_bytes = geometry.record_at(entry->record),
                   .memory = record(entry->slot),
                   .size_bytes = static_cast<std::uint32_t>(geometry.record_bytes),
                   .checksum = entry->record_sum});
  }
  lock.unlock();
  const TimePoint start = clock.now();
  read_io->run(ops);
  const Nanos each = (clock.now() - start) / ops.size();
  lock.lock();
  stats.bytes_read += ops.size() * geometry.record_bytes;
  reads.record({}, geometry.record_bytes, Nanos(0), each);
  for (std::size_t i = 0; i < ops.size(); ++i) settle_read(*batch[i], from[i], ops[i]);
}

void Store::State::settle_read(Entry& entry, const std::shared_ptr<Segment>& segment,
                               const FileOp& op) {
  RecordHeader header;
  std::memcpy(&header, op.memory, sizeof header);
  const bool arrived = op.status == BlockStatus::kArrived;
  if (arrived && segment->is_mine(header, entry.record) && header.key == entry.key &&
      header.generation == entry.generation) {
    breaker.succeeded();
    arena->table().set_checksum(entry.slot, 0, header.block_sum);
    arena->commit(entry.slot, {entry.key.high, entry.key.low});
    became_ready(entry);
    return;
  }
  miss(arrived ? Reason::kWrongRecord : reason_of(op.status));
  if (op.status == BlockStatus::kPathFailed) {
    breaker.failed(clock.now());
    if (entry.segment == segment) quarantine(*segment);
  }
  drop_host(entry);
  if (entry.segment == segment) drop_disk(entry);
  forget_if_gone(entry);
}

/// Nothing of a file with a bad place is believed any more, and nothing is added to it.
void Store::State::quarantine(Segment& segment) {
  log::warn("a segment of KV blocks cannot be read; its {} blocks are given up", segment.live);
  ++stats.segments_quarantined;
  segment.next = geometry.records;
  drop_entries(segment);
}

}  // namespace penstock::tiers
