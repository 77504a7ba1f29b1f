#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>

#include "base/clock.h"
#include "fleet/kv_batch.h"
#include "fleet/worker_state.h"
#include "kv/prefix_index.h"

namespace penstock::fleet {

/// Why a worker's cache is not believed to be what the index says.
enum class Doubt : std::uint8_t {
  kLost,          // events are gone for good: blocks stored before are not in the picture
  kOrphans,       // blocks were stored behind blocks that the picture lacks
  kShed,          // the index had no room for some of its blocks
  kDisagreement,  // the worker finds other prefixes cached than were predicted
};
inline constexpr std::size_t kDoubts = 4;
[[nodiscard]] std::string_view to_string(Doubt doubt) noexcept;

/// Keeps one slot of a prefix index equal to what its worker holds, from events that may come
/// twice, out of order, late or not at all, and from a worker that may begin anew.
///
/// Each event is applied once and in order. What comes early is kept, up to a bound, while next()
/// asks for what is missing: a replay, or a snapshot if replays do not help. If neither does, the
/// picture is emptied and goes on from what comes (Doubt::kLost), until a clear, a snapshot or a
/// new life makes it whole. A doubt is logged, counted by reason, and asks for a snapshot again and
/// again, ever more seldom.
///
/// A late event of a life before never counts: epochs must grow from life to life. Without epochs
/// (0) a live event that is not newer than all before it is taken for a new life's.
///
/// Pure: neither clock nor I/O. One thread at a time; the index may be shared (prefix_index.h).
/// Memory: at most `pending_batches_max` batches of `pending_blocks_max` blocks in all.
class KvFollower final {
 public:
  struct Options {
    std::size_t pending_batches_max = 1024;
    std::size_t pending_blocks_max = std::size_t{1} << 16;
    Nanos retry_first = std::chrono::milliseconds(250);  // then twice as long, up to ...
    Nanos retry_max = std::chrono::minutes(10);
    unsigned tries_max = 4;  // replays unanswered before a snapshot is asked for, and those
    double agreement_weight = 1 / 16.0;  // of the newest request
    unsigned agreement_requests = 8;     // seen before a judgement
    double agreement_low = 0.5;          // below: doubt
    double agreement_high = 0.8;         // above: no more
  };

  struct Want {
    enum class Kind : std::uint8_t { kNothing, kReplay, kSnapshot };
    Kind kind = Kind::kNothing;
    std::uint64_t from = 0;  // kReplay: the first event missing
  };

  /// All since the start, over all lives.
  struct Counters {
    std::uint64_t batches = 0;     // applied
    std::uint64_t duplicates = 0;  // dropped: known already
    std::uint64_t stale = 0;  // dropped: of a life before, or a snapshot older than the picture
    std::uint64_t gaps = 0;
    std::uint64_t overflows = 0;  // came early and found no room; asked for again
    std::uint64_t restarts = 0;   // new lives after the first
    std::uint64_t replays_asked = 0;
    std::uint64_t unreplayable = 0;  // times that what was missing was no longer kept
    std::uint64_t snapshots_asked = 0;
    std::uint64_t snapshots = 0;                  // taken in
    std::uint64_t orphans = 0;                    // stores behind blocks that the picture lacks
    std::array<std::uint64_t, kDoubts> doubts{};  // times that each came up
  };

  /// `slot` holds nothing in `index`, which must outlive this.
  KvFollower(kv::PrefixIndex& index, kv::Slot slot) : KvFollower(index, slot, Options{}) {}
  KvFollower(kv::PrefixIndex& index, kv::Slot slot, const Options& options);

  /// The worker says how far its events go: what is not here yet is missing. (A worker that is read
  /// rather than listened to is followed by this, next() and replayed().)
  void announced(kv::EventPosition last, TimePoint now);
  /// An event stretch as it came. One that overlaps what is applied is asked for again.
  void take(const KvBatch& batch, TimePoint now);
  /// The whole answer to Want::kReplay, in any order; if something is still missing, next() says
  /// so.
  void replayed(std::span<const KvBatch> batches, TimePoint now);
  /// What was asked for is no longer kept.
  void replay_unavailable(TimePoint now);
  /// All that the worker held after event `held.last`.
  void snapshot(const KvBatch& held, TimePoint now);
  /// The worker gives no snapshots (now).
  void snapshot_unavailable(TimePoint now);

  /// What to fetch now; asking counts as asked. Cheap: call it after each event and now and then.
  [[nodiscard]] Want next(TimePoint now);

  /// A request's cached prompt tokens: what the index said of them, and what the worker found. Both
  /// as whole blocks. What was stored between placement and start counts as predicted. Told nothing
  /// by requests that neither has anything for.
  void compare(std::uint64_t predicted_tokens, std::uint64_t reported_tokens);

  [[nodiscard]] Trust trust() const noexcept;
  [[nodiscard]] bool doubts(Doubt doubt) const noexcept { return (doubts_ & bit(doubt)) != 0; }
  /// Running mean of smaller / larger of the compared; 1: they were always equal.
  [[nodiscard]] double agreement() const noexcept { return agreement_; }
  [[nodiscard]] kv::EventPosition applied() const noexcept { return {epoch_, applied_}; }
  [[nodiscard]] const Counters& counters() const noexcept { return counters_; }
  [[nodiscard]] kv::Slot slot() const noexcept { return slot_; }

 private:
  struct Retry {
    unsigned tries = 0;
    TimePoint at = TimePoint::min();  // not before
  };

  [[nodiscard]] static constexpr unsigned bit(Doubt doubt) noexcept {
    return 1U << static_cast<unsigned>(doubt);
  }
  [[nodiscard]] bool missing() const noexcept { return applied_ < known_; }
  [[nodiscard]] bool same_life(std::uint64_t epoch);
  void begin_life(std::uint64_t epoch);
  void take_in_order(const KvBatch& batch);
  void keep(const KvBatch& batch);
  void apply(const KvBatch& batch, bool whole);
  void open_gap(TimePoint now);
  void apply_pending();
  void give_up();
  void notice_shed();
  void doubt(Doubt why);
  void trust_again(unsigned doubts);
  void ask(Retry& retry, TimePoint now) const;

  kv::PrefixIndex& index_;
  const kv::Slot slot_;
  const Options options_;
  bool tells_ = false;  // anything of its cache so far
  std::uint64_t epoch_ = 0;
  std::uint64_t applied_ = 0;
  std::uint64_t known_ = 0;                   // the last event that is known to be
  std::uint64_t live_last_ = 0;               // the last that came by itself
  std::map<std::uint64_t, KvBatch> pending_;  // by `first`; all past applied_ + 1
  std::size_t pending_blocks_ = 0;
  bool replays_help_ = true;
  Retry gap_;     // for what is missing
  Retry resync_;  // for a snapshot that ends the doubts
  unsigned doubts_ = 0;
  double agreement_ = 1;
  unsigned compared_ = 0;
  Counters counters_;
};

}  // namespace penstock::fleet
