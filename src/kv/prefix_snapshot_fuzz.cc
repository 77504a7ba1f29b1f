// Bytes that claim to be a snapshot: an error or an index that holds together, never a crash. Some
// get a checksum that fits, so that what comes behind it is reached.
#include <xxhash.h>

#include <cstring>
#include <vector>

#include "base/check.h"
#include "kv/prefix_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using penstock::kv::PrefixIndex;
  const PrefixIndex::Options options{
      .context = "c", .budget_bytes = 4U << 20, .shards = 2, .slots_max = 16};
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  if (size >= 8 && data[size - 1] % 8 != 0) {
    const std::uint64_t sum = XXH3_64bits(bytes.data(), size - 8);
    std::memcpy(bytes.data() + size - 8, &sum, 8);
  }
  PrefixIndex index(options);
  const bool taken = index.restore(bytes).has_value();
  index.check();
  CHECK(taken || index.stats().blocks == 0);
  if (taken) {
    PrefixIndex again(options);
    CHECK(again.restore(index.snapshot()).has_value());
    again.check();
    CHECK_EQ(again.stats().blocks, index.stats().blocks);
  }
  return 0;
}
