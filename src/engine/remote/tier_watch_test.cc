// A worker's lower tiers, as a front end in another process sees them.
#include <gtest/gtest.h>

#include <limits>

#include "engine/remote/engine_server.h"
#include "engine/remote/internal/tier_picture.h"
#include "engine/remote/remote_engine.h"
#include "engine/remote/sanitizer_for_test.h"
#include "engine/remote/until_for_test.h"
#include "tiers/store.h"

namespace penstock::engine {
namespace {

constexpr std::uint32_t kBlockBytes = 4096;
constexpr double kRecomputeNs = 5e6;

/// A worker of which only the lower tiers are of interest.
class TieredEngine final : public Engine {
 public:
  explicit TieredEngine(tiers::Store& store) : store_(store) {}
  [[nodiscard]] const EngineInfo& info() const override { return info_; }
  Result<void> generate(GenerateRequest) override { return fail(Code::kUnprocessable, "no"); }
  void abort(RequestId, CancelReason) override {}
  Result<void> embed(EmbedRequest, EmbedDone) override { return fail(Code::kUnprocessable, "no"); }
  [[nodiscard]] LoadReport load() const override { return {}; }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return nullptr; }
  [[nodiscard]] tiers::LoadChoice foresee_load(std::span<const tiers::Key> keys,
                                               std::size_t have) const override {
    return store_.foresee(keys, have, kRecomputeNs);
  }
  [[nodiscard]] TierState tier_state() const override {
    return {.stats = store_.stats(), .costs = store_.costs(kRecomputeNs), .store = &store_};
  }

 private:
  tiers::Store& store_;
  EngineInfo info_{.model = "m", .kv_tiers_key = "k"};
};

class TierWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kThreadSanitizer) GTEST_SKIP() << "gRPC is not built for it";
    store_ = tiers::Store::open({.compatibility = "k",
                                 .block_bytes = kBlockBytes,
                                 .host_bytes = 4000 * (kBlockBytes + 4096),
                                 .disk_folder = {}},
                                clock_)
                 .value();
    engine_.emplace(*store_);
    serve(0);
  }
  void serve(std::uint16_t port) {
    auto server = EngineServer::start(
        {.address = "127.0.0.1:" + std::to_string(port), .instance = "first"}, *engine_, clock_);
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
  }
  void connect(std::uint64_t blocks_max = 1 << 20) {
    remote_ =
        RemoteEngine::connect({.address = "127.0.0.1:" + std::to_string(server_->port()),
                               .info = engine_->info(),
                               .tells_kv_events = false,
                               .tier_picture_bytes_max = blocks_max * TierPicture::kBlockBytes,
                               .reconnect_max = std::chrono::milliseconds(100)},
                              clock_);
    ASSERT_TRUE(until([&] { return remote_->connected(); }));
  }
  void put(const tiers::Key& key) {
    auto place = store_->reserve(key, kRecomputeNs, tiers::Keep::kHeld);
    ASSERT_TRUE(place);
    place.commit();
  }
  /// The names of a prompt of so many blocks.
  static std::vector<tiers::Key> chain(std::string_view salt, std::size_t blocks) {
    std::vector<tiers::Key> keys;
    tiers::name_blocks(tiers::root_key("k", salt), std::vector<Token>(blocks), 1, keys);
    return keys;
  }
  [[nodiscard]] bool foresees(const std::vector<tiers::Key>& keys, std::size_t have,
                              std::uint32_t blocks) const {
    return until([&] { return remote_->foresee_load(keys, have).blocks == blocks; });
  }

  SteadyClock clock_;
  std::unique_ptr<tiers::Store> store_;
  std::optional<TieredEngine> engine_;
  std::unique_ptr<EngineServer> server_;
  std::unique_ptr<RemoteEngine> remote_;
};

TEST_F(TierWatchTest, WhatAWorkerElsewhereWouldLoadIsForeseenHere) {
  const std::vector<tiers::Key> before = chain("a", 1500);  // several messages
  const std::vector<tiers::Key> later = chain("b", 8);
  for (const tiers::Key& key : before) put(key);
  connect();
  EXPECT_TRUE(foresees(before, 0, 1500));
  EXPECT_TRUE(foresees(before, 1400, 100));
  EXPECT_EQ(remote_->foresee_load(later, 0).blocks, 0U);
  for (const tiers::Key& key : later) put(key);
  EXPECT_TRUE(foresees(later, 3, 5));
  const tiers::LoadChoice here = engine_->foresee_load(later, 3);
  const tiers::LoadChoice there = remote_->foresee_load(later, 3);
  EXPECT_EQ(there.slowest, here.slowest);
  EXPECT_DOUBLE_EQ(there.load_ns, here.load_ns);
  EXPECT_DOUBLE_EQ(there.recompute_ns, here.recompute_ns);
}

TEST_F(TierWatchTest, ALossIsMadeUpFor) {
  const std::vector<tiers::Key> keys = chain("a", 20);
  connect();
  for (std::size_t i = 0; i < 10; ++i) put(keys[i]);
  EXPECT_TRUE(foresees(keys, 0, 10));
  const std::uint16_t port = server_->port();
  server_.reset();
  ASSERT_TRUE(until([&] { return !remote_->connected(); }));
  for (std::size_t i = 10; i < 20; ++i) put(keys[i]);
  serve(port);
  EXPECT_TRUE(foresees(keys, 0, 20));
}

TEST_F(TierWatchTest, OfAWorkerThatTellsOfMoreThanFitsNothingIsKept) {
  const std::vector<tiers::Key> keys = chain("a", 20);
  connect(25);
  for (const tiers::Key& key : keys) put(key);
  EXPECT_TRUE(foresees(keys, 0, 20));
  for (const tiers::Key& key : chain("b", 6)) put(key);
  EXPECT_TRUE(foresees(keys, 0, 0));
  put(chain("c", 1)[0]);
  EXPECT_TRUE(until([&] { return remote_->tier_state().stats->host_blocks == 27; }));
  EXPECT_EQ(remote_->foresee_load(chain("c", 1), 0).blocks, 0U);  // nobody listens any more
}

TEST(TierPicture, TakesAllOrSaysThatItCannot) {
  tiers::Store::Follower::News news{.all_anew = true, .places = {}};
  std::vector<tiers::Key> keys;
  for (std::uint64_t i = 0; i < 20; ++i) {
    keys.push_back({.high = 7, .low = i});
    news.places.push_back({.key_low = i, .tier = tiers::Tier::kDisk});
  }
  for (const std::uint64_t room : {20U, 19U}) {
    TierPicture picture(room * TierPicture::kBlockBytes);
    picture.take({.host_ns = 1, .disk_ns = 2, .disk_queue_ns = 3, .recompute_ns = 10});
    EXPECT_EQ(picture.take(news), room == 20);
    if (room < 20) picture.clear();
    const tiers::LoadChoice choice = picture.foresee(keys, 5);
    EXPECT_EQ(choice.blocks, room == 20 ? 15U : 0U);
    EXPECT_DOUBLE_EQ(choice.load_ns, room == 20 ? 33 : 0);
  }
}

TEST(TierPicture, WhatIsToldLastCounts) {
  const std::vector<tiers::Key> keys{{1, 1}, {1, 2}, {1, 3}};
  const auto disk = std::optional(tiers::Tier::kDisk);
  TierPicture picture(1000 * TierPicture::kBlockBytes);
  picture.take({.host_ns = 1, .disk_ns = 2, .disk_queue_ns = 0, .recompute_ns = 10});
  EXPECT_TRUE(picture.take({.all_anew = true, .places = {{1, disk}, {2, disk}, {3, disk}}}));
  EXPECT_EQ(picture.foresee(keys, 0).blocks, 3U);
  EXPECT_TRUE(picture.take({.all_anew = false, .places = {{3, std::nullopt}, {9, std::nullopt}}}));
  EXPECT_EQ(picture.foresee(keys, 0).blocks, 2U);
  EXPECT_TRUE(picture.take({.all_anew = false, .places = {{1, tiers::Tier::kHost}}}));
  EXPECT_DOUBLE_EQ(picture.foresee(keys, 0).load_ns, 3);
  EXPECT_EQ(picture.foresee(keys, 4).blocks, 0U);  // more than there are
  EXPECT_TRUE(picture.take({.all_anew = true, .places = {{2, disk}}}));
  EXPECT_EQ(picture.foresee(keys, 0).blocks, 0U);
  EXPECT_EQ(picture.foresee(keys, 1).blocks, 1U);
  // Its disk cannot be read.
  picture.take({.host_ns = 1,
                .disk_ns = std::numeric_limits<double>::infinity(),
                .disk_queue_ns = 0,
                .recompute_ns = 10});
  EXPECT_EQ(picture.foresee(keys, 1).blocks, 0U);
}

}  // namespace
}  // namespace penstock::engine
