#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace penstock::net {

/// Bytes of an answer that the socket has not taken, in order. Not thread safe.
/// Memory: at most about twice what is unsent.
class OutputQueue final {
 public:
  [[nodiscard]] bool empty() const noexcept { return sent_bytes_ == bytes_.size(); }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size() - sent_bytes_; }
  [[nodiscard]] std::string_view unsent() const noexcept {
    return std::string_view(bytes_).substr(sent_bytes_);
  }

  void append(std::string_view bytes) { bytes_.append(bytes); }

  /// The first `size_bytes` of unsent() are out.
  void sent(std::size_t size_bytes);

  void clear() noexcept {
    bytes_.clear();
    sent_bytes_ = 0;
  }

  /// Gives memory back, if there is more of it than an idle connection should hold.
  void shrink();

 private:
  std::string bytes_;
  std::size_t sent_bytes_ = 0;
};

/// Empties `buffer`; gives its memory back if there is more than an idle connection should hold.
void clear_and_shrink(std::string& buffer);

}  // namespace penstock::net
