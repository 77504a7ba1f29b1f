#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kv/block.h"

namespace penstock::kv {

/// One change of a worker's set of reusable blocks. `sequence` counts from 1 without a gap in one
/// life of the worker; a reader that sees a gap has lost events and must take a snapshot.
struct Event {
  enum class Kind : std::uint8_t { kStored, kRemoved, kCleared };

  std::uint64_t sequence = 0;
  Kind kind = Kind::kCleared;
  BlockHash hash;             // kStored, kRemoved
  BlockHash parent;           // kStored: the block before, or the chain root
  bool begins_chain = false;  // kStored: `parent` is the root, and no block
  /// kStored: hash of the block's own tokens with the adapter and salt of the request that it was
  /// computed for (kv/local_hash.h). The tokens alone do not say whose they are.
  std::uint64_t local = 0;
  /// kStored: exactly the block's tokens (size = the worker's block size), or none from a source
  /// that was told not to keep them.
  std::vector<Token> tokens;
};

/// Where a worker's events are read. Thread: any.
class EventSource {
 public:
  virtual ~EventSource() = default;

  /// The newest event's sequence; 0 before the first. Costs one load, so that a reader who is up to
  /// date need not ask.
  [[nodiscard]] virtual std::uint64_t last_sequence() const noexcept = 0;

  /// Appends up to `count_max` events with sequence >= `from` to `out`, in order; none if there are
  /// no newer ones. Fails with kNotFound when `from` is older than what is kept: read snapshot().
  virtual Result<void> read(std::uint64_t from, std::size_t count_max,
                            std::vector<Event>& out) const = 0;

  /// Every block held now as kStored events, parents before children, and in `sequence` the last
  /// event it includes: continue with read(sequence + 1).
  virtual std::vector<Event> snapshot(std::uint64_t& sequence) const = 0;
};

}  // namespace penstock::kv
