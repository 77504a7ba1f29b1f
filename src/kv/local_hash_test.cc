#include "kv/local_hash.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace penstock::kv {
namespace {

std::vector<Token> count_up(std::size_t count) {
  std::vector<Token> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

std::vector<std::uint64_t> chain(const LocalHasher& hasher, std::span<const Token> tokens,
                                 std::size_t block_tokens) {
  std::vector<std::uint64_t> hashes;
  hasher.chain(tokens, block_tokens, hashes);
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

}  // namespace
}  // namespace penstock::kv
