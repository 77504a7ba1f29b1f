#pragma once

#include <gtest/gtest.h>

#include "engine/engine.h"
#include "engine/remote/until_for_test.h"

namespace penstock::engine {

/// Knows of a worker what it said when it last announced a change. Outlives the worker.
class AnnouncedReader final {
 public:
  void follow(Engine& engine) {
    EXPECT_TRUE(engine.announces_changes());
    engine_ = &engine;
    engine.announce_changes_to(changes_, 0);
    known_ = said();
  }

  /// Knows what the worker says, as soon as that stays as it is.
  [[nodiscard]] bool is_up_to_date() {
    return until([this] {
      changes_.sweep([this](std::size_t) { known_ = said(); });
      return known_ == said();
    });
  }
  [[nodiscard]] const LoadReport& load() const { return known_.load; }
  [[nodiscard]] std::uint64_t events() const { return known_.events; }
  [[nodiscard]] bool connected() const { return known_.connected; }

 private:
  struct Said {
    LoadReport load;  // without the inbox
    std::uint64_t events = 0;
    bool connected = false;
    friend bool operator==(const Said&, const Said&) = default;
  };
  [[nodiscard]] Said said() const {
    Said said{.load = engine_->load(),
              .events = engine_->kv_events()->last_sequence(),
              .connected = engine_->connected()};
    said.load.generation = 0;
    said.load.waiting -= std::exchange(said.load.in_inbox, 0);
    return said;
  }

  Engine* engine_ = nullptr;
  ChangeSet changes_{1};
  Said known_;
};

}  // namespace penstock::engine
