#include "transfer/checksum.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
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

/// Where in `bytes`, which are 64 more than are needed, streaming stores can begin.
std::byte* aligned(std::vector<std::byte>& bytes) {
  void* at = bytes.data();
  std::size_t space = bytes.size();
  return static_cast<std::byte*>(std::align(64, bytes.size() - 64, at, space));
}

std::vector<std::size_t> sizes() {
  std::vector<std::size_t> all;
  for (std::size_t size = 0; size < 2300; ++size) all.push_back(size);
  for (std::size_t size : {4095, 4096, 4097, 16384, 65536, 65600, 100003}) all.push_back(size);
  return all;
}

TEST(Checksum, IsXxh3OfEverySize) {
  const auto bytes = noise(100100, 1);
  for (const std::size_t size : sizes()) {
    ASSERT_EQ(checksum(bytes.data() + 3, size), XXH3_64bits(bytes.data() + 3, size)) << size;
  }
}

TEST(Checksum, ACopysSumIsItsCopys) {
  const auto bytes = noise(100100, 2);
  std::vector<std::byte> to(bytes.size() + 128);
  for (const Stores stores : {Stores::kCached, Stores::kStreaming}) {
    for (const std::size_t offset : {0, 1, 32}) {  // of the destination: not all can be streamed to
      for (const std::size_t size : sizes()) {
        auto* at = aligned(to) + offset;
        std::fill(at, at + size + 1, std::byte{0x5a});
        const Checksum sum = copy_and_sum(at, bytes.data() + 5, size, stores);
        fence_stores();
        ASSERT_EQ(sum, XXH3_64bits(bytes.data() + 5, size)) << size;
        ASSERT_TRUE(size == 0 || std::memcmp(at, bytes.data() + 5, size) == 0) << size;
        ASSERT_EQ(at[size], std::byte{0x5a}) << "wrote past the end of " << size;
      }
    }
  }
}

TEST(Checksum, OfWhatComesInPiecesItIsThatOfTheWhole) {
  const auto bytes = noise(100100, 3);
  Rng rng(4);
  for (const Stores stores : {Stores::kCached, Stores::kStreaming}) {
    for (const std::size_t size : sizes()) {
      std::vector<std::byte> memory(size + 65, std::byte{0x5a});
      std::byte* to = aligned(memory);
      CopySum copy(to, size, stores);
      for (std::size_t there = 0; there < size;) {
        const std::size_t more = std::min(size - there, CopySum::kStepBytes * (1 + rng.below(5)));
        copy.add(bytes.data() + there, more);
        there += more;
      }
      ASSERT_EQ(copy.sum(), XXH3_64bits(bytes.data(), size)) << size;
      fence_stores();
      ASSERT_TRUE(std::equal(to, to + size, bytes.begin())) << size;
      ASSERT_EQ(to[size], std::byte{0x5a}) << "wrote past the end of " << size;
    }
  }
}

TEST(Checksum, EveryFlippedBitIsSeen) {
  for (const std::size_t size : {100, 1024, 8192}) {
    auto bytes = noise(size, 9);
    const Checksum sum = checksum(bytes.data(), bytes.size());
    for (std::size_t bit = 0; bit < 8 * bytes.size(); bit += 7) {
      bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      EXPECT_NE(checksum(bytes.data(), bytes.size()), sum) << bit;
      bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    }
  }
}

}  // namespace
}  // namespace penstock::transfer
