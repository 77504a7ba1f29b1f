#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <unordered_map>

#include "engine/change_set.h"
#include "kv/events.h"

namespace penstock::engine {

/// A worker's KV events: the last `events_max` of them in order, and what they add up to. Written
/// by the worker's thread, read by any.
class KvEventLog final : public kv::EventSource {
 public:
  static constexpr std::size_t kEventsMax = 8192;
  /// Memory of a held block without its tokens: at rest, and while `reset` is given a list of all.
  static constexpr std::size_t kHeldBlockBytes = 256;
  /// `keeps_tokens`: stored events are told with their blocks' tokens, which are most of the log.
  /// `change`, if not null: set after each change; outlives this.
  explicit KvEventLog(std::size_t events_max = kEventsMax, bool keeps_tokens = true,
                      ChangeBit* change = nullptr)
      : events_max_(events_max), keeps_tokens_(keeps_tokens), change_(change) {}

  [[nodiscard]] bool keeps_tokens() const noexcept { return keeps_tokens_; }

  /// The parent of a stored block is held (or is a chain root); a removed block has no children.
  /// `block`: everything but the sequence.
  void stored(kv::Event block);
  void removed(const kv::BlockHash& hash);
  void cleared();
  /// Another log's state is taken over: `held` (stored events, parents first) after its event
  /// `sequence`. Readers that are behind need a snapshot.
  void reset(std::uint64_t sequence, std::span<const kv::Event> held);

  /// Blocks held now. The writer's thread.
  [[nodiscard]] std::size_t held() const noexcept { return held_.size(); }

  [[nodiscard]] std::uint64_t last_sequence() const noexcept override {
    return last_sequence_.load(std::memory_order_acquire);
  }
  Result<void> read(std::uint64_t from, std::size_t count_max,
                    std::vector<kv::Event>& out) const override;
  std::vector<kv::Event> snapshot(std::uint64_t& sequence) const override;

 private:
  void append(kv::Event event);
  void reach(std::uint64_t sequence) noexcept;
  void forget(kv::Event& block);
  [[nodiscard]] kv::Event* find(std::uint64_t sequence) noexcept;  // null: no longer kept

  static_assert(sizeof(std::pair<const kv::BlockHash, kv::Event>) + sizeof(kv::Event) +
                    4 * sizeof(void*) <=
                kHeldBlockBytes);

  const std::size_t events_max_;
  const bool keeps_tokens_;
  ChangeBit* const change_;
  mutable std::mutex mutex_;
  std::atomic<std::uint64_t> last_sequence_ = 0;  // written under mutex_
  // A block's tokens lie once: with the block while it is held, and then with the event.
  std::deque<kv::Event> events_;
  std::unordered_map<kv::BlockHash, kv::Event> held_;
};

}  // namespace penstock::engine
