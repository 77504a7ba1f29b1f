#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "tiers/block_io.h"
#include "tiers/decision.h"
#include "tiers/key.h"
#include "tiers/stats.h"

namespace penstock::tiers {

struct Options {
  std::string compatibility;      // what the bytes mean; blocks of any other are not seen
  std::uint32_t block_bytes = 0;  // of every block
  std::uint64_t host_bytes = 0;   // taken at once; at least kHostSlotsMin blocks
  std::string disk_folder;        // made if missing, one store at a time; empty: no disk
  std::uint64_t disk_bytes = 0;   // files never exceed it; at least two segments
  std::uint64_t segment_bytes = 64ULL << 20;
  std::uint64_t wear_bytes_per_day = 0;  // 0: no limit
  MakeBlockIo io = make_ring_io;
};

/// Where a block lies now, by the low half of its key: enough to foresee by.
struct BlockPlace {
  std::uint64_t key_low = 0;
  std::optional<Tier> tier;  // absent: in none any more
  friend bool operator==(const BlockPlace&, const BlockPlace&) = default;
};

/// Why a block is handed in.
enum class Keep : std::uint8_t {
  kWritten,  // it was computed, and its maker still has it: only the disk is of interest
  kHeld,     // its maker is about to drop it: host memory, and the disk when that is short
};

/// Makes the folder of Options::disk_folder, unless it is there or empty, which is none. Fails with
/// kUnavailable when this process cannot write there; what a store does first, for those who want
/// to know before they load a model.
Result<void> make_folder(const std::string& folder);

/// KV blocks over host memory and disk, under one index. A block is whole or not there: it becomes
/// readable by one commit, and whoever takes it verifies it once more. Whatever goes wrong is a
/// miss with a counted reason, never an error and never other bytes.
///
/// Blocks come in by reserve and commit, and reach the disk from threads of the store, many by one
/// sync; they are there for good (kill -9, power loss) when `on_disk` says so. A block on disk is
/// read into host memory first, by others of them; readers wait for it no longer than their
/// deadline. Thread: any, for all calls. Lives longer than its pins, reservations and fetches.
class Store final {
 public:
  static constexpr std::uint32_t kHostSlotsMin = 8;

  /// Finds what a store left in `disk_folder`, also one that was killed. Fails with
  /// kInvalidArgument, kUnprocessable when there is too little room for such blocks, and
  /// kUnavailable when the folder cannot be used or is in use.
  static Result<std::unique_ptr<Store>> open(const Options& options, const Clock& clock);
  /// Writes what waits for the disk, for five seconds at most.
  ~Store();

  struct State;
  struct Entry;

  /// A block in host memory that stays there while this lives. Move only.
  class Pin final {
   public:
    Pin() = default;
    Pin(State* state, Entry* entry) noexcept : state_(state), entry_(entry) {}
    Pin(Pin&& other) noexcept
        : state_(other.state_), entry_(std::exchange(other.entry_, nullptr)) {}
    Pin& operator=(Pin&& other) noexcept {
      std::swap(state_, other.state_);
      std::swap(entry_, other.entry_);
      return *this;
    }
    ~Pin();
    /// Copies the block and verifies what was copied. False: `to` holds rubbish, and the store has
    /// forgotten the block.
    [[nodiscard]] bool copy_to(std::span<std::byte> to) const;

   private:
    friend class Store;
    State* state_ = nullptr;
    Entry* entry_ = nullptr;
  };

  /// A place for a block that is not there yet; given back unless committed. Move only.
  class Reservation final {
   public:
    Reservation() = default;
    Reservation(State* state, Entry* entry) noexcept : state_(state), entry_(entry) {}
    Reservation(Reservation&& other) noexcept
        : state_(other.state_), entry_(std::exchange(other.entry_, nullptr)) {}
    Reservation& operator=(Reservation&&) = delete;
    ~Reservation();
    /// False: the block is held already, or is not wanted (counted).
    [[nodiscard]] explicit operator bool() const noexcept { return entry_ != nullptr; }
    /// block_bytes of them, to be filled.
    [[nodiscard]] std::span<std::byte> bytes() const noexcept;
    void commit();

   private:
    State* state_ = nullptr;
    Entry* entry_ = nullptr;
  };

  /// `recompute_ns`: what computing the block costs; its value is that times how often it is asked
  /// for. Does not wait.
  [[nodiscard]] Reservation reserve(const Key& key, double recompute_ns, Keep keep);

  /// How much of chain[have..] is worth loading, if each block costs `recompute_ns` to compute.
  /// Counts the asking for all of `chain`, of which the caller has the first `have` blocks.
  [[nodiscard]] LoadChoice choose(std::span<const Key> chain, std::size_t have,
                                  double recompute_ns);

  /// What choose() would say now. Nothing is counted, and nothing changes.
  [[nodiscard]] LoadChoice foresee(std::span<const Key> chain, std::size_t have,
                                   double recompute_ns) const;

  /// Blocks on their way to the caller. Move only; its end lets go of them at any time.
  class Fetch final {
   public:
    Fetch(Fetch&&) = default;
    Fetch& operator=(Fetch&&) = delete;
    ~Fetch() = default;
    /// Each block is there, or missed, or the deadline has passed.
    [[nodiscard]] bool done() const;
    /// Waits for `done` for `at_most`, of the machine's time.
    bool wait(Nanos at_most) const;  // NOLINT(modernize-use-nodiscard)
    /// The blocks from the first on up to the first miss. Once, when done.
    [[nodiscard]] std::vector<Pin> take();

   private:
    friend class Store;
    explicit Fetch(State& state, Deadline deadline) noexcept
        : state_(&state), deadline_(deadline) {}
    [[nodiscard]] bool is_done() const;
    State* state_;
    Deadline deadline_;
    TimePoint started_;
    double predicted_ns_ = 0;
    std::vector<Pin> pins_;
    std::vector<Tier> from_;
  };
  /// Has the blocks brought into host memory. Does not wait; `keys` may go. `predicted_ns`: what
  /// choose() said.
  [[nodiscard]] Fetch fetch(std::span<const Key> keys, Deadline deadline, double predicted_ns = 0);

  /// What choose() goes by, for blocks that cost so much to compute.
  [[nodiscard]] LoadCosts costs(double recompute_ns) const;

  /// Reads where a store's blocks lie: all of them, then what changes. One that falls so far behind
  /// that the changes are gone is told all of them again. Thread: one at a time. The store lives
  /// longer.
  class Follower final {
   public:
    explicit Follower(const Store& store) noexcept : state_(store.state_.get()) {}
    struct News {
      bool all_anew = false;  // what was read before is void
      std::vector<BlockPlace> places;
    };
    /// Some `count_max` of what is new, in place of what `news` holds. False: nothing is.
    bool read(std::size_t count_max, News& news);

   private:
    void list(std::size_t count_max, News& news);
    State* state_;
    std::optional<std::uint64_t> next_;  // change to be read; absent: nothing was read yet
    // The index is listed bucket by bucket, so that nobody has to wait for long.
    bool lists_ = false;
    std::size_t bucket_ = 0;
    std::size_t buckets_ = 0;
  };

  /// Where a block lies, cheapest first; nothing counted.
  [[nodiscard]] bool in_host(const Key& key) const;
  [[nodiscard]] bool on_disk(const Key& key) const;

  /// Waits until nothing waits for the disk, for `at_most`. False: it still does.
  bool flush(Nanos at_most);

  [[nodiscard]] Stats stats() const;
  [[nodiscard]] std::uint32_t block_bytes() const noexcept;

 private:
  explicit Store(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace penstock::tiers
