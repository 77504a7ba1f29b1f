#include "cli/worker_processes.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <thread>

namespace penstock::cli {
namespace {

using namespace std::chrono_literals;

/// Waits for what another process is about to do.
template <class Condition>
[[nodiscard]] bool until(Condition condition) {
  for (int i = 0; !condition(); ++i) {
    if (i == 20000) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

ProcessCommand shell(const std::string& script) {
  return {.arguments = {"/bin/sh", "-c", script}, .environment = {"PATH=/usr/bin:/bin", "A=b c"}};
}

class WorkerProcessesTest : public testing::Test {
 public:
  WorkerProcessesTest() : file_(testing::TempDir() + "/penstock-" + std::to_string(getpid())) {
    std::ofstream(file_).flush();
  }
  ~WorkerProcessesTest() override { unlink(file_.c_str()); }

 protected:
  [[nodiscard]] std::vector<std::string> lines() const {
    std::ifstream in(file_);
    std::vector<std::string> made;
    for (std::string line; std::getline(in, line);) made.push_back(line);
    return made;
  }

  std::string file_;
  ManualClock clock_;
};

TEST_F(WorkerProcessesTest, WhatEndsIsStartedAgainLaterEachTime) {
  WorkerProcesses processes({shell("echo $A >>" + file_)}, clock_);
  Nanos pause = WorkerProcesses::kPauseFirst;
  for (std::size_t times = 1; times <= 4; ++times) {
    ASSERT_TRUE(until([&] { return lines().size() == times; }));
    ASSERT_TRUE(until([&] { return processes.running() == 0; }));
    clock_.advance(pause - 1ns);
    processes.look_after();
    EXPECT_EQ(processes.running(), 0U);
    clock_.advance(1ns);
    processes.look_after();
    EXPECT_EQ(processes.restarts(), times);
    pause *= 2;
  }
  EXPECT_EQ(lines().front(), "b c");
}

TEST_F(WorkerProcessesTest, WhoDoesNotAcceptItsArgumentsIsNotStartedAgain) {
  WorkerProcesses processes({shell("exit 2"), shell("exec sleep 1000")}, clock_);
  ASSERT_TRUE(until([&] { return processes.running() == 1; }));
  EXPECT_TRUE(processes.refused());
  clock_.advance(1h);
  processes.look_after();
  EXPECT_EQ(processes.running(), 1U);
  EXPECT_EQ(processes.restarts(), 0U);
}

TEST_F(WorkerProcessesTest, AProgramMayBeCalledOtherThanItsFile) {
  ProcessCommand command = shell("echo $0 >>" + file_);
  command.arguments = {"worker", "-c", "echo $0 >>" + file_, "name"};
  command.program = "/bin/sh";
  const WorkerProcesses processes({command}, clock_);
  ASSERT_TRUE(until([&] { return lines().size() == 1; }));
  EXPECT_EQ(lines().front(), "name");
}

TEST_F(WorkerProcessesTest, TheyEndWhenTheyAreAskedAndStayEnded) {
  WorkerProcesses processes({shell("trap 'echo ended >>" + file_ + "; exit 0' TERM; echo up >>" +
                                   file_ + "; while :; do sleep 0.01; done")},
                            clock_);
  ASSERT_TRUE(until([&] { return lines().size() == 1; }));
  processes.ask_to_end();
  ASSERT_TRUE(until([&] { return processes.running() == 0; }));
  clock_.advance(1h);
  processes.look_after();
  EXPECT_EQ(processes.running(), 0U);
  EXPECT_EQ(lines().back(), "ended");
}

/// The parent here is a process of the test's own, killed without a chance to do anything.
TEST_F(WorkerProcessesTest, NoneOutlivesTheirParent) {
  const pid_t parent = fork();
  if (parent == 0) {
    const WorkerProcesses processes({shell("echo $$ >>" + file_ + "; exec sleep 1000")}, clock_);
    for (;;) pause();
  }
  ASSERT_TRUE(until([&] { return !lines().empty(); }));
  const pid_t child = std::stoi(lines().front());
  EXPECT_EQ(kill(child, 0), 0);
  kill(parent, SIGKILL);
  EXPECT_EQ(waitpid(parent, nullptr, 0), parent);
  EXPECT_TRUE(until([&] {
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string line;
    return !std::getline(stat, line) || line.find(") Z ") != std::string::npos;
  }));
}

TEST_F(WorkerProcessesTest, TheEndOfThisIsTheirs) {
  pid_t child = 0;
  {
    const WorkerProcesses processes(
        {shell("echo $$ >>" + file_ + "; trap '' TERM; exec sleep 1000")}, clock_);
    ASSERT_TRUE(until([&] { return !lines().empty(); }));
    child = std::stoi(lines().front());
  }
  EXPECT_EQ(kill(child, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

}  // namespace
}  // namespace penstock::cli
