#include "transfer/host_path.h"

#include <sys/uio.h>

#include <array>

#include "transfer/checksum.h"

namespace penstock::transfer {
namespace {

constexpr std::size_t kReadPiecesMax = 64;     // of one process_vm_readv
constexpr std::size_t kReadBytes = 256 << 10;  // of one, if a part is no larger: verified in cache

/// kPending if the chunk may go on.
BlockStatus verdict(const HostSource& source, const Chunk& chunk, TimePoint now) noexcept {
  if (source.gone != nullptr && source.gone->load(std::memory_order_relaxed)) {
    return BlockStatus::kPeerDead;
  }
  return chunk.verdict(now);
}

struct Ends {
  std::uint32_t from = 0;
  std::uint32_t to = 0;
};
Ends ends_of(const Chunk& chunk, std::uint32_t block) noexcept {
  const Pull& pull = chunk.pull();
  return {pull.granted[pull.take[block]].slot, pull.to[block]};
}

/// Makes the destination unreadable; then, whether the source holds what is asked for.
BlockStatus admit(const HostSource& source, const Chunk& chunk, std::uint32_t block) noexcept {
  const Pull& pull = chunk.pull();
  if (pull.take[block] >= pull.granted.size()) return BlockStatus::kOutOfRange;
  const BlockRef ref = pull.granted[pull.take[block]];
  if (ref.slot >= source.layout.slots || pull.to[block] >= chunk.to().layout().slots) {
    return BlockStatus::kOutOfRange;
  }
  if (chunk.first_part == 0) chunk.to().reserve(pull.to[block]);
  const BlockHead head = source.table->block(ref.slot);
  if (!head.readable() || static_cast<std::uint32_t>(head.generation) != ref.generation) {
    return BlockStatus::kStale;
  }
  if (head.key != pull.keys[block]) return BlockStatus::kWrongKey;
  if (head.length_bytes != source.layout.block_bytes()) return BlockStatus::kTruncated;
  return BlockStatus::kPending;
}

/// After the copy: whether the source held still, and the bytes are right.
BlockStatus judge(const HostSource& source, const BlockRef& ref, bool sums_match) noexcept {
  std::atomic_thread_fence(std::memory_order_acquire);
  const std::uint64_t generation = source.table->generation(ref.slot);
  if (static_cast<std::uint32_t>(generation) != ref.generation) return BlockStatus::kStale;
  return sums_match ? BlockStatus::kPending : BlockStatus::kCorrupt;
}

/// Blocks of a last range that are still pending have come through: they become readable.
void commit(const Chunk& chunk) noexcept {
  if (chunk.streaming()) fence_stores();  // before anyone is told, of an earlier range too
  if (!chunk.last_range) return;
  for (std::uint32_t block = chunk.begin; block < chunk.end; ++block) chunk.arrived(block);
}

}  // namespace

void HostPath::run(const Chunk& chunk) noexcept {
  const TimePoint now = source_.clock->now();
  BlockStatus stop = verdict(source_, chunk, now);
  const ReadGuard guard(*source_.readers, *source_.table, chunk.pull().grant, now);
  if (stop == BlockStatus::kPending && !guard) stop = BlockStatus::kRevoked;
  if (stop != BlockStatus::kPending) return chunk.fail_rest(stop);
  move(chunk);
  commit(chunk);
}

void MappedPath::look_ahead(const Chunk& chunk, std::uint32_t block) const noexcept {
  const Pull& pull = chunk.pull();
  if (block >= chunk.end || pull.take[block] >= pull.granted.size()) return;
  const Ends ends = ends_of(chunk, block);
  if (ends.from >= source_.layout.slots || ends.to >= chunk.to().layout().slots) return;
  source_.table->prefetch(ends.from);
  chunk.to().table().prefetch(ends.to);
  prefetch(data_ + source_.layout.at(ends.from, chunk.first_part), source_.layout.part_bytes);
}

BlockStatus MappedPath::copy(const Chunk& chunk, std::uint32_t block) const noexcept {
  if (const auto status = admit(source_, chunk, block); status != BlockStatus::kPending) {
    return status;
  }
  const Ends ends = ends_of(chunk, block);
  Arena& to = chunk.to();
  const Stores stores = chunk.streaming() ? Stores::kStreaming : Stores::kCached;
  bool sums_match = true;
  for (std::uint32_t part = chunk.first_part; part < chunk.last_part; ++part) {
    const Checksum sum =
        copy_and_sum(to.part(ends.to, part), data_ + source_.layout.at(ends.from, part),
                     source_.layout.part_bytes, stores);
    sums_match = sums_match && sum == source_.table->checksum(ends.from, part);
    to.table().set_checksum(ends.to, part, sum);
  }
  return judge(source_, chunk.pull().granted[chunk.pull().take[block]], sums_match);
}

void MappedPath::move(const Chunk& chunk) const noexcept {
  for (std::uint32_t block = chunk.begin; block < chunk.end; ++block) {
    look_ahead(chunk, block + 1);
    if (chunk.pending(block)) chunk.pull().status[block] = copy(chunk, block);
  }
}

void CmaPath::move(const Chunk& chunk) const noexcept {
  struct Piece {
    std::uint32_t block;
    std::uint32_t part;
  };
  std::array<iovec, kReadPiecesMax> here;
  std::array<iovec, kReadPiecesMax> there;
  std::array<Piece, kReadPiecesMax> pieces;
  std::size_t count = 0;
  const Pull& pull = chunk.pull();
  Arena& to = chunk.to();
  const std::size_t part_bytes = source_.layout.part_bytes;

  const auto flush = [&] {
    const ssize_t read = process_vm_readv(pid_, here.data(), count, there.data(), count, 0);
    const std::size_t whole = read < 0 ? 0 : static_cast<std::size_t>(read) / part_bytes;
    for (std::size_t i = 0; i < count; ++i) {
      const auto [block, part] = pieces[i];
      if (!chunk.pending(block)) continue;  // an earlier part of it failed
      if (i >= whole) {
        pull.status[block] = BlockStatus::kPathFailed;
        continue;
      }
      const Ends ends = ends_of(chunk, block);
      const Checksum sum = checksum(to.part(ends.to, part), part_bytes);
      to.table().set_checksum(ends.to, part, sum);
      pull.status[block] = judge(source_, pull.granted[pull.take[block]],
                                 sum == source_.table->checksum(ends.from, part));
    }
    count = 0;
  };
  for (std::uint32_t block = chunk.begin; block < chunk.end; ++block) {
    if (!chunk.pending(block)) continue;
    pull.status[block] = admit(source_, chunk, block);
    if (!chunk.pending(block)) continue;
    const Ends ends = ends_of(chunk, block);
    for (std::uint32_t part = chunk.first_part; part < chunk.last_part; ++part) {
      here[count] = {to.part(ends.to, part), part_bytes};
      // The address is the peer's; only the kernel follows it.
      // NOLINTNEXTLINE(performance-no-int-to-ptr)
      there[count] = {reinterpret_cast<void*>(address_ + source_.layout.at(ends.from, part)),
                      part_bytes};
      pieces[count++] = {block, part};
      if (count == kReadPiecesMax || count * part_bytes >= kReadBytes) flush();
    }
  }
  if (count > 0) flush();
}

}  // namespace penstock::transfer
