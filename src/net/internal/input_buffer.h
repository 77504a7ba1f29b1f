#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

namespace penstock::net {

/// Received bytes nobody has taken yet, in one piece. Small inputs lie in the object itself, so an
/// idle connection holds nothing else; larger ones move to the heap until the buffer is empty
/// again. Not thread safe.
///
/// Invariant: a span from space() stays valid until the next space() call, whatever is consumed
/// meanwhile, so a receive may be under way while the bytes before it are parsed.
class InputBuffer final {
 public:
  static constexpr std::size_t kInlineBytes = 4096;

  [[nodiscard]] std::string_view data() const noexcept { return {base() + begin_, end_ - begin_}; }
  [[nodiscard]] bool empty() const noexcept { return begin_ == end_; }

  void consume(std::size_t size_bytes) noexcept { begin_ += size_bytes; }

  /// Where to receive next: never more than makes data() `size_bytes_max` long; empty when it is
  /// that long already. Asks for a capacity of `size_bytes_wanted` when the buffer is empty.
  [[nodiscard]] std::span<char> space(std::size_t size_bytes_max,
                                      std::size_t size_bytes_wanted = kInlineBytes);
  void commit(std::size_t size_bytes) noexcept { end_ += size_bytes; }

 private:
  [[nodiscard]] char* base() noexcept { return heap_ ? heap_.get() : inline_.data(); }
  [[nodiscard]] const char* base() const noexcept { return heap_ ? heap_.get() : inline_.data(); }
  void start_over(std::size_t capacity_bytes);
  void make_room(std::size_t held);

  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t capacity_bytes_ = kInlineBytes;
  std::unique_ptr<char[]> heap_;
  std::array<char, kInlineBytes> inline_;  // left uninitialised: only committed bytes are read
};

}  // namespace penstock::net
