#include "transfer/checksum.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string_view>
#include <vector>

#include "base/rng.h"

namespace penstock::transfer {
namespace {

std::vector<std::byte> noise(std::size_t size, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.next());
  return bytes;
}

/// By the definition, a bit at a time.
std::uint32_t slow_crc32c(const std::vector<std::byte>& bytes) {
  std::uint32_t crc = ~0U;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0);
  }
  return ~crc;
}

const std::byte* bytes_of(std::string_view text) {
  return reinterpret_cast<const std::byte*>(text.data());
}

TEST(Checksum, KnownValues) {
  EXPECT_EQ(crc32c(bytes_of("123456789"), 9), 0xe3069283U);
  EXPECT_EQ(crc32c(nullptr, 0), 0U);
  const std::vector<std::byte> zeros(32);
  EXPECT_EQ(crc32c(zeros.data(), zeros.size()), 0x8a9136aaU);
}

TEST(Checksum, EverySizeAroundAPieceGivesTheDefinitionsValue) {
  for (const std::size_t size : {1, 7, 8, 63, 4095, 4096, 4097, 8192, 12295, 65536, 65543}) {
    const auto bytes = noise(size, size);
    EXPECT_EQ(crc32c(bytes.data(), size), slow_crc32c(bytes)) << size;
  }
}

TEST(Checksum, CopiesAndSumsAlikeWhereverTheDataIsCut) {
  const auto bytes = noise(20000, 3);
  const std::uint32_t whole = slow_crc32c(bytes);
  for (const Stores stores : {Stores::kCached, Stores::kStreaming}) {
    for (const std::size_t cut : {0, 1, 8, 4096, 5000, 16384, 19999, 20000}) {
      std::vector<std::byte> to(bytes.size() + 1);
      std::uint32_t crc = copy_crc32c(to.data(), bytes.data(), cut, stores);
      crc = copy_crc32c(to.data() + cut, bytes.data() + cut, bytes.size() - cut, stores, crc);
      fence_stores();
      EXPECT_EQ(crc, whole) << cut;
      EXPECT_EQ(std::memcmp(to.data(), bytes.data(), bytes.size()), 0) << cut;
      EXPECT_EQ(to.back(), std::byte{0}) << "wrote past the end";
    }
  }
}

TEST(Checksum, EveryFlippedBitIsSeen) {
  auto bytes = noise(8192, 9);
  const std::uint32_t sum = crc32c(bytes.data(), bytes.size());
  for (std::size_t bit = 0; bit < 8 * bytes.size(); bit += 37) {
    bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    EXPECT_NE(crc32c(bytes.data(), bytes.size()), sum) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
  }
}

}  // namespace
}  // namespace penstock::transfer
