#pragma once

#include <atomic>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tiers/block_io.h"
#include "tiers/record.h"
#include "transfer/memory.h"

namespace penstock::tiers {

/// Memory that O_DIRECT takes, zeroed.
class PageBuffer final {
 public:
  explicit PageBuffer(std::uint64_t bytes);
  [[nodiscard]] std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept { std::free(data); }
  };
  std::uint64_t bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

/// One file of records. What it is and where it lies never changes; the fields that
/// are not private are the store's, under its lock; who fills it alone changes `entries`.
/// Whoever reads or writes it holds it, so that the descriptor stays open when the file is dropped
/// meanwhile.
class Segment final {
 public:
  /// A new file, space set aside. The error number is 0 or why there is none.
  struct Created {
    std::shared_ptr<Segment> segment;
    int error_number = 0;
  };
  /// `spent_bytes`: of the day's writes, for whoever finds the file.
  static Created create(const std::string& folder, std::uint64_t id, const Geometry& geometry,
                        const Key& compatibility, std::uint64_t spent_bytes, BlockIo& io);

  /// Files found, in this order: entries from their footers, or where one is missing or damaged
  /// from its records, each of them verified. Many are read at a time. A file of other blocks, of
  /// another version, or that cannot be read stays as it is and has no entries; what a creation
  /// that was cut off has left is removed.
  static std::vector<std::shared_ptr<Segment>> open_all(std::span<const std::string> paths,
                                                        const Geometry& geometry,
                                                        const Key& compatibility, BlockIo& io);

  /// Writes the footer. False: that failed, recovery will have to scan.
  [[nodiscard]] bool write_footer(BlockIo& io) const;
  void unlink() const noexcept;

  /// The header of a record of this segment, ready to be written.
  [[nodiscard]] RecordHeader header_of(std::uint32_t record, const Key& key,
                                       std::uint64_t generation, std::uint32_t recompute_us,
                                       transfer::Checksum block_sum) const noexcept;
  /// Whether that is what was read at `record`.
  [[nodiscard]] bool is_mine(const RecordHeader& header, std::uint32_t record) const noexcept;

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::uint64_t id() const noexcept { return header_.segment; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }  // of the file
  /// Null: it is no segment of this version.
  [[nodiscard]] const SegmentHeader* header() const noexcept {
    return header_.magic != 0 ? &header_ : nullptr;
  }
  /// What was written to it; of a file of others all of it.
  [[nodiscard]] std::uint64_t written_bytes() const noexcept {
    return fits_ ? next * geometry_.record_bytes : bytes_;
  }
  [[nodiscard]] std::uint32_t records() const noexcept { return geometry_.records; }
  [[nodiscard]] std::uint32_t records_left() const noexcept { return records() - next; }
  [[nodiscard]] bool fits() const noexcept { return fits_; }  // of our blocks
  /// Why it could not be opened or read; empty: it could.
  [[nodiscard]] const std::string& trouble() const noexcept { return trouble_; }
  [[nodiscard]] bool direct() const noexcept { return direct_; }

  std::vector<FooterEntry> entries;  // one a record
  bool sealed = false;               // it has a footer: nothing is added
  std::uint32_t next = 0;            // record to be written next
  std::uint32_t live = 0;            // entries that the index refers to

 private:
  struct Opening;
  explicit Segment(std::string path) : path_(std::move(path)) {}
  static std::vector<std::shared_ptr<Segment>> open_some(std::span<const std::string> paths,
                                                         std::uint32_t block_bytes,
                                                         const Key& compatibility, BlockIo& io);
  static std::shared_ptr<Segment> settle(Opening& opening, const Key& compatibility, BlockIo& io);
  bool take_footer(const PageBuffer& buffer);
  void scan(BlockIo& io);
  [[nodiscard]] std::vector<transfer::FileOp> read_records(std::span<const std::uint32_t> records,
                                                           std::uint64_t bytes,
                                                           const PageBuffer& buffer,
                                                           BlockIo& io) const;
  void take_record(const transfer::FileOp& op, std::uint32_t record);

  const std::string path_;
  transfer::Fd fd_;  // none where `fits_` is false
  bool direct_ = true;
  Geometry geometry_;
  SegmentHeader header_;
  std::uint64_t bytes_ = 0;
  bool fits_ = true;
  std::string trouble_;
};

/// Why it did not arrive, as an errno; 0: it did.
[[nodiscard]] int error_of(const transfer::FileOp& op) noexcept;

/// "0000000000000007.segment"
[[nodiscard]] std::string segment_name(std::uint64_t id);

}  // namespace penstock::tiers
