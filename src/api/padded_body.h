#pragma once

#include <string>
#include <string_view>

namespace penstock::api {

/// A body followed by the readable bytes that parsing asks for; for tests, fuzz targets and
/// benchmarks. By default these are what would do most harm to a parser that believed them.
class PaddedBody final {
 public:
  explicit PaddedBody(std::string_view body, char filler = '}')
      : bytes_(body), size_bytes_(body.size()) {
    bytes_.append(kPaddingBytes, filler);
    bytes_.shrink_to_fit();
  }

  [[nodiscard]] std::string_view view() const noexcept {
    return std::string_view(bytes_).substr(0, size_bytes_);
  }

 private:
  static constexpr std::size_t kPaddingBytes = 64;

  std::string bytes_;
  std::size_t size_bytes_;
};

}  // namespace penstock::api
