#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace penstock::engine {

/// Which of many workers have something new to say: a bit each, so that who reads them all passes
/// over 64 that have not with one load. Thread: any for set(), one at a time for sweep().
class ChangeSet final {
 public:
  explicit ChangeSet(std::size_t size) : words_((size + 63) / 64) {}

  /// What was written before is there for whoever hears of it by sweep(). Never left out for a bit
  /// that seems to be set: it may have been read already.
  void set(std::size_t at) noexcept {
    words_[at / 64].fetch_or(std::uint64_t{1} << at % 64, std::memory_order_release);
  }

  /// Takes back all that is set, and then calls `visit` with each, ascending a word. What is set
  /// meanwhile, by `visit` too, is the next sweep's.
  void sweep(auto&& visit) {
    for (std::size_t w = 0; w < words_.size(); ++w) {
      if (words_[w].load(std::memory_order_relaxed) == 0) continue;
      std::uint64_t bits = words_[w].exchange(0, std::memory_order_acquire);
      for (; bits != 0; bits &= bits - 1) {
        visit(w * 64 + static_cast<std::size_t>(std::countr_zero(bits)));
      }
    }
  }

 private:
  std::vector<std::atomic<std::uint64_t>> words_;
};

/// One's bit of a set, as soon as it is told of one. Thread: any; told once.
class ChangeBit final {
 public:
  /// Who reads what is said only after this misses nothing that was said without a set.
  void announce_to(ChangeSet& changes, std::size_t at) noexcept {
    at_ = at;
    changes_.exchange(&changes, std::memory_order_acq_rel);
  }
  /// To be called after what is new can be read.
  void set() noexcept {
    // Both read and write, so the later one sees what came before the other.
    ChangeSet* const changes = changes_.fetch_add(0, std::memory_order_acq_rel);
    if (changes != nullptr) changes->set(at_);
  }

 private:
  std::atomic<ChangeSet*> changes_ = nullptr;
  std::size_t at_ = 0;  // written before changes_
};

}  // namespace penstock::engine
