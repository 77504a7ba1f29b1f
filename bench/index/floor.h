#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "workload.h"

namespace penstock::bench {

/// What an index that fills a dense array does to answer, without looking for anything: compares
/// the prompt's hashes with those that are held and writes every worker's depth. Where they lie and
/// who holds them it is told.
class LookupFloor {
 public:
  /// Of the cell's number of conversations from `base` on.
  LookupFloor(const Workload& work, std::uint64_t base)
      : cell_(work.cell()),
        base_(base),
        stride_((kHeadWords + cell_.suffix_min + cell_.suffix_mod + 7) / 8 * 8),
        bytes_(cell_.conversations * stride_ * sizeof(std::uint64_t)),
        records_(static_cast<std::uint64_t*>(
            ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))),
        prefixes_(cell_.groups * cell_.prefix),
        prefix_depths_(cell_.groups * cell_.workers, 0) {
    CHECK(records_ != MAP_FAILED);
    ::madvise(records_, bytes_, MADV_HUGEPAGE);
    for (std::uint64_t q = base; q < base + cell_.conversations; ++q) {
      const std::vector<std::uint64_t> locals = work.locals(q);
      const std::vector<std::uint64_t> holders = work.holders(q);
      std::uint64_t* record = records_ + (q - base) * stride_;
      Head head{static_cast<std::uint16_t>(work.group(q)),
                static_cast<std::uint16_t>(locals.size() - cell_.prefix),
                static_cast<std::uint16_t>(holders.size())};
      for (std::size_t i = 0; i < holders.size(); ++i) {
        head.holders[i] = static_cast<std::uint16_t>(holders[i]);
        prefix_depths_[work.group(q) * cell_.workers + holders[i]] =
            static_cast<std::uint32_t>(cell_.prefix);
      }
      std::memcpy(record, &head, sizeof head);
      std::memcpy(record + kHeadWords, locals.data() + cell_.prefix, head.suffix * sizeof *record);
      std::memcpy(prefixes_.data() + work.group(q) * cell_.prefix, locals.data(),
                  cell_.prefix * sizeof *record);
    }
  }
  ~LookupFloor() { ::munmap(records_, bytes_); }
  LookupFloor(const LookupFloor&) = delete;
  LookupFloor& operator=(const LookupFloor&) = delete;

  void match(std::uint64_t q, std::span<const std::uint64_t> locals,
             std::span<std::uint32_t> depths) const {
    const std::uint64_t* record = records_ + (q - base_) * stride_;
    const auto& head = *reinterpret_cast<const Head*>(record);
    std::memcpy(depths.data(), prefix_depths_.data() + head.group * cell_.workers,
                cell_.workers * sizeof depths[0]);
    const std::size_t prefix = cell_.prefix;
    CHECK(std::memcmp(prefixes_.data() + head.group * prefix, locals.data(),
                      prefix * sizeof *record) == 0);
    CHECK(std::memcmp(record + kHeadWords, locals.data() + prefix, head.suffix * sizeof *record) ==
          0);
    for (std::size_t i = 0; i < head.count; ++i) {
      depths[head.holders[i]] = static_cast<std::uint32_t>(prefix + head.suffix);
    }
  }

 private:
  struct Head {
    std::uint16_t group;
    std::uint16_t suffix;  // blocks, which follow
    std::uint16_t count;
    std::uint16_t holders[29];
  };
  static constexpr std::size_t kHeadWords = sizeof(Head) / sizeof(std::uint64_t);
  static_assert(sizeof(Head) == 64);

  const Cell& cell_;
  const std::uint64_t base_;
  const std::size_t stride_;  // words
  const std::size_t bytes_;
  std::uint64_t* const records_;              // of each conversation, one after the other
  std::vector<std::uint64_t> prefixes_;       // by group
  std::vector<std::uint32_t> prefix_depths_;  // by group and worker
};

}  // namespace penstock::bench
