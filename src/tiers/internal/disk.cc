// The disk tier of a store: recovery, and the threads that write and read.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <ranges>

#include "base/log.h"
#include "tiers/internal/state.h"

namespace penstock::tiers {
namespace {

using Host = Store::Entry::Host;
using transfer::BlockStatus;
using transfer::FileOp;

// Two a direction: one keeps the disk busy while the other ends a batch, waits for its sync or
// makes a segment. Where few segments fit, one writer: what it fills cannot go.
constexpr std::size_t kReaders = 2;
constexpr std::size_t kWriters = 2;
constexpr std::uint64_t kSegmentsForAll = 16;
// What shares a sync: so much keeps a disk busy meanwhile, and so many blocks, if they are large.
constexpr std::uint64_t kWriteBatchBytes = 32 << 20;
constexpr std::size_t kWriteBatchMin = 32;
constexpr std::size_t kReadBatchMax = 128;
constexpr auto kFlushMax = std::chrono::seconds(5);
constexpr Nanos kFullPause = std::chrono::minutes(1);  // before a full disk is tried again
constexpr Nanos kLate = std::chrono::seconds(2);       // a disk that hangs, not one that is busy
constexpr std::int64_t kDayS = 86400;
constexpr std::string_view kSuffix = ".segment";

/// Ids of the segments in a folder, rising. Only files: opening a pipe of that name would wait.
std::vector<std::uint64_t> segments_in(const std::string& folder, std::error_code& error) {
  std::vector<std::uint64_t> ids;
  // Not a range's for, which throws when reading the folder fails on the way.
  for (std::filesystem::directory_iterator file(folder, error), end; !error && file != end;
       file.increment(error)) {
    const std::string name = file->path().filename();
    if (!name.ends_with(kSuffix)) continue;
    const std::uint64_t id = std::strtoull(name.c_str(), nullptr, 16);
    std::error_code ignored;
    if (name == segment_name(id) && file->is_regular_file(ignored)) ids.push_back(id);
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

std::string often(std::uint64_t times) { return times == 1 ? "" : fmt::format(" {} times", times); }

}  // namespace

Result<void> make_folder(const std::string& folder) {
  if (folder.empty()) return {};
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const bool made = !error;
  if (made && access(folder.c_str(), W_OK | X_OK) == 0) return {};
  if (made) error.assign(errno, std::system_category());
  return fail(Code::kUnavailable,
              fmt::format("--kv-disk {}: cannot be used: {}", folder, error.message()));
}

Result<void> Store::State::open_disk() {
  const TimePoint start = std::chrono::steady_clock::now();
  const std::string& folder = options.disk_folder;
  if (auto made = make_folder(folder); !made) return made;
  std::error_code error;
  lock_fd = ::open((folder + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd < 0) {
    return fail(Code::kUnavailable,
                fmt::format("--kv-disk {}: cannot be used: {}", folder, errno_text(errno)));
  }
  if (flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
    return fail(Code::kUnavailable, fmt::format("--kv-disk {}: in use by another server", folder));
  }
  if (options.disk_bytes < 2 * geometry.segment_bytes) {
    return fail(Code::kUnprocessable,
                fmt::format("--kv-disk-mib: {} bytes are too few for blocks of {}: at least {} MiB",
                            options.disk_bytes, options.block_bytes,
                            ((2 * geometry.segment_bytes) >> 20) + 1));
  }
  const bool many = options.disk_bytes / geometry.segment_bytes >= kSegmentsForAll;
  writers = std::vector<Writer>(many ? kWriters : 1);
  readers = std::vector<IoThread>(kReaders);
  std::vector<IoThread*> threads;
  for (Writer& writer : writers) threads.push_back(&writer);
  for (IoThread& reader : readers) threads.push_back(&reader);
  for (IoThread* thread : threads) {
    auto made = options.io();
    if (!made) return std::unexpected(made.error());
    thread->io = std::move(*made);
  }
  const std::vector<std::uint64_t> ids = segments_in(folder, error);
  if (error) {
    return fail(Code::kUnavailable,
                fmt::format("--kv-disk {}: cannot be read: {}", folder, error.message()));
  }
  if (!ids.empty()) next_segment = ids.back() + 1;
  std::vector<std::string> paths;
  for (const std::uint64_t id : ids) paths.push_back(folder + "/" + segment_name(id));
  const auto found = Segment::open_all(paths, geometry, compatibility, *readers.front().io);
  std::size_t blocks_max = 0;
  for (const auto& segment : found) blocks_max += segment->entries.size();
  index.reserve(blocks_max);
  for (const auto& segment : found) {
    note_wear(*segment);
    index_segment(segment);
  }
  if (stats.unreadable_segments > 0) {
    log::warn("--kv-disk {}: {} files cannot be read and stay unused", folder,
              stats.unreadable_segments);
  }
  fill_or_seal_found();
  {
    std::unique_lock lock(mutex);
    make_room(lock, 0);
    update_oldest_value();
  }
  stats.recovered_blocks = stats.disk_blocks;
  stats.recovery_ms = to_ms(std::chrono::steady_clock::now() - start);
  for (Writer& writer : writers) {
    writer.thread = std::thread([this, &writer] { write_forever(writer); });
  }
  for (IoThread& reader : readers) {
    reader.thread = std::thread([this, &reader] { read_forever(reader); });
  }
  return {};
}

/// Segments that nobody has sealed: the newest go on being filled, a writer each, if they are of
/// the size that the budget reckons with.
void Store::State::fill_or_seal_found() {
  auto writer = writers.begin();
  for (const auto& segment : std::views::reverse(segments)) {
    if (!segment->fits() || segment->sealed) continue;
    const bool usable = segment->records_left() > 0 && segment->bytes() == geometry.segment_bytes;
    if (usable && writer != writers.end()) {
      // Found whole, but whoever wrote it may not have come so far.
      writer->io->sync(segment->fd());
      writer++->segment = segment;
      // What was written to it since the newest one was made is in no header.
      if (segment != segments.back()) wear.spend(segment->written_bytes(), clock.now());
    } else {
      segment->sealed = segment->write_footer(*writers.front().io);
    }
  }
}

/// What was spent when it was made, less what the day has given back since, and all of it on top as
/// if it were written now: after the newest one that is too much by a segment at most.
void Store::State::note_wear(const Segment& segment) {
  const SegmentHeader* const header = segment.header();
  if (header == nullptr) return;
  const std::int64_t now_s = std::chrono::duration_cast<std::chrono::seconds>(
                                 std::chrono::system_clock::now().time_since_epoch())
                                 .count();
  const std::chrono::seconds age(now_s - std::clamp(header->created_unix_s, now_s - kDayS, now_s));
  wear = WearBudget(options.wear_bytes_per_day, header->spent_bytes, clock.now() - age);
  wear.spend(segment.written_bytes(), clock.now());
}

void Store::State::index_segment(const std::shared_ptr<Segment>& segment) {
  segments.push_back(segment);
  disk_bytes += segment->bytes();
  stats.direct = stats.direct && segment->direct();
  if (!segment->trouble().empty()) {
    if (stats.unreadable_segments++ == 0) {
      log::warn("a file of --kv-disk cannot be read: {}", segment->trouble());
    }
  } else if (!segment->fits()) {
    ++stats.incompatible_segments;
  }
  for (std::uint32_t record = 0; record < segment->entries.size(); ++record) {
    const FooterEntry& found = segment->entries[record];
    if (found.generation == 0 || found.generation >> 62 != 0) continue;  // no store counts so far
    generation = std::max(generation, found.generation);
    Entry& entry = index[found.key];
    if (entry.generation > found.generation) continue;
    drop_disk(entry);
    entry.key = found.key;
    entry.recompute_ns = found.recompute_us * 1e3;
    entry.segment = segment;
    entry.record = record;
    entry.generation = found.generation;
    entry.block_sum = found.block_sum;
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
  for (Writer& writer : writers) {
    if (writer.thread.joinable()) writer.thread.join();
  }
  for (IoThread& reader : readers) {
    if (reader.thread.joinable()) reader.thread.join();
  }
  if (lock_fd >= 0) ::close(lock_fd);
}

// Writing.

void Store::State::write_forever(Writer& writer) {
  std::unique_lock lock(mutex);
  for (;;) {
    work_changed.wait(lock, [&] { return stopping || !to_write.empty(); });
    if (to_write.empty() || (stopping && clock.now() >= stop_by)) return;
    write_some(lock, writer);
    writer.late_from = TimePoint::max();
    done_changed.notify_all();
    say(lock);
  }
}

/// Drops whole segments from the oldest on until `bytes` more fit.
void Store::State::make_room(std::unique_lock<std::mutex>& lock, std::uint64_t bytes) {
  while (disk_bytes + bytes > options.disk_bytes && drop_oldest(lock)) {
  }
}

/// Of those that nobody fills. Null: there is none.
std::shared_ptr<Segment> Store::State::oldest() const {
  const auto is_filled = [this](const auto& segment) {
    return std::ranges::find(writers, segment, &Writer::segment) != writers.end();
  };
  const auto found = std::ranges::find_if_not(segments, is_filled);
  return found != segments.end() ? *found : nullptr;
}

/// False: there is none that can go.
bool Store::State::drop_oldest(std::unique_lock<std::mutex>& lock) {
  const std::shared_ptr<Segment> gone = oldest();
  if (gone == nullptr) return false;
  std::erase(segments, gone);
  ++stats.segments_dropped;
  drop_entries(*gone);
  update_oldest_value();
  lock.unlock();
  gone->unlink();
  lock.lock();
  disk_bytes -= gone->bytes();  // not before: another writer would fill the room
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
  const std::shared_ptr<Segment> next = oldest();
  if (next == nullptr || next->live == 0) return;
  for (const FooterEntry& in : next->entries) {
    const Entry* entry = in.generation == 0 ? nullptr : find(in.key);
    if (entry != nullptr && entry->segment == next) oldest_value += value(*entry);
  }
  oldest_value /= next->live;
}

/// Sees to it that the writer's segment has room. 0, or an errno: it has none.
int Store::State::find_room(std::unique_lock<std::mutex>& lock, Writer& writer) {
  if (writer.segment != nullptr && writer.segment->records_left() == 0) {
    lock.unlock();
    const bool written = writer.segment->write_footer(*writer.io);
    lock.lock();
    const std::shared_ptr<Segment> full = std::exchange(writer.segment, nullptr);
    full->sealed = written;
    std::erase(segments, full);
    segments.push_back(full);
  }
  if (writer.segment != nullptr) return 0;
  make_room(lock, geometry.segment_bytes);
  disk_bytes += geometry.segment_bytes;  // another may be made meanwhile
  Segment::Created created;
  do {  // whoever made a file of that name: it is not ours
    const std::uint64_t id = next_segment++;
    const std::uint64_t spent_bytes = wear.spent_bytes(clock.now());
    lock.unlock();
    created =
        Segment::create(options.disk_folder, id, geometry, compatibility, spent_bytes, *writer.io);
    lock.lock();
  } while (created.error_number == EEXIST);
  if (created.segment == nullptr) {
    disk_bytes -= geometry.segment_bytes;
    return created.error_number;
  }
  writer.segment = created.segment;
  segments.push_back(created.segment);
  stats.direct = stats.direct && created.segment->direct();
  update_oldest_value();
  return 0;
}

/// When `blocks` that are asked for now are so late that the disk must hang.
TimePoint Store::State::late_from(std::size_t blocks, double block_ns) const {
  const double expected_ns = 4 * static_cast<double>(blocks) * block_ns;
  return clock.now() + kLate + Nanos(static_cast<std::int64_t>(expected_ns));
}

/// Others may fill this disk as well: what is there stays, and it is tried again when there may be
/// room.
void Store::State::writing_failed(int error) {
  const TimePoint now = clock.now();
  if (error == ENOSPC) {
    full_until = now + kFullPause;
  } else {
    write_breaker.failed(now);
  }
  const auto times = write_complaint.raise(now);
  if (!times) return;
  to_say.push_back(fmt::format(
      "--kv-disk {}: writing failed{}: {}{}", options.disk_folder, often(*times), errno_text(error),
      error == ENOSPC ? "; what is there stays in use (--kv-disk-mib may be more than there is)"
                      : ""));
}

void Store::State::say(std::unique_lock<std::mutex>& lock) {
  if (to_say.empty()) return;
  const std::vector<std::string> lines = std::exchange(to_say, {});
  lock.unlock();
  for (const std::string& line : lines) log::warn("{}", line);
  lock.lock();
}

/// The first of those that wait, at most `blocks`.
std::vector<Store::Entry*> Store::State::take_to_write(std::size_t blocks) {
  const auto end = to_write.begin() + std::ptrdiff_t(std::min(blocks, to_write.size()));
  std::vector<Entry*> batch(to_write.begin(), end);
  to_write.erase(to_write.begin(), end);
  return batch;
}

void Store::State::write_some(std::unique_lock<std::mutex>& lock, Writer& writer) {
  const std::size_t batch_max =
      std::max<std::size_t>(kWriteBatchMin, kWriteBatchBytes / geometry.record_bytes);
  writer.late_from =
      late_from(std::min(batch_max, to_write.size()), writes.predict_ns(geometry.record_bytes));
  const bool full = clock.now() < full_until;
  const bool tries = !full && write_breaker.allows(clock.now());
  int error = tries ? find_room(lock, writer) : 0;
  if (!tries || error != 0) {
    if (tries) writing_failed(error);
    for (Entry* entry : take_to_write(batch_max)) {
      refuse(full || error == ENOSPC ? Reason::kDiskFull
             : tries                 ? Reason::kIoError
                                     : Reason::kBreakerOpen);
      end_write(*entry);
    }
    return;
  }
  const std::shared_ptr<Segment>& segment = writer.segment;
  const std::vector<Entry*> batch =
      take_to_write(std::min<std::size_t>(batch_max, segment->records_left()));
  if (batch.empty()) return;  // another took it meanwhile
  writing += batch.size();
  std::vector<FileOp> ops(batch.size());
  std::vector<RecordHeader> headers(batch.size());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const Entry& entry = *batch[i];
    headers[i] = segment->header_of(
        segment->next++, entry.key, ++generation,
        static_cast<std::uint32_t>(std::min(entry.recompute_ns / 1e3, double{UINT32_MAX})),
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
  const TimePoint start = clock.now();
  writer.io->run(ops);
  error = writer.io->sync(segment->fd());
  const Nanos each = (clock.now() - start) / ops.size();
  lock.lock();
  writing -= batch.size();
  writes.record({}, geometry.record_bytes, Nanos(0), each);
  wear.spend(ops.size() * geometry.record_bytes, clock.now());
  stats.bytes_written += ops.size() * geometry.record_bytes;
  int told_error = error;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    // Want of room is told only if nothing worse is wrong.
    const int failed = error_of(ops[i]);
    if (told_error == 0 || (told_error == ENOSPC && failed != 0)) told_error = failed;
    settle_write(*batch[i], segment, ops[i], headers[i], error);
  }
  if (told_error == 0) return write_breaker.succeeded();
  writing_failed(told_error);
  // What is committed in it stays. Where there was no room, there may be later; else nothing is
  // added. Full by now: its last place was tried, or reading has given it up.
  if (told_error != ENOSPC || segment->next == segment->records()) {
    segment->next = segment->records();
    return;
  }
  while (segment->next > headers.front().record &&
         segment->entries[segment->next - 1].generation == 0) {
    --segment->next;
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
    entry.block_sum = header.block_sum;
    segment->entries[header.record] = {.key = entry.key,
                                       .generation = header.generation,
                                       .block_sum = header.block_sum,
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

void Store::State::read_forever(IoThread& reader) {
  std::unique_lock lock(mutex);
  for (;;) {
    work_changed.wait(lock, [&] { return stopping || !to_read.empty(); });
    if (stopping) return;
    std::vector<Entry*> batch;
    const TimePoint now = clock.now();
    while (!to_read.empty() && batch.size() < kReadBatchMax) {
      Entry& entry = *to_read.front();
      to_read.pop_front();
      const bool late = entry.wanted_until.passed(now);
      if (late || entry.segment == nullptr) {
        entry.left_out = late ? Reason::kDeadline : Reason::kGone;
        drop_host(entry);
        forget_if_gone(entry);
      } else {
        batch.push_back(&entry);
      }
    }
    reading += batch.size();
    reader.late_from = late_from(reading, disk_block_ns());
    if (!batch.empty()) read_batch(lock, *reader.io, batch);
    reader.late_from = TimePoint::max();
    reading -= batch.size();
    done_changed.notify_all();
    say(lock);
  }
}

void Store::State::read_batch(std::unique_lock<std::mutex>& lock, BlockIo& io,
                              const std::vector<Entry*>& batch) {
  std::vector<FileOp> ops;
  std::vector<std::shared_ptr<Segment>> from;  // so that files stay open
  for (const Entry* entry : batch) {
    from.push_back(entry->segment);
    ops.push_back({.fd = entry->segment->fd(),
                   .offset_bytes = geometry.record_at(entry->record),
                   .memory = record(entry->slot),
                   .size_bytes = static_cast<std::uint32_t>(geometry.record_bytes),
                   .checked = {arena->part(entry->slot, 0), geometry.block_bytes},
                   .checksum = entry->block_sum});
  }
  lock.unlock();
  const TimePoint start = clock.now();
  io.run(ops);
  lock.lock();
  stats.bytes_read += ops.size() * geometry.record_bytes;
  measure_reads(ops.size(), start);
  for (std::size_t i = 0; i < ops.size(); ++i) settle_read(*batch[i], from[i], ops[i]);
}

/// What a block cost where several threads read: the time from where the last measurement ended,
/// by all that came since. Little that had to wait beside much is counted with that.
void Store::State::measure_reads(std::size_t blocks, TimePoint start) {
  unmeasured_reads += blocks;
  if (2 * blocks < reading) return;
  const TimePoint now = clock.now();
  const Nanos took = now - std::max(start, reads_measured_until);
  reads_measured_until = now;
  read_cost.measured(
      static_cast<double>(took.count()) / static_cast<double>(std::exchange(unmeasured_reads, 0)),
      now);
}

void Store::State::settle_read(Entry& entry, const std::shared_ptr<Segment>& segment,
                               const FileOp& op) {
  RecordHeader header;
  std::memcpy(&header, op.memory, sizeof header);
  const bool arrived = op.status == BlockStatus::kArrived;
  if (arrived && segment->is_mine(header, entry.record) && header.key == entry.key &&
      header.generation == entry.generation) {
    read_breaker.succeeded();
    arena->table().set_checksum(entry.slot, 0, op.checksum);
    arena->commit(entry.slot, {entry.key.high, entry.key.low});
    became_ready(entry);
    return;
  }
  const Reason reason = !arrived           ? reason_of(op.status)
                        : is_whole(header) ? Reason::kWrongRecord
                                           : Reason::kCorrupt;
  miss(reason);
  const bool broken = op.status == BlockStatus::kPathFailed;
  reading_failed(broken ? errno_text(error_of(op)) : std::string(to_string(reason)));
  if (broken) {
    read_breaker.failed(clock.now());
    if (entry.segment == segment) quarantine(*segment);
  }
  drop_host(entry);
  if (entry.segment == segment) drop_disk(entry);
  forget_if_gone(entry);
}

void Store::State::reading_failed(std::string_view what) {
  const auto times = read_complaint.raise(clock.now());
  if (!times) return;
  to_say.push_back(fmt::format("--kv-disk {}: a block could not be read{}: {}", options.disk_folder,
                               often(*times), what));
}

/// Nothing of a file with a bad place is believed any more, and nothing is added to it.
void Store::State::quarantine(Segment& segment) {
  to_say.push_back(fmt::format("--kv-disk {}: {} has a bad place; its {} blocks are given up",
                               options.disk_folder, segment_name(segment.id()), segment.live));
  ++stats.segments_quarantined;
  segment.next = segment.records();
  drop_entries(segment);
}

}  // namespace penstock::tiers
