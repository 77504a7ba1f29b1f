#include "tiers/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ranges>

#include "base/check.h"
#include "tiers/admission.h"
#include "tiers/internal/state.h"

namespace penstock::tiers {
namespace {

using Host = Store::Entry::Host;

constexpr std::uint32_t kBlockBytesMax = 1U << 30;
constexpr std::size_t kVictimsSeenMax = 1024;
// A quick disk's share of one read of many, as NVMe has it: 10 GB/s.
constexpr double kReadFixedNs = 10e3;
constexpr double kReadNsPerByte = 0.1;
// Writing and a copy, until they are measured.
constexpr double kWriteFixedNs = 200e3;
constexpr double kWriteNsPerByte = 1;
constexpr double kCopyNsPerByte = 0.2;

transfer::Layout layout_of(const Geometry& geometry, std::uint32_t slots) {
  // A slot is a record as it goes to disk; peers that are granted it see the block alone.
  return {.slots = slots,
          .parts = 1,
          .part_bytes = geometry.block_bytes,
          .slot_stride_bytes = geometry.record_bytes,
          .part_stride_bytes = geometry.block_bytes,
          .offset_bytes = kRecordHeaderBytes};
}

transfer::BlockKey arena_key(const Key& key) { return {key.high, key.low}; }

}  // namespace

std::string_view to_string(Reason reason) noexcept {
  static constexpr std::array<std::string_view, kReasons> kNames{
      "deadline",     "host_full", "corrupt", "wrong_record", "truncated",  "io_error", "disk_full",
      "breaker_open", "not_worth", "cold",    "wear",         "queue_full", "gone"};
  return kNames[static_cast<std::size_t>(reason)];
}

Store::State::State(const Options& chosen, const Clock& time)
    : options(chosen),
      clock(time),
      compatibility(root_key(
          fmt::format("{}/{}/{}", chosen.compatibility, chosen.block_bytes, kFormatVersion), "")),
      geometry(Geometry::of(chosen.block_bytes, chosen.segment_bytes)),
      sketch((chosen.host_bytes + chosen.disk_bytes) / geometry.record_bytes),
      wear(chosen.wear_bytes_per_day, 0, time.now()),
      read_cost(kReadFixedNs + kReadNsPerByte * static_cast<double>(geometry.record_bytes)),
      writes(kWriteFixedNs, kWriteNsPerByte),
      copies(0, kCopyNsPerByte) {}

Store::Store(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}

Result<std::unique_ptr<Store>> Store::open(const Options& options, const Clock& clock) {
  if (options.block_bytes == 0 || options.block_bytes > kBlockBytesMax) {
    return fail(Code::kInvalidArgument, fmt::format("blocks of {} bytes", options.block_bytes));
  }
  auto state = std::make_unique<State>(options, clock);
  if (auto taken = state->take_memory(); !taken) return std::unexpected(taken.error());
  std::unique_ptr<Store> store(new Store(std::move(state)));
  if (options.disk_folder.empty()) return store;
  if (auto opened = store->state_->open_disk(); !opened) return std::unexpected(opened.error());
  return store;
}

Store::~Store() { state_->stop(); }

Result<void> Store::State::take_memory() {
  const auto slots = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(options.host_bytes / geometry.record_bytes, Entry::kNoSlot - 1));
  if (slots < kHostSlotsMin) {
    return fail(
        Code::kUnprocessable,
        fmt::format("--kv-host-mib: {} bytes for blocks of {}: at least {} MiB", options.host_bytes,
                    options.block_bytes, ((kHostSlotsMin * geometry.record_bytes) >> 20) + 1));
  }
  auto made = transfer::Arena::create(layout_of(geometry, slots), transfer::MemoryKind::kPrivate);
  if (!made) return std::unexpected(made.error());
  arena = std::move(*made);
  for (std::uint32_t slot = slots; slot > 0; --slot) free_slots.push_back(slot - 1);
  stats.host_blocks_max = slots;
  return {};
}

const Store::Entry* Store::State::find(const Key& key) const {
  const auto found = index.find(key);
  return found == index.end() ? nullptr : &found->second;
}
Store::Entry* Store::State::find(const Key& key) {
  return const_cast<Entry*>(std::as_const(*this).find(key));  // ours, and we may change it
}

/// Where the blocks lie, from the first one on up to the first that is nowhere.
std::vector<Tier> Store::State::leading(std::span<const Key> keys) const {
  std::vector<Tier> tiers;
  for (const Key& key : keys) {
    const std::optional<Tier> tier = tier_of(key);
    if (!tier) break;
    tiers.push_back(*tier);
  }
  return tiers;
}

LoadCosts Store::State::costs(double recompute_ns) const {
  const double disk_ns =
      reads_work(clock.now()) ? disk_block_ns() : std::numeric_limits<double>::infinity();
  return {.host_ns = copies.predict_ns(geometry.block_bytes),
          .disk_ns = disk_ns,
          .disk_queue_ns = static_cast<double>(to_read.size() + reading) * disk_block_ns(),
          .recompute_ns = recompute_ns};
}

double Store::State::value(const Entry& entry) const noexcept {
  // All blocks have as many bytes.
  return kept_value(entry.recompute_ns, sketch.estimate(entry.key));
}

double Store::State::disk_block_ns() const noexcept { return read_cost.ns(clock.now()); }

bool Store::State::wanted_on_disk(const Key& key, double recompute_ns) {
  const TimePoint now = clock.now();
  const bool full =
      disk_bytes + geometry.segment_bytes > options.disk_bytes && to_write.size() >= records_left();
  const std::optional<Reason> refused =
      refusal({.recompute_ns = recompute_ns,
               .read_ns = disk_block_ns(),
               .asked = sketch.estimate(key),
               .wear_spent = !wear.allows(geometry.record_bytes, now),
               .wear_short = wear.is_short(now),
               .full = full,
               .oldest_value = oldest_value});
  if (now < full_until) {
    refuse(Reason::kDiskFull);
  } else if (!writes_work(now)) {
    refuse(Reason::kBreakerOpen);
  } else if (refused) {
    refuse(*refused);
    // Fame fades, also of what is on disk.
    if (refused == Reason::kCold && ++cold_refusals % kRefusalsAnUpdate == 0) update_oldest_value();
  } else if (to_write.size() + writing >= arena->layout().slots / 2) {
    refuse(Reason::kQueueFull);
  } else {
    return true;
  }
  return false;
}

/// What can surely be written before a segment has to be made.
std::size_t Store::State::records_left() const noexcept {
  const auto left = [](const Writer& writer) {
    return writer.segment != nullptr ? writer.segment->records_left() : 0;
  };
  return std::ranges::min(writers | std::views::transform(left));
}

void Store::State::queue_write(Entry& entry) {
  entry.to_disk = true;
  to_write.push_back(&entry);
  work_changed.notify_all();
}

/// A free slot, or that of the coldest block that nobody holds. One that only memory has goes to
/// disk first, if it is wanted there, and another is taken instead.
std::uint32_t Store::State::take_slot() {
  if (free_slots.empty()) {
    for (std::size_t left = std::min(kVictimsSeenMax, lru.size()); left > 0; --left) {
      Entry& victim = *lru.front();
      const bool is_free = victim.pins == 0 && !victim.to_disk;
      const bool only_here = victim.segment == nullptr && victim.keep == Keep::kHeld && has_disk();
      if (is_free && !(only_here && wanted_on_disk(victim.key, victim.recompute_ns))) {
        drop_host(victim);
        forget_if_gone(victim);
        break;
      }
      if (is_free) queue_write(victim);
      lru.splice(lru.end(), lru, victim.place);  // out of the way of who looks next
    }
  }
  if (free_slots.empty()) return Entry::kNoSlot;
  const std::uint32_t slot = free_slots.back();
  free_slots.pop_back();
  arena->reserve(slot);
  return slot;
}

void Store::State::moved(const Entry& entry) {
  if (changed.size() == kChangesMax) changed.pop_front();
  changed.push_back(entry.key);
  ++changes;
}

void Store::State::became_ready(Entry& entry) {
  moved(entry);
  entry.host = Host::kReady;
  entry.place = lru.insert(lru.end(), &entry);
  ++stats.host_blocks;
}

/// It is ready no more.
void Store::State::left_host(const Entry& entry) {
  moved(entry);
  lru.erase(entry.place);
  --stats.host_blocks;
}

void Store::State::drop_host(Entry& entry) {
  if (entry.host == Host::kReady) left_host(entry);
  entry.host = Host::kNone;
  free_slots.push_back(std::exchange(entry.slot, Entry::kNoSlot));
}

void Store::State::drop_disk(Entry& entry) {
  if (entry.segment == nullptr) return;
  moved(entry);
  --entry.segment->live;
  --stats.disk_blocks;
  entry.segment.reset();
}

void Store::State::forget_if_gone(Entry& entry) {
  const bool gone = entry.host == Host::kNone && entry.segment == nullptr && entry.pins == 0;
  if (gone) index.erase(Key(entry.key));
}

void Store::State::unpin(Entry& entry) {
  const std::lock_guard lock(mutex);
  if (--entry.pins > 0) return;
  if (entry.host == Host::kBad && !entry.to_disk) drop_host(entry);
  forget_if_gone(entry);
}

Store::Pin::~Pin() {
  if (entry_ != nullptr) state_->unpin(*entry_);
}

bool Store::Pin::copy_to(std::span<std::byte> to) const {
  State& s = *state_;
  CHECK_EQ(to.size(), s.geometry.block_bytes);
  const TimePoint start = s.clock.now();
  const transfer::Checksum sum = transfer::copy_and_sum(to.data(), s.arena->part(entry_->slot, 0),
                                                        to.size(), transfer::Stores::kCached);
  const bool same = sum == s.arena->table().checksum(entry_->slot, 0);
  s.copies.record({}, to.size(), Nanos(0), s.clock.now() - start);
  if (same) return true;
  const std::lock_guard lock(s.mutex);
  s.miss(Reason::kCorrupt);
  if (entry_->host == Host::kReady) {
    s.left_host(*entry_);
    entry_->host = Host::kBad;
    s.drop_disk(*entry_);
  }
  return false;
}

Store::Reservation Store::reserve(const Key& key, double recompute_ns, Keep keep) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  if (Entry* held = s.find(key); held != nullptr) {
    if (held->host == Host::kReady) {
      held->keep = std::max(held->keep, keep);
      s.lru.splice(s.lru.end(), s.lru, held->place);
    }
    if (held->host != Host::kNone || held->pins > 0 || keep == Keep::kWritten) return {};
  } else if (keep == Keep::kWritten) {
    if (!s.has_disk() || !s.wanted_on_disk(key, recompute_ns)) return {};
  }
  const std::uint32_t slot = s.take_slot();
  if (slot == Entry::kNoSlot) {
    s.refuse(Reason::kHostFull);
    return {};
  }
  Entry& entry = s.index[key];
  entry.key = key;
  entry.recompute_ns = recompute_ns;
  entry.host = Host::kFilling;
  entry.keep = keep;
  entry.slot = slot;
  return Reservation(&s, &entry);
}

std::span<std::byte> Store::Reservation::bytes() const noexcept {
  return {state_->arena->part(entry_->slot, 0), state_->geometry.block_bytes};
}

void Store::Reservation::commit() {
  Entry& entry = *std::exchange(entry_, nullptr);
  state_->arena->sum_and_commit(entry.slot, arena_key(entry.key));
  const std::lock_guard lock(state_->mutex);
  state_->became_ready(entry);
  if (entry.keep == Keep::kWritten) state_->queue_write(entry);
}

Store::Reservation::~Reservation() {
  if (entry_ == nullptr) return;
  const std::lock_guard lock(state_->mutex);
  state_->drop_host(*entry_);
  state_->forget_if_gone(*entry_);
}

LoadChoice Store::choose(std::span<const Key> chain, std::size_t have, double recompute_ns) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  for (const Key& key : chain) s.sketch.add(key);
  const std::span<const Key> rest = chain.subspan(std::min(have, chain.size()));
  s.stats.asked += rest.size();
  const std::vector<Tier> tiers = s.leading(rest);
  const LoadCosts costs = s.costs(recompute_ns);
  const LoadChoice choice = choose_load(tiers, costs);
  bool behind_closed_disk = false;
  for (std::size_t i = choice.blocks; i < tiers.size(); ++i) {
    behind_closed_disk |= tiers[i] == Tier::kDisk && std::isinf(costs.disk_ns);
    s.miss(behind_closed_disk ? Reason::kBreakerOpen : Reason::kNotWorth);
  }
  return choice;
}

LoadChoice Store::foresee(std::span<const Key> chain, std::size_t have, double recompute_ns) const {
  const std::lock_guard lock(state_->mutex);
  return choose_load(state_->leading(chain.subspan(std::min(have, chain.size()))),
                     state_->costs(recompute_ns));
}

LoadCosts Store::costs(double recompute_ns) const {
  const std::lock_guard lock(state_->mutex);
  return state_->costs(recompute_ns);
}

Store::Fetch Store::fetch(std::span<const Key> keys, Deadline deadline, double predicted_ns) {
  State& s = *state_;
  Fetch fetch(s, deadline);
  const std::lock_guard lock(s.mutex);
  fetch.started_ = s.clock.now();
  fetch.predicted_ns_ = predicted_ns;
  for (const Key& key : keys) {
    Entry* entry = s.find(key);
    if (entry == nullptr) {
      s.miss(Reason::kGone);
      break;
    }
    Tier from = Tier::kHost;
    if (entry->host == Host::kReady) {
      s.lru.splice(s.lru.end(), s.lru, entry->place);
    } else if (entry->host == Host::kNone && entry->segment != nullptr) {
      entry->slot = s.take_slot();
      if (entry->slot == Entry::kNoSlot) {
        s.miss(Reason::kHostFull);
        break;
      }
      entry->host = Host::kLoading;
      entry->left_out.reset();
      entry->wanted_until = deadline;
      s.to_read.push_back(entry);
      from = Tier::kDisk;
    } else if (entry->host == Host::kLoading) {
      if (deadline.at() > entry->wanted_until.at()) entry->wanted_until = deadline;
      from = Tier::kDisk;
    } else {  // being filled by whoever computed it, or bad
      s.miss(Reason::kGone);
      break;
    }
    ++entry->pins;
    fetch.pins_.emplace_back(&s, entry);
    fetch.from_.push_back(from);
  }
  if (!s.to_read.empty()) s.work_changed.notify_all();
  return fetch;
}

/// Under the lock.
bool Store::Fetch::is_done() const {
  for (const Pin& pin : pins_) {
    if (pin.entry_->host == Host::kLoading) return deadline_.passed(state_->clock.now());
    if (pin.entry_->host != Host::kReady) return true;
  }
  return true;
}

bool Store::Fetch::done() const {
  const std::lock_guard lock(state_->mutex);
  return is_done();
}

bool Store::Fetch::wait(Nanos at_most) const {
  std::unique_lock lock(state_->mutex);
  return state_->done_changed.wait_for(lock, at_most, [this] { return is_done(); });
}

std::vector<Store::Pin> Store::Fetch::take() {
  std::vector<Pin> all = std::move(pins_);
  pins_.clear();
  std::size_t ready = 0;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stats.load_predicted_s += predicted_ns_ / 1e9;
    state_->stats.load_taken_s += to_ms(state_->clock.now() - started_) / 1e3;
    while (ready < all.size() && all[ready].entry_->host == Host::kReady) {
      ++state_->stats.given[static_cast<std::size_t>(from_[ready])];
      ++ready;
    }
    for (std::size_t i = ready; i < all.size(); ++i) {
      // Still on its way, or not read; a read that failed has been counted.
      const Entry& entry = *all[i].entry_;
      if (entry.host == Host::kLoading) state_->miss(Reason::kDeadline);
      if (entry.host == Host::kNone && entry.left_out) state_->miss(*entry.left_out);
    }
  }
  while (all.size() > ready) all.pop_back();
  return all;
}

bool Store::in_host(const Key& key) const {
  const std::lock_guard lock(state_->mutex);
  const Entry* entry = state_->find(key);
  return entry != nullptr && entry->host == Host::kReady;
}

bool Store::on_disk(const Key& key) const {
  const std::lock_guard lock(state_->mutex);
  const Entry* entry = state_->find(key);
  return entry != nullptr && entry->segment != nullptr;
}

bool Store::flush(Nanos at_most) {
  std::unique_lock lock(state_->mutex);
  return state_->done_changed.wait_for(
      lock, at_most, [this] { return state_->to_write.empty() && state_->writing == 0; });
}

Stats Store::stats() const {
  const std::lock_guard lock(state_->mutex);
  Stats stats = state_->stats;
  stats.disk_bytes = state_->disk_bytes;
  stats.disk_bytes_max = state_->has_disk() ? state_->options.disk_bytes : 0;
  stats.disk_ns_per_byte =
      state_->disk_block_ns() / static_cast<double>(state_->geometry.record_bytes);
  const TimePoint now = state_->clock.now();
  stats.reads_paused = !state_->reads_work(now);
  stats.writes_paused = !state_->writes_work(now) || now < state_->full_until;
  return stats;
}

std::uint32_t Store::block_bytes() const noexcept { return state_->geometry.block_bytes; }

}  // namespace penstock::tiers
