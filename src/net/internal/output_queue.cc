#include "net/internal/output_queue.h"

namespace penstock::net {
namespace {

constexpr std::size_t kIdleBytesMax = 1024;

}  // namespace

void OutputQueue::sent(std::size_t size_bytes) {
  sent_bytes_ += size_bytes;
  if (sent_bytes_ == bytes_.size()) {
    clear();
  } else if (sent_bytes_ > bytes_.size() / 2) {
    // Moving fewer bytes than were sent since the last move: amortised, each byte moves once.
    bytes_.erase(0, sent_bytes_);
    sent_bytes_ = 0;
  }
}

void OutputQueue::shrink() {
  if (empty()) clear_and_shrink(bytes_);
}

void clear_and_shrink(std::string& buffer) {
  if (buffer.capacity() > kIdleBytesMax) {
    std::string().swap(buffer);
  } else {
    buffer.clear();
  }
}

}  // namespace penstock::net
