#include "kv/block.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace penstock::kv {
namespace {

std::vector<BlockHash> chain(BlockHash parent, const std::vector<Token>& tokens, std::size_t size) {
  std::vector<BlockHash> hashes;
  for (std::size_t at = 0; at + size <= tokens.size(); at += size) {
    parent = chain_next(parent, std::span(tokens).subspan(at, size));
    hashes.push_back(parent);
  }
  return hashes;
}

std::vector<Token> tokens(std::size_t count) {
  std::mt19937 random(7);
  std::vector<Token> made(count);
  for (Token& t : made) t = static_cast<Token>(random() % 50000);
  return made;
}

TEST(BlockHashTest, AChangedTokenChangesItsBlockAndAllAfterItAndNoneBefore) {
  const BlockHash root = chain_root("model", "", "");
  const std::vector<Token> original = tokens(64);
  const std::vector<BlockHash> expected = chain(root, original, 8);
  for (std::size_t changed = 0; changed < original.size(); ++changed) {
    std::vector<Token> other = original;
    ++other[changed];
    const std::vector<BlockHash> got = chain(root, other, 8);
    for (std::size_t block = 0; block < expected.size(); ++block) {
      EXPECT_EQ(got[block] == expected[block], block < changed / 8) << changed << " " << block;
    }
  }
}

TEST(BlockHashTest, RootsDifferInEveryPartAndPartsDoNotRunTogether) {
  const std::set<BlockHash> roots = {
      chain_root("m", "", ""),   chain_root("n", "", ""),  chain_root("m", "a", ""),
      chain_root("m", "", "a"),  chain_root("ma", "", ""), chain_root("", "ma", ""),
      chain_root("", "m", "a"),  chain_root("", "", "ma"), chain_root("", "", ""),
      chain_root("m", "a", "a"), chain_root("m", "aa", "")};
  EXPECT_EQ(roots.size(), 11U);
}

TEST(BlockHashTest, WhereBlocksAreCutMatters) {
  const BlockHash root = chain_root("model", "", "");
  const std::vector<Token> all = tokens(16);
  EXPECT_NE(chain(root, all, 16).back(), chain(root, all, 8).back());
}

// Other processes and machines must agree: a change of these is a change of the wire.
TEST(BlockHashTest, IsTheSameForEverybody) {
  const BlockHash first = chain_next(chain_root("model", "adapter", "salt"), tokens(4));
  const BlockHash again = chain_next(chain_root("model", "adapter", "salt"), tokens(4));
  EXPECT_EQ(first, again);
  EXPECT_EQ(first.high, 1121698233766846349U);
  EXPECT_EQ(first.low, 15063819881652057190U);
  // Small blocks and large ones are hashed in different ways.
  const BlockHash small = chain_next(first, tokens(64));
  EXPECT_EQ(small.high, 15110964468476390440U);
  EXPECT_EQ(small.low, 13400069833900483336U);
  const BlockHash large = chain_next(first, tokens(1024));
  EXPECT_EQ(large.high, 5362550222986413947U);
  EXPECT_EQ(large.low, 11773011060022102780U);
}

}  // namespace
}  // namespace penstock::kv
