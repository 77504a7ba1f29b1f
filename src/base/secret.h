#pragma once

#include <cstddef>
#include <string_view>

namespace penstock {

/// Whether who shows `given` knows the secret. Takes as long whatever the bytes are, so that a
/// secret cannot be guessed byte by byte.
[[nodiscard]] inline bool same_secret(std::string_view given, std::string_view known) noexcept {
  unsigned difference = given.size() == known.size() ? 0 : 1;
  for (std::size_t i = 0; i < known.size(); ++i) {
    difference |= static_cast<unsigned char>(i < given.size() ? given[i] : 0) ^
                  static_cast<unsigned char>(known[i]);
  }
  return difference == 0;
}

}  // namespace penstock
