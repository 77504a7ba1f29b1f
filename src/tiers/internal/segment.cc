#include "tiers/internal/segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <numeric>

#include "base/log.h"

namespace penstock::tiers {
namespace {

using transfer::BlockStatus;
using transfer::Fd;
using transfer::FileOp;

constexpr std::uint64_t kScanBytes = 16 << 20;  // read at a time

struct Opened {
  Fd fd;
  bool direct = true;
};

/// Past the page cache where the file system can do that: it would only hold each block twice.
Opened open_file(const std::string& path, int flags) {
  Opened opened{Fd(::open(path.c_str(), flags | O_CLOEXEC | O_DIRECT, 0600))};
  if (!opened.fd.valid() && errno == EINVAL) {
    // The file exists by now if it was to be created.
    opened = {Fd(::open(path.c_str(), (flags & ~O_EXCL) | O_CLOEXEC, 0600)), false};
  }
  return opened;
}

int sync_folder(const std::string& folder) {
  const Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd.valid() && fsync(fd.get()) == 0 ? 0 : errno;
}

/// 0 or an errno.
int run_one(BlockIo& io, FileOp op) {
  io.run({&op, 1});
  if (op.status == BlockStatus::kArrived) return 0;
  return op.error_number != 0 ? op.error_number : EIO;
}

}  // namespace

PageBuffer::PageBuffer(std::uint64_t bytes)
    : bytes_(whole_pages(bytes)),
      data_(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes_))) {
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_.get(), 0, bytes_);
}

std::string segment_name(std::uint64_t id) { return fmt::format("{:016x}.segment", id); }

Segment::Segment(std::string path, Fd fd, bool direct, const Geometry& geometry,
                 const SegmentHeader& header)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      direct_(direct),
      geometry_(geometry),
      header_(header) {}

Segment::Created Segment::create(const std::string& folder, std::uint64_t id,
                                 const Geometry& geometry, const Key& compatibility, BlockIo& io) {
  std::string path = folder + "/" + segment_name(id);
  Opened opened = open_file(path, O_RDWR | O_CREAT | O_EXCL);
  if (!opened.fd.valid()) return {nullptr, errno};
  SegmentHeader header;
  header.block_bytes = geometry.block_bytes;
  header.segment = id;
  header.segment_bytes = geometry.segment_bytes;
  header.compatibility = compatibility;
  header.created_unix_s = std::chrono::duration_cast<std::chrono::seconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count();
  seal(header);
  const PageBuffer page(kPageBytes);
  std::memcpy(page.data(), &header, sizeof header);
  int error = io.allocate(opened.fd.get(), geometry.segment_bytes);
  if (error == 0) {
    error = run_one(io, {.kind = FileOp::Kind::kWrite,
                         .fd = opened.fd.get(),
                         .memory = page.data(),
                         .size_bytes = kPageBytes});
  }
  if (error == 0) error = io.sync(opened.fd.get());
  if (error == 0) error = sync_folder(folder);
  if (error != 0) {
    ::unlink(path.c_str());
    return {nullptr, error};
  }
  std::shared_ptr<Segment> made(
      new Segment(std::move(path), std::move(opened.fd), opened.direct, geometry, header));
  made->entries.resize(geometry.records);
  return {std::move(made), 0};
}

Result<std::shared_ptr<Segment>> Segment::open(const std::string& path, const Geometry& geometry,
                                               const Key& compatibility, BlockIo& io) {
  Opened opened = open_file(path, O_RDWR);
  if (!opened.fd.valid()) return fail(Code::kUnavailable, std::strerror(errno));
  const PageBuffer page(kPageBytes);
  if (const int error = run_one(io, {.kind = FileOp::Kind::kReadUnknown,
                                     .fd = opened.fd.get(),
                                     .memory = page.data(),
                                     .size_bytes = kPageBytes});
      error != 0) {
    return fail(Code::kUnprocessable, std::strerror(error));
  }
  SegmentHeader header;
  std::memcpy(&header, page.data(), sizeof header);
  if (!is_whole(header)) return fail(Code::kUnprocessable, "it has no segment's header");
  std::shared_ptr<Segment> segment(
      new Segment(path, std::move(opened.fd), opened.direct, geometry, header));
  segment->fits_ = header.compatibility == compatibility &&
                   header.block_bytes == geometry.block_bytes &&
                   header.segment_bytes == geometry.segment_bytes;
  if (!segment->fits_) return segment;
  segment->entries.resize(geometry.records);
  segment->sealed = segment->read_footer(io);
  if (segment->sealed) {
    segment->next = geometry.records;
  } else {
    segment->scan(io);
  }
  return segment;
}

bool Segment::read_footer(BlockIo& io) {
  const PageBuffer buffer(geometry_.footer_bytes);
  if (run_one(io, {.kind = FileOp::Kind::kReadUnknown,
                   .fd = fd(),
                   .offset_bytes = geometry_.footer_at,
                   .memory = buffer.data(),
                   .size_bytes = static_cast<std::uint32_t>(buffer.size_bytes())}) != 0) {
    return false;
  }
  FooterHeader footer;
  std::memcpy(&footer, buffer.data(), sizeof footer);
  const std::byte* const list = buffer.data() + sizeof footer;
  const std::size_t list_bytes = geometry_.records * sizeof(FooterEntry);
  if (!is_whole(footer) || footer.segment != id() || footer.entries != geometry_.records ||
      footer.entries_sum != transfer::checksum(list, list_bytes)) {
    return false;
  }
  std::memcpy(entries.data(), list, list_bytes);
  return true;
}

bool Segment::write_footer(BlockIo& io) const {
  const PageBuffer buffer(geometry_.footer_bytes);
  FooterHeader footer;
  footer.segment = id();
  footer.entries = entries.size();
  const std::size_t list_bytes = entries.size() * sizeof(FooterEntry);
  std::memcpy(buffer.data() + sizeof footer, entries.data(), list_bytes);
  footer.entries_sum = transfer::checksum(buffer.data() + sizeof footer, list_bytes);
  seal(footer);
  std::memcpy(buffer.data(), &footer, sizeof footer);
  return run_one(io, {.kind = FileOp::Kind::kWrite,
                      .fd = fd(),
                      .offset_bytes = geometry_.footer_at,
                      .memory = buffer.data(),
                      .size_bytes = static_cast<std::uint32_t>(buffer.size_bytes())}) == 0 &&
         io.sync(fd()) == 0;
}

/// Reads `bytes` of each of these records, one behind the other.
std::vector<FileOp> Segment::read_records(std::span<const std::uint32_t> records,
                                          std::uint64_t bytes, const PageBuffer& buffer,
                                          BlockIo& io) const {
  std::vector<FileOp> ops;
  for (const std::uint32_t record : records) {
    ops.push_back({.kind = FileOp::Kind::kReadUnknown,
                   .fd = fd(),
                   .offset_bytes = geometry_.record_at(record),
                   .memory = buffer.data() + ops.size() * bytes,
                   .size_bytes = static_cast<std::uint32_t>(bytes)});
  }
  io.run(ops);
  return ops;
}

/// Reads what there is of records: first whose header is there, then those whole. A write that was
/// cut off leaves one that does not verify; those written with it may be whole, and are behind it.
void Segment::scan(BlockIo& io) {
  std::vector<std::uint32_t> records(geometry_.records);
  std::iota(records.begin(), records.end(), 0);
  std::vector<std::uint32_t> written;
  {
    const PageBuffer pages(records.size() * kPageBytes);
    for (const FileOp& op : read_records(records, kPageBytes, pages, io)) {
      RecordHeader header;
      std::memcpy(&header, op.memory, sizeof header);
      const auto record = static_cast<std::uint32_t>((op.memory - pages.data()) / kPageBytes);
      if (op.status != BlockStatus::kArrived || !is_mine(header, record)) continue;
      written.push_back(record);
      next = record + 1;  // also if it is torn: its place is not written a second time
    }
  }
  const std::size_t at_once = std::max<std::uint64_t>(kScanBytes / geometry_.record_bytes, 1);
  const PageBuffer buffer(std::min(at_once, written.size() + 1) * geometry_.record_bytes);
  for (std::size_t first = 0; first < written.size(); first += at_once) {
    const auto some = std::span(written).subspan(first, std::min(at_once, written.size() - first));
    const std::vector<FileOp> ops = read_records(some, geometry_.record_bytes, buffer, io);
    for (std::size_t i = 0; i < ops.size(); ++i) {
      if (ops[i].status == BlockStatus::kArrived) take_record(ops[i], some[i]);
    }
  }
}

void Segment::take_record(const FileOp& op, std::uint32_t record) {
  RecordHeader header;
  std::memcpy(&header, op.memory, sizeof header);
  if (!is_mine(header, record) || transfer::checksum(op.memory + kRecordHeaderBytes,
                                                     geometry_.block_bytes) != header.block_sum) {
    return;
  }
  entries[record] = {.key = header.key,
                     .generation = header.generation,
                     .record_sum = op.checksum,
                     .recompute_us = header.recompute_us};
}

void Segment::unlink() const noexcept {
  if (::unlink(path_.c_str()) != 0) log::warn("{} cannot be removed", path_);
}

RecordHeader Segment::header_of(std::uint32_t record, const Key& key, std::uint64_t generation,
                                std::uint32_t recompute_us,
                                transfer::Checksum block_sum) const noexcept {
  RecordHeader header;
  header.segment = id();
  header.record = record;
  header.block_bytes = geometry_.block_bytes;
  header.key = key;
  header.compatibility = header_.compatibility;
  header.generation = generation;
  header.recompute_us = recompute_us;
  header.block_sum = block_sum;
  seal(header);
  return header;
}

bool Segment::is_mine(const RecordHeader& header, std::uint32_t record) const noexcept {
  return is_whole(header) && header.segment == id() && header.record == record &&
         header.block_bytes == geometry_.block_bytes &&
         header.compatibility == header_.compatibility && header.generation > 0;
}

}  // namespace penstock::tiers
