// Recovery of hostile files: a store's segment is changed as the input says, with checksums made
// right again where it wants that, and found by a store. Nothing must end it; and what was not made
// right again is never given as what it is not.
#include <cstdlib>
#include <fstream>
#include <span>

#include "base/log.h"
#include "tiers/for_test.h"
#include "tiers/internal/segment.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kKeys = 8;

void require(bool condition) {
  if (!condition) std::abort();
}

Options options(const std::string& folder) {
  static const auto kNoFaults = std::make_shared<testing::Faults>();
  return testing::small_store(folder, kNoFaults);
}

/// A segment as a store leaves it, with a footer, and what else it holds.
std::vector<char> whole_segment() {
  const testing::Folder folder;
  const SteadyClock clock;
  {
    const auto store = Store::open(options(folder.path()), clock).value();
    for (std::uint64_t i = 0; i < kKeys + 1; ++i) {  // one more, so that the first is sealed
      auto place = store->reserve(testing::key_of(i), testing::kRecomputeNs, Keep::kWritten);
      std::ranges::copy(testing::block_of(i), place.bytes().begin());
      place.commit();
      require(store->flush(20s));
    }
  }
  std::ifstream file(folder.segments().front(), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// `Header` lies at `at`: makes it whole again.
template <class Header>
void reseal(std::vector<char>& bytes, std::uint64_t at) {
  if (at + sizeof(Header) > bytes.size()) return;
  Header header;
  std::memcpy(&header, bytes.data() + at, sizeof header);
  if constexpr (std::is_same_v<Header, FooterHeader>) {
    const std::uint64_t list = at + sizeof header;
    const std::uint64_t list_bytes =
        std::min(header.entries * sizeof(FooterEntry), bytes.size() - list);
    header.entries_sum =
        transfer::checksum(reinterpret_cast<const std::byte*>(bytes.data() + list), list_bytes);
  }
  seal(header);
  std::memcpy(bytes.data() + at, &header, sizeof header);
}

/// Changes of four bytes each: what, where (two), to what. True: a checksum was made right again.
bool change(std::vector<char>& bytes, std::span<const std::uint8_t> input) {
  const Geometry geometry = Geometry::of(testing::kBlockBytes, bytes.size());
  bool forged = false;
  for (; input.size() >= 4; input = input.subspan(4)) {
    const std::uint32_t at = input[1] | input[2] << 8;
    const auto put = [&](std::uint64_t begin, std::uint64_t size) {
      const std::uint64_t place = begin + at % size;
      if (place < bytes.size()) bytes[place] = static_cast<char>(input[3]);
    };
    const std::uint64_t record = geometry.record_at(at / 256 % geometry.records);
    switch (input[0] % 7) {
      case 0: put(0, bytes.size() + 1); break;
      case 1: bytes.resize(std::min<std::size_t>(at * 4, 1 << 18)); break;
      case 2: put(0, sizeof(SegmentHeader)); break;
      case 3: put(record, sizeof(RecordHeader)); break;
      case 4: put(geometry.footer_at, geometry.footer_bytes); break;
      case 5:
        reseal<SegmentHeader>(bytes, 0);
        forged = true;
        break;
      default:
        reseal<RecordHeader>(bytes, record);
        reseal<FooterHeader>(bytes, geometry.footer_at);
        forged = true;
    }
  }
  return forged;
}

void recover(const std::vector<char>& bytes, bool forged) {
  static const testing::Folder kFolder;
  for (const std::string& path : kFolder.segments()) std::filesystem::remove(path);
  std::ofstream(kFolder.path() + "/" + segment_name(1), std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  const SteadyClock clock;
  const auto store = Store::open(options(kFolder.path()), clock).value();
  require(store->stats().disk_blocks <= bytes.size() / testing::kRecordBytes);
  for (std::uint64_t i = 0; i < kKeys; ++i) {
    const std::array keys{testing::key_of(i)};
    Store::Fetch fetch = store->fetch(keys, Deadline());
    require(fetch.wait(20s));
    std::vector<std::byte> to(testing::kBlockBytes);
    for (const Store::Pin& pin : fetch.take()) {
      require(!pin.copy_to(to) || forged || to == testing::block_of(i));
    }
  }
}

}  // namespace
}  // namespace penstock::tiers

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock::tiers;
  penstock::log::set_level(penstock::log::Level::kOff);
  static const std::vector<char> kWhole = whole_segment();
  std::vector<char> bytes = kWhole;
  const bool forged = change(bytes, {data, size});
  recover(bytes, forged);
  return 0;
}
