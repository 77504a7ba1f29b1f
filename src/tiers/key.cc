#include "tiers/key.h"

#include <openssl/evp.h>

#include <array>
#include <cstring>
#include <string>

#include "base/check.h"

namespace penstock::tiers {
namespace {

Key digest(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
  unsigned size = 0;
  CHECK_EQ(EVP_Digest(bytes.data(), bytes.size(), out.data(), &size, EVP_sha256(), nullptr), 1);
  Key key;
  std::memcpy(&key, out.data(), sizeof key);
  return key;
}

template <class T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

Key root_key(std::string_view compatibility, std::string_view salt) {
  std::string bytes = "root";
  append(bytes, std::uint64_t{compatibility.size()});  // keeps ("ab", "c") and ("a", "bc") apart
  bytes += compatibility;
  bytes += salt;
  return digest(bytes);
}

Key next_key(const Key& parent, std::span<const Token> tokens) {
  std::string bytes = "next";
  bytes.reserve(bytes.size() + sizeof parent + tokens.size_bytes());
  append(bytes, parent);
  bytes.append(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  return digest(bytes);
}

void name_blocks(const Key& root, std::span<const Token> prompt, std::uint32_t block_tokens,
                 std::vector<Key>& keys) {
  for (std::size_t at = keys.size() * block_tokens; at + block_tokens <= prompt.size();
       at += block_tokens) {
    keys.push_back(next_key(keys.empty() ? root : keys.back(), prompt.subspan(at, block_tokens)));
  }
}

}  // namespace penstock::tiers
