#include "kv/local_hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string>

namespace penstock::kv {
namespace {

std::vector<Token> count_up(std::size_t count) {
  std::vector<Token> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

std::vector<std::uint64_t> chain(const LocalHasher& hasher, std::span<const Token> tokens,
                                 std::size_t block_tokens, std::span<const MediaRun> media = {}) {
  std::vector<std::uint64_t> hashes;
  hasher.chain(tokens, block_tokens, hashes, media);
  return hashes;
}

// Computed by Dynamo 1.6.1 (compute_block_hash_for_seq, compute_seq_hash_for_block).
TEST(LocalHashTest, IsWhatDynamoComputes) {
  const std::vector<std::uint64_t> locals = chain(LocalHasher(), count_up(64), 16);
  EXPECT_EQ(locals, (std::vector<std::uint64_t>{15310707395893867146U, 15292316782987903195U,
                                                5532946206955930018U, 14928757266181269122U}));
  std::vector<std::uint64_t> names;
  sequence_hashes(locals, names);
  EXPECT_EQ(names, (std::vector<std::uint64_t>{15310707395893867146U, 13769157705258532664U,
                                               11879827756109914528U, 3888788807566526800U}));
}

TEST(LocalHashTest, LeavesOutTheTailAndHashesBlocksWhereverTheyStand) {
  std::vector<Token> tokens = count_up(16);
  tokens.insert(tokens.end(), tokens.begin(), tokens.begin() + 16);
  tokens.push_back(5);
  const std::vector<std::uint64_t> locals = chain(LocalHasher(), tokens, 16);
  ASSERT_EQ(locals.size(), 2U);
  EXPECT_EQ(locals[0], locals[1]);
  EXPECT_TRUE(chain(LocalHasher(), count_up(15), 16).empty());
}

// Short inputs, and those over 240 bytes, which go by the secret made beforehand.
TEST(LocalHashTest, AdapterAndSaltChangeEveryBlock) {
  for (const std::size_t size : {1U, 4U, 16U, 32U, 60U, 61U, 64U, 512U}) {
    const std::vector<Token> tokens = count_up(size);
    const std::uint64_t plain = LocalHasher().block(tokens);
    const std::uint64_t adapter = LocalHasher("a").block(tokens);
    const std::uint64_t salt = LocalHasher("", "a").block(tokens);
    const std::uint64_t both = LocalHasher("a", "a").block(tokens);
    EXPECT_EQ(LocalHasher("", "").block(tokens), plain);
    EXPECT_EQ((std::set<std::uint64_t>{plain, adapter, salt, both}.size()), 4U) << size;
  }
  EXPECT_EQ(LocalHasher().seed(), 1337U);
}

// Frames hashed by the reference library, 64 tokens counted up with an image at 20 to 25.
TEST(LocalHashTest, MediaAreHashedInFrames) {
  const std::vector<Token> tokens = count_up(64);
  const std::vector<MediaRun> media = {{.first = 20, .tokens = 6, .hash = 0x1122334455667788}};
  EXPECT_EQ(chain(LocalHasher(), tokens, 16, media),
            (std::vector<std::uint64_t>{15310707395893867146U, 10348393244058532060U,
                                        5532946206955930018U, 14928757266181269122U}));
}

// Placeholders do not count; what the image is, where it begins and in which order two of them
// stand does. A run that begins in an earlier block is told from one that begins here.
TEST(LocalHashTest, MediaAreWhatIsThereAndWhere) {
  std::vector<Token> tokens(32, 9);
  const auto hashes = [&](std::vector<MediaRun> media) {
    return chain(LocalHasher(), tokens, 16, media);
  };
  const std::vector<std::uint64_t> image = hashes({{8, 12, 1}});
  std::fill(tokens.begin() + 8, tokens.begin() + 20, 7);
  EXPECT_EQ(hashes({{8, 12, 1}}), image);
  std::fill(tokens.begin() + 8, tokens.begin() + 20, 9);
  const std::vector<std::vector<std::uint64_t>> others = {hashes({}),
                                                          hashes({{8, 12, 2}}),
                                                          hashes({{7, 13, 1}}),
                                                          hashes({{8, 8, 1}, {16, 4, 1}}),
                                                          hashes({{8, 4, 1}, {12, 8, 2}}),
                                                          hashes({{8, 4, 2}, {12, 8, 1}})};
  std::set<std::uint64_t> first = {image[0]};
  std::set<std::uint64_t> second = {image[1]};
  for (const auto& other : others) {
    first.insert(other[0]);
    second.insert(other[1]);
  }
  EXPECT_EQ(first.size(), 6U);  // the one cut at 16 has the whole image's first block
  EXPECT_EQ(second.size(), 7U);
  EXPECT_EQ(hashes({{40, 4, 1}}), hashes({}));
}

TEST(LocalHashTest, NamesOfMediaAreDigestsOrText) {
  EXPECT_EQ(media_hash("1122334455667788" + std::string(48, 'f')), 0x1122334455667788U);
  EXPECT_EQ(media_hash("1122334455667788"), media_hash("1122334455667788"));
  EXPECT_NE(media_hash("1122334455667788"), 0x1122334455667788U);
  EXPECT_EQ(media_hash(""), 0x2D06800538D394C2U);  // XXH3-64 of nothing
  EXPECT_NE(media_hash(std::string(64, 'g')), 0U);
}

}  // namespace
}  // namespace penstock::kv
