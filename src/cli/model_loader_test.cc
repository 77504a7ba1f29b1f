#include "cli/model_loader.h"

#include <gtest/gtest.h>

namespace penstock::cli {
namespace {

using fleet::Role;
using fleet::WorkerState;

TEST(ModelLoaderTest, RequestsAreLetInOnceEachStageHasAWorkerThatIsReady) {
  serve::DispatcherView view;
  const auto join = [&view](Role role, WorkerState state) {
    view.workers.push_back({.state = state, .role = role});
  };
  EXPECT_TRUE(staffed(view, Awaited::kNobody));
  EXPECT_FALSE(staffed(view, Awaited::kAnswers));
  join(Role::kPrefill, WorkerState::kReady);
  join(Role::kDecode, WorkerState::kStarting);
  EXPECT_FALSE(staffed(view, Awaited::kAnswers));
  EXPECT_FALSE(staffed(view, Awaited::kPromptsAndAnswers));
  join(Role::kDecode, WorkerState::kReady);
  EXPECT_TRUE(staffed(view, Awaited::kAnswers));
  EXPECT_TRUE(staffed(view, Awaited::kPromptsAndAnswers));
  view.workers.front().state = WorkerState::kSuspect;
  EXPECT_FALSE(staffed(view, Awaited::kPromptsAndAnswers));
  view.workers.clear();
  join(Role::kBoth, WorkerState::kReady);
  EXPECT_TRUE(staffed(view, Awaited::kAnswers));
}

}  // namespace
}  // namespace penstock::cli
