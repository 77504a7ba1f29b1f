// The index as bytes. All numbers little-endian:
//   magic u64, version u32, context (u32 length, bytes),
//   slots u32, of each: epoch u64, sequence u64, shed u64,
//   runs u32, parents before children, of each:
//     parent u32 (number of a run before this one; none: 0xFFFFFFFF) and offset u32 of the block in
//     it, length u32, entries u32, columns u32, locals u64[length], aliases u64[length], entries
//     u32[entries], of each column: slot u32, names u32, names u64[names]
//   XXH3-64 of all before, u64.
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "kv/index/shard.h"
#include "kv/prefix_index.h"
#include "kv/prefix_index_state.h"

namespace penstock::kv {
namespace {

static_assert(std::endian::native == std::endian::little);

using index::kRelaxed;
constexpr std::uint64_t kMagic = 0x315844494B545350;  // "PSTKIDX1"
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kNoParent = 0xFFFFFFFF;
/// A chain is never longer: two million tokens in blocks of 16.
constexpr std::size_t kChainBlocksMax = std::size_t{1} << 17;

class Writer {
 public:
  template <class T>
  void put(const T& value) {
    put(&value, sizeof value);
  }
  void put(const void* bytes, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(bytes);
    out.insert(out.end(), from, from + size);
  }
  std::vector<std::byte> out;
};

/// Reads what is there; once something is missing, all that follows is zero and `ok` false.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> in) : in_(in) {}
  template <class T>
  T get() {
    T value{};
    copy(&value, sizeof value);
    return value;
  }
  template <class T>
  std::vector<T> list(std::size_t count) {
    if (count > in_.size() / sizeof(T)) ok = false;
    std::vector<T> values(ok ? count : 0);
    copy(values.data(), values.size() * sizeof(T));
    return values;
  }
  [[nodiscard]] bool at_end() const { return in_.empty(); }
  bool ok = true;

 private:
  void copy(void* to, std::size_t size) {
    if (size > in_.size()) ok = false;
    if (!ok || size == 0) return;
    std::memcpy(to, in_.data(), size);
    in_ = in_.subspan(size);
  }
  std::span<const std::byte> in_;
};

struct Column {
  Slot slot = 0;
  std::vector<std::uint64_t> names;
};

struct RunRecord {
  std::uint32_t parent = kNoParent;
  std::uint32_t offset = 0;
  std::size_t blocks_before = 0;
  std::vector<std::uint64_t> locals;
  std::vector<std::uint64_t> aliases;
  std::vector<index::Entry> entries;
  std::vector<Column> columns;

  [[nodiscard]] const std::vector<std::uint64_t>& names(Slot slot) const {
    for (const Column& column : columns) {
      if (column.slot == slot) return column.names;
    }
    return aliases;
  }
};

struct Contents {
  std::vector<PrefixIndex::Position> positions;
  std::vector<std::uint64_t> shed;
  std::vector<RunRecord> runs;
};

void put_run(Writer& out, const index::Shard& shard, std::uint32_t id, const index::Run& run) {
  const index::Shard::RunView view = shard.view(run);
  std::vector<index::Entry> entries;
  std::vector<std::pair<Slot, std::uint32_t>> columns;  // and how many names
  for (const std::atomic<index::Entry>& held : view.entries) {
    const index::Entry entry = held.load(kRelaxed);
    entries.push_back(entry);
    const Slot slot = entry >> 12;
    if (!shard.has_own_names(id, slot)) continue;
    if (columns.empty() || columns.back().first != slot) columns.emplace_back(slot, 0);
    columns.back().second = std::max(columns.back().second, index::entry_depth(entry));
  }
  out.put(static_cast<std::uint32_t>(view.locals.size()));
  out.put(static_cast<std::uint32_t>(entries.size()));
  out.put(static_cast<std::uint32_t>(columns.size()));
  out.put(view.locals.data(), view.locals.size_bytes());
  out.put(view.aliases.data(), view.aliases.size_bytes());
  out.put(entries.data(), entries.size() * sizeof(index::Entry));
  for (const auto& [slot, count] : columns) {
    out.put(slot);
    out.put(count);
    for (std::uint32_t i = 0; i < count; ++i) out.put(shard.name(id, slot, i));
  }
}

Result<void> bad(const char* what) {
  return fail(Code::kInvalidArgument, std::string("not a snapshot of this index: ") + what);
}

bool read_run(Reader& in, const Contents& so_far, Slot slots, RunRecord& run) {
  run.parent = in.get<std::uint32_t>();
  run.offset = in.get<std::uint32_t>();
  const auto length = in.get<std::uint32_t>();
  const auto entries = in.get<std::uint32_t>();
  const auto columns = in.get<std::uint32_t>();
  if (!in.ok || length == 0 || length > index::kRunBlocksMax || columns > entries) return false;
  if (run.parent != kNoParent) {
    if (run.parent >= so_far.runs.size()) return false;
    const RunRecord& before = so_far.runs[run.parent];
    if (run.offset >= before.locals.size()) return false;
    run.blocks_before = before.blocks_before + run.offset + 1;
    if (run.blocks_before > kChainBlocksMax) return false;
  }
  run.locals = in.list<std::uint64_t>(length);
  run.aliases = in.list<std::uint64_t>(length);
  run.entries = in.list<index::Entry>(entries);
  for (std::uint32_t i = 0; i < columns && in.ok; ++i) {
    Column& column = run.columns.emplace_back();
    column.slot = in.get<Slot>();
    column.names = in.list<std::uint64_t>(in.get<std::uint32_t>());
    if (column.names.size() > length) return false;
  }
  if (!in.ok) return false;
  return std::all_of(run.entries.begin(), run.entries.end(), [&](index::Entry entry) {
    return entry >> 12 < slots && (entry >> 10 & 3) < kTiers &&
           index::entry_depth(entry) <= run.names(entry >> 12).size();
  });
}

Result<void> read(std::span<const std::byte> bytes, const std::string& context, Slot slots_max,
                  Contents& contents) {
  if (bytes.size() < 8) return bad("it is too short");
  Reader sum(bytes.last(8));
  if (sum.get<std::uint64_t>() != XXH3_64bits(bytes.data(), bytes.size() - 8)) {
    return bad("its checksum does not fit");
  }
  Reader in(bytes.first(bytes.size() - 8));
  if (in.get<std::uint64_t>() != kMagic || in.get<std::uint32_t>() != kVersion) {
    return bad("it begins otherwise");
  }
  const std::vector<char> of = in.list<char>(in.get<std::uint32_t>());
  if (std::string(of.begin(), of.end()) != context) return bad("it is of another context");
  const auto slots = in.get<std::uint32_t>();
  if (!in.ok || slots > slots_max) return bad("it has more slots than fit");
  for (std::uint32_t i = 0; i < slots && in.ok; ++i) {
    const auto epoch = in.get<std::uint64_t>();
    contents.positions.push_back({epoch, in.get<std::uint64_t>()});
    contents.shed.push_back(in.get<std::uint64_t>());
  }
  const auto runs = in.get<std::uint32_t>();
  for (std::uint32_t i = 0; i < runs; ++i) {
    RunRecord run;
    if (!read_run(in, contents, slots, run)) return bad("a run is impossible");
    contents.runs.push_back(std::move(run));
  }
  if (!in.ok || !in.at_end()) return bad("its length does not fit");
  return {};
}

/// The blocks from the root up to the run.
std::vector<std::uint64_t> path_to(const Contents& contents, const RunRecord& run) {
  std::vector<std::uint64_t> path(run.blocks_before);
  for (const RunRecord* at = &run; at->parent != kNoParent; at = &contents.runs[at->parent]) {
    const RunRecord& before = contents.runs[at->parent];
    std::copy_n(before.locals.begin(), at->offset + 1, path.begin() + before.blocks_before);
  }
  return path;
}

}  // namespace

std::vector<std::byte> PrefixIndex::snapshot() const {
  // In order, so that two of these cannot wait for each other; writers hold one at most.
  std::vector<std::unique_lock<index::WriterLock>> locks;
  for (const auto& shard : shards_) locks.emplace_back(shard->lock);
  Writer out;
  out.put(kMagic);
  out.put(kVersion);
  out.put(static_cast<std::uint32_t>(options_.context.size()));
  out.put(options_.context.data(), options_.context.size());
  out.put(slots());
  for (Slot slot = 0; slot < slots(); ++slot) {
    out.put(position(slot));
    out.put(shed_blocks(slot));
  }
  std::uint32_t count = 0;
  for (const auto& shard : shards_) count += shard->runs();
  out.put(count);
  std::uint32_t number = 0;
  for (const auto& shard : shards_) {
    std::unordered_map<std::uint32_t, std::uint32_t> numbers;
    shard->for_each_run([&](std::uint32_t id, const index::Run& run) {
      numbers[id] = number++;
      const auto [parent, offset] = shard->parent_of(run);
      out.put(parent == index::kNone ? kNoParent : numbers[parent]);
      out.put(offset);
      put_run(out, *shard, id, run);
    });
  }
  out.put(static_cast<std::uint64_t>(XXH3_64bits(out.out.data(), out.out.size())));
  return out.out;
}

Result<void> PrefixIndex::restore(std::span<const std::byte> snapshot) {
  Contents contents;
  Result<void> done = read(snapshot, options_.context, options_.slots_max, contents);
  if (!done) return done;
  if (stats().blocks > 0) {
    return fail(Code::kInvalidArgument, "only an empty index can be restored");
  }
  if (!contents.positions.empty()) accept(static_cast<Slot>(contents.positions.size() - 1));
  const auto shard_of = [&](const std::vector<std::uint64_t>& path,
                            const RunRecord& run) -> index::Shard& {
    return *shards_[root_shard(path.empty() ? run.locals[0] : path[0])];
  };
  // First all content, then who holds what of it; so runs that nobody holds hold others up.
  for (const RunRecord& run : contents.runs) {
    std::vector<StoredBlock> blocks;
    for (std::size_t i = 0; i < run.locals.size(); ++i) {
      blocks.push_back({run.aliases[i], run.locals[i]});
    }
    const std::vector<std::uint64_t> path = path_to(contents, run);
    index::Shard& shard = shard_of(path, run);
    const std::lock_guard lock(shard.lock);
    const index::BlockId parent = shard.follow(path);
    if (parent != index::kNone) shard.scaffold(parent, blocks);
  }
  for (const RunRecord& run : contents.runs) {
    const std::vector<std::uint64_t> path = path_to(contents, run);
    index::Shard& shard = shard_of(path, run);
    const std::lock_guard lock(shard.lock);
    for (const index::Entry entry : run.entries) {
      const index::BlockId parent = shard.follow(path);
      if (parent == index::kNone) {  // shed meanwhile
        shed_->shed(entry >> 12, index::entry_depth(entry));
        continue;
      }
      std::vector<StoredBlock> blocks;
      for (std::uint32_t i = 0; i < index::entry_depth(entry); ++i) {
        blocks.push_back({run.names(entry >> 12)[i], run.locals[i]});
      }
      shard.store(entry >> 12, entry >> 10 & 3, parent, blocks);
    }
  }
  for (const auto& shard : shards_) {
    const std::lock_guard lock(shard->lock);
    shard->remove_scaffold();
  }
  for (Slot slot = 0; slot < contents.positions.size(); ++slot) {
    advance(slot, contents.positions[slot]);
    shed_->shed(slot, contents.shed[slot]);
  }
  return {};
}

}  // namespace penstock::kv
