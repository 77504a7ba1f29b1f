#include "tiers/internal/segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <numeric>
#include <optional>

#include "base/log.h"

namespace penstock::tiers {
namespace {

using transfer::BlockStatus;
using transfer::Fd;
using transfer::FileOp;

constexpr std::uint64_t kScanBytes = 16 << 20;  // read at a time
constexpr std::size_t kOpenedAtOnce = 32;       // files, in recovery

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
  return error_of(op);
}

}  // namespace

int error_of(const FileOp& op) noexcept {
  if (op.status == BlockStatus::kArrived) return 0;
  return op.error_number != 0 ? op.error_number : EIO;
}

PageBuffer::PageBuffer(std::uint64_t bytes)
    : bytes_(whole_pages(bytes)),
      data_(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes_))) {
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_.get(), 0, bytes_);
}

std::string segment_name(std::uint64_t id) { return fmt::format("{:016x}.segment", id); }

Segment::Created Segment::create(const std::string& folder, std::uint64_t id,
                                 const Geometry& geometry, const Key& compatibility,
                                 std::uint64_t spent_bytes, BlockIo& io) {
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
  header.spent_bytes = spent_bytes;
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
  std::shared_ptr<Segment> made(new Segment(std::move(path)));
  made->fd_ = std::move(opened.fd);
  made->direct_ = opened.direct;
  made->geometry_ = geometry;
  made->header_ = header;
  made->bytes_ = geometry.segment_bytes;
  made->entries.resize(geometry.records);
  return {std::move(made), 0};
}

/// A file on its way from a name to a segment.
struct Segment::Opening {
  explicit Opening(const std::string& path) : segment(new Segment(path)), header(kPageBytes) {}

  std::shared_ptr<Segment> segment;
  PageBuffer header;
  std::optional<PageBuffer> footer;  // none: the file's size is no segment's
  FileOp header_read;
  FileOp footer_read;
};

std::vector<std::shared_ptr<Segment>> Segment::open_all(std::span<const std::string> paths,
                                                        const Geometry& geometry,
                                                        const Key& compatibility, BlockIo& io) {
  std::vector<std::shared_ptr<Segment>> all;
  for (std::size_t at = 0; at < paths.size(); at += kOpenedAtOnce) {
    const auto some = paths.subspan(at, std::min(kOpenedAtOnce, paths.size() - at));
    for (auto& segment : open_some(some, geometry.block_bytes, compatibility, io)) {
      all.push_back(std::move(segment));
    }
  }
  return all;
}

std::vector<std::shared_ptr<Segment>> Segment::open_some(std::span<const std::string> paths,
                                                         std::uint32_t block_bytes,
                                                         const Key& compatibility, BlockIo& io) {
  std::vector<Opening> files;
  std::vector<FileOp> ops;
  for (const std::string& path : paths) {
    Opening& file = files.emplace_back(path);
    Segment& segment = *file.segment;
    Opened opened = open_file(path, O_RDWR);
    struct stat status{};
    if (!opened.fd.valid()) {
      segment.trouble_ = errno_text(errno);
      if (::stat(path.c_str(), &status) != 0) status.st_size = 0;
    } else if (::fstat(opened.fd.get(), &status) != 0) {
      segment.trouble_ = errno_text(errno);
    }
    segment.fd_ = std::move(opened.fd);
    segment.direct_ = opened.direct;
    segment.bytes_ = static_cast<std::uint64_t>(status.st_size);
    segment.geometry_ = Geometry::of(block_bytes, segment.bytes_);
    if (!segment.trouble_.empty()) continue;
    const auto read = [&](std::uint64_t offset, const PageBuffer& buffer) {
      ops.push_back({.fd = segment.fd(),
                     .offset_bytes = offset,
                     .memory = buffer.data(),
                     .size_bytes = static_cast<std::uint32_t>(buffer.size_bytes())});
    };
    read(0, file.header);
    if (segment.geometry_.segment_bytes != segment.bytes_) continue;
    file.footer.emplace(segment.geometry_.footer_bytes);
    read(segment.geometry_.footer_at, *file.footer);
  }
  io.run(ops);
  auto op = ops.begin();
  std::vector<std::shared_ptr<Segment>> segments;
  for (Opening& file : files) {
    if (file.segment->trouble_.empty()) {
      file.header_read = *op++;
      if (file.footer) file.footer_read = *op++;
    }
    if (auto segment = settle(file, compatibility, io)) segments.push_back(std::move(segment));
  }
  return segments;
}

/// Null: it is removed.
std::shared_ptr<Segment> Segment::settle(Opening& opening, const Key& compatibility, BlockIo& io) {
  Segment& segment = *opening.segment;
  segment.fits_ = false;
  if (segment.trouble_.empty() && segment.bytes_ >= kPageBytes &&
      opening.header_read.status != BlockStatus::kArrived) {
    segment.trouble_ = errno_text(error_of(opening.header_read));
  }
  if (segment.trouble_.empty()) {
    const std::span page(opening.header.data(), kPageBytes);
    const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
    if (segment.bytes_ < kPageBytes || std::ranges::all_of(page, is_zero)) {
      log::info("{} was never begun, and is removed", segment.path_);
      segment.unlink();
      return nullptr;
    }
    SegmentHeader header;
    std::memcpy(&header, page.data(), sizeof header);
    if (is_whole(header)) {
      segment.header_ = header;
      segment.fits_ = header.compatibility == compatibility && opening.footer.has_value() &&
                      header.block_bytes == segment.geometry_.block_bytes &&
                      header.segment_bytes == segment.geometry_.segment_bytes;
    }
  }
  if (!segment.fits_) {
    segment.fd_ = Fd();
    return std::move(opening.segment);
  }
  segment.entries.resize(segment.geometry_.records);
  segment.sealed =
      opening.footer_read.status == BlockStatus::kArrived && segment.take_footer(*opening.footer);
  if (segment.sealed) {
    segment.next = segment.geometry_.records;
  } else {
    segment.scan(io);
  }
  return std::move(opening.segment);
}

bool Segment::take_footer(const PageBuffer& buffer) {
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
    ops.push_back({.fd = fd(),
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
  constexpr std::size_t kPagesAtOnce = kScanBytes / kPageBytes;
  const PageBuffer pages(std::min(kPagesAtOnce, records.size()) * kPageBytes);
  for (std::size_t first = 0; first < records.size(); first += kPagesAtOnce) {
    const auto some =
        std::span(records).subspan(first, std::min(kPagesAtOnce, records.size() - first));
    const std::vector<FileOp> ops = read_records(some, kPageBytes, pages, io);
    for (std::size_t i = 0; i < ops.size(); ++i) {
      RecordHeader header;
      std::memcpy(&header, ops[i].memory, sizeof header);
      if (ops[i].status != BlockStatus::kArrived || !is_mine(header, some[i])) continue;
      written.push_back(some[i]);
      next = some[i] + 1;  // also if it is torn: its place is not written again
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
                     .block_sum = header.block_sum,
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
