#include "engine/llama/state_codec.h"

#include <cstring>
#include <string>

#include "base/check.h"

namespace penstock::engine::llama {
namespace {

/// Reads little-endian plain values in order; `good` turns false past the end.
class Reader {
 public:
  explicit Reader(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  template <class T>
  T take() {
    T value{};
    if (!can(sizeof(T))) return value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  void skip(std::size_t count) {
    if (can(count)) at_ += count;
  }
  [[nodiscard]] bool good() const { return good_; }
  [[nodiscard]] bool at_end() const { return at_ == bytes_.size(); }

 private:
  bool can(std::size_t count) {
    if (count > bytes_.size() - at_) good_ = false;
    return good_;
  }
  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
  bool good_ = true;
};

struct CellMeta {
  std::int32_t position;
  std::uint32_t sequence_count;
  std::int32_t sequence;
};
static_assert(sizeof(CellMeta) == 12);

template <class T>
std::uint8_t* put(std::uint8_t* at, T value) {
  std::memcpy(at, &value, sizeof value);
  return at + sizeof value;
}

std::unexpected<Error> unknown_layout(const char* what) {
  return fail(Code::kUnprocessable,
              std::string("this model's KV state cannot be cut into blocks: ") + what);
}

}  // namespace

Result<StateCodec> StateCodec::learn(std::span<const std::uint8_t> state, std::uint32_t cells) {
  StateCodec codec;
  Reader in(state);
  codec.magic_ = in.take<std::uint32_t>();
  in.take<std::int32_t>();
  codec.streams_ = in.take<std::uint32_t>();
  if (!in.good() || codec.streams_ == 0 || codec.streams_ > 256)
    return unknown_layout("stream count");
  // Streams without the sequence are a zero each, before or after the one that holds it.
  std::uint32_t streams_before = 0;
  std::uint32_t found = 0;
  while (in.good() && streams_before < codec.streams_ && (found = in.take<std::uint32_t>()) == 0) {
    ++streams_before;
  }
  if (found != cells) return unknown_layout("cell count");
  for (std::uint32_t i = 0; i < cells; ++i) {
    const auto meta = in.take<CellMeta>();
    if (meta.position != static_cast<std::int32_t>(i) || meta.sequence_count != 1) {
      return unknown_layout("cell positions");
    }
  }
  if (in.take<std::uint32_t>() != 0) return unknown_layout("V is transposed");
  codec.layers_ = in.take<std::uint32_t>();
  const std::size_t tail_bytes = (codec.streams_ - streams_before - 1) * sizeof(std::uint32_t);
  for (std::uint32_t i = 0; i < 2 * codec.layers_ && in.good(); ++i) {
    Section section;
    section.type = in.take<std::int32_t>();
    section.row_bytes = in.take<std::uint64_t>();
    if (section.row_bytes > (1U << 24)) return unknown_layout("row size");
    in.skip(section.row_bytes * cells);
    codec.bytes_per_token_ += section.row_bytes;
    codec.sections_.push_back(section);
  }
  in.skip(tail_bytes);
  if (!in.good() || !in.at_end() || codec.sections_.empty()) return unknown_layout("size");
  return codec;
}

std::size_t StateCodec::meta_bytes(std::uint32_t cells) const noexcept {
  return 3 * sizeof(std::uint32_t) + streams_ * sizeof(std::uint32_t) + cells * sizeof(CellMeta) +
         2 * sizeof(std::uint32_t);
}

std::size_t StateCodec::state_bytes(std::uint32_t cells) const noexcept {
  return meta_bytes(cells) + sections_.size() * (sizeof(std::int32_t) + sizeof(std::uint64_t)) +
         bytes_per_token_ * cells;
}

void StateCodec::cut(std::span<const std::uint8_t> state, std::uint32_t cells, std::uint32_t first,
                     std::uint32_t count, std::span<std::byte> block) const {
  CHECK_EQ(state.size(), state_bytes(cells));
  CHECK_LE(first + count, cells);
  CHECK_EQ(block.size(), bytes_per_token_ * count);
  // Zeros of streams after this one stand behind the rows; count the ones before from the front.
  std::size_t at = 3 * sizeof(std::uint32_t);
  std::uint32_t found = 0;
  while (true) {
    std::memcpy(&found, state.data() + at, sizeof found);
    at += sizeof found;
    if (found != 0) break;
  }
  CHECK_EQ(found, cells);
  at += cells * sizeof(CellMeta) + 2 * sizeof(std::uint32_t);
  std::byte* out = block.data();
  for (const Section& section : sections_) {
    at += sizeof(std::int32_t) + sizeof(std::uint64_t);
    std::memcpy(out, state.data() + at + first * section.row_bytes, count * section.row_bytes);
    out += count * section.row_bytes;
    at += cells * section.row_bytes;
  }
}

void StateCodec::join(std::span<const std::span<const std::byte>> blocks,
                      std::uint32_t block_tokens, std::vector<std::uint8_t>& state) const {
  const auto cells = static_cast<std::uint32_t>(blocks.size()) * block_tokens;
  state.resize(state_bytes(cells));
  std::uint8_t* at = state.data();
  at = put(at, magic_);
  at = put(at, std::int32_t{0});
  at = put(at, streams_);
  at =
      put(at, cells);  // written as the first stream's; the reader puts it where the sequence lives
  for (std::uint32_t i = 0; i < cells; ++i) {
    at = put(at, CellMeta{static_cast<std::int32_t>(i), 1, 0});
  }
  at = put(at, std::uint32_t{0});
  at = put(at, layers_);
  std::size_t offset = 0;  // of this section in a block
  for (const Section& section : sections_) {
    at = put(at, section.type);
    at = put(at, section.row_bytes);
    const std::size_t part_bytes = block_tokens * section.row_bytes;
    for (const std::span<const std::byte> block : blocks) {
      CHECK_EQ(block.size(), bytes_per_token_ * block_tokens);
      std::memcpy(at, block.data() + offset, part_bytes);
      at += part_bytes;
    }
    offset += part_bytes;
  }
  for (std::uint32_t s = 1; s < streams_; ++s) at = put(at, std::uint32_t{0});
  CHECK_EQ(static_cast<std::size_t>(at - state.data()), state.size());
}

}  // namespace penstock::engine::llama
