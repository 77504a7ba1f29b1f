#include "net/internal/input_buffer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace penstock::net {

std::span<char> InputBuffer::space(std::size_t size_bytes_max, std::size_t size_bytes_wanted) {
  const std::size_t held = end_ - begin_;
  if (held >= size_bytes_max) return {};
  if (held == 0) {
    start_over(std::min(size_bytes_wanted, size_bytes_max));
  } else if (end_ == capacity_bytes_) {
    make_room(held);
  }
  return {base() + end_, std::min(capacity_bytes_ - end_, size_bytes_max - held)};
}

void InputBuffer::start_over(std::size_t capacity_bytes) {
  begin_ = end_ = 0;
  if (capacity_bytes <= kInlineBytes) {
    heap_.reset();
    capacity_bytes_ = kInlineBytes;
  } else if (capacity_bytes > capacity_bytes_) {
    heap_ = std::make_unique_for_overwrite<char[]>(capacity_bytes);
    capacity_bytes_ = capacity_bytes;
  }
}

void InputBuffer::make_room(std::size_t held) {
  if (begin_ >= capacity_bytes_ / 2) {
    std::memmove(base(), base() + begin_, held);
  } else {
    auto larger = std::make_unique_for_overwrite<char[]>(capacity_bytes_ * 2);
    std::memcpy(larger.get(), base() + begin_, held);
    heap_ = std::move(larger);
    capacity_bytes_ *= 2;
  }
  begin_ = 0;
  end_ = held;
}

}  // namespace penstock::net
