#include "engine/derived_secret.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/hmac.h>

#include <array>

#include "base/check.h"

namespace penstock::engine {

std::string derived_secret(std::string_view secret, std::string_view purpose) {
  if (secret.empty()) return {};
  std::array<unsigned char, 32> digest{};
  unsigned size = 0;
  CHECK(HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
             reinterpret_cast<const unsigned char*>(purpose.data()), purpose.size(), digest.data(),
             &size) != nullptr);
  CHECK_EQ(size, digest.size());
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

}  // namespace penstock::engine
