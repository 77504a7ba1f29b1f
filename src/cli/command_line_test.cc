#include "cli/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

namespace penstock::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// A program whose subcommand has a flag of each kind, and a file.
class CommandLineTest : public testing::Test {
 public:
  CommandLineTest() : serve_(line_.add_command("serve", "Serves", "COMMAND_LINE_TEST_")) {
    serve_.add_config_file();
    serve_.add("--port", port_, "TCP port").range(0, 65535);
    serve_.add("--rate", rate_, "Requests/s").range(0.0, 10.0);
    serve_.add("--api-key", keys_, "Keys");
    serve_.add("--model", model_, "Model");
    serve_.add("--kind", kind_, "Kind").one_of({"a", "b"});
    serve_.add_switch("--exact", exact_, "Exact");
    serve_.on_run([] { return 7; });
    line_.add_command("worker", "Works", "COMMAND_LINE_TEST_").on_run([] { return 8; });
  }
  ~CommandLineTest() override {
    unsetenv("COMMAND_LINE_TEST_PORT");  // NOLINT(concurrency-mt-unsafe): one thread
    std::remove(path_.c_str());
  }

 protected:
  /// What is wrong with these arguments, or nothing.
  std::string parse(const std::vector<std::string>& arguments) {
    const auto run = line_.parse(arguments);
    return run ? "" : run.error().message;
  }
  /// `serve` with a file of this text, and arguments.
  std::string apply(const std::string& text, std::vector<std::string> arguments = {}) {
    std::ofstream(path_) << text;
    arguments.insert(arguments.begin(), {"serve", "--config", path_});
    return parse(arguments);
  }

  CommandLine line_{"penstock", "Tests", "1.2"};
  Command& serve_;
  std::string path_ =
      testing::TempDir() + "command_line_test_" + std::to_string(::getpid()) + ".toml";
  std::uint16_t port_ = 1;
  double rate_ = 1;
  std::vector<std::string> keys_;
  std::string model_;
  std::string kind_ = "a";
  bool exact_ = false;
};

TEST_F(CommandLineTest, GivesWhatIsToBeRun) {
  const auto run = line_.parse({"serve", "--port", "8123", "--kind=b"});
  ASSERT_TRUE(run);
  EXPECT_EQ((*run)(), 7);
  EXPECT_EQ(port_, 8123);
  EXPECT_EQ(kind_, "b");
  EXPECT_EQ((*line_.parse({"worker"}))(), 8);
}

TEST_F(CommandLineTest, HelpAndVersionAreRunToo) {
  const auto printed = [&](const std::vector<std::string>& arguments) {
    const auto run = line_.parse(arguments);
    testing::internal::CaptureStdout();
    EXPECT_TRUE(run && (*run)() == 0);
    std::fflush(stdout);
    return testing::internal::GetCapturedStdout();
  };
  EXPECT_EQ(printed({"--version"}), "1.2\n");
  EXPECT_THAT(printed({"--help"}), HasSubstr("Serves"));
  EXPECT_THAT(printed({"serve", "--help"}),
              AllOf(HasSubstr("TCP port"), HasSubstr("COMMAND_LINE_TEST_API_KEY")));
}

TEST_F(CommandLineTest, WhatIsWrongIsSaidWithWhatMayHaveBeenMeant) {
  EXPECT_THAT(parse({"serv"}), HasSubstr("there is no subcommand serv (did you mean serve?)"));
  EXPECT_THAT(parse({"serve", "--prot=1"}), HasSubstr("(did you mean --port?)"));
  EXPECT_THAT(parse({"serve", "--port", "65536"}), HasSubstr("--port"));
  EXPECT_THAT(parse({"serve", "--rate", "10.5"}), HasSubstr("--rate"));
  EXPECT_THAT(parse({"serve", "--rate", "nan"}), HasSubstr("nan is not a number"));
  EXPECT_THAT(parse({"serve", "--kind", "c"}), HasSubstr("--kind"));
  EXPECT_THAT(parse({}), HasSubstr("penstock: "));
}

TEST_F(CommandLineTest, SetsEveryKindOfOption) {
  EXPECT_EQ(apply("# a comment\nport = 8123\nmodel = \"a b.gguf\"\napi-key = [\"x\", \"y\"]\n"
                  "exact = true\n"),
            "");
  EXPECT_EQ(port_, 8123);
  EXPECT_EQ(model_, "a b.gguf");
  EXPECT_THAT(keys_, ElementsAre("x", "y"));
  EXPECT_TRUE(exact_);
}

TEST_F(CommandLineTest, AFlagMayBeOff) {
  EXPECT_EQ(apply("exact = false\n"), "");
  EXPECT_FALSE(exact_);
}

TEST_F(CommandLineTest, TakesASectionOfItsOwnName) {
  EXPECT_EQ(apply("[serve]\nport = 8123\n"), "");
  EXPECT_EQ(port_, 8123);
  EXPECT_THAT(apply("[server]\nport = 1\n"), HasSubstr("unknown section [server]"));
}

TEST_F(CommandLineTest, TheCommandLineAndTheEnvironmentWin) {
  EXPECT_EQ(apply("port = 8123\n", {"--port", "7"}), "");
  EXPECT_EQ(port_, 7);
}

TEST_F(CommandLineTest, TheEnvironmentWins) {
  setenv("COMMAND_LINE_TEST_PORT", "9", 1);  // NOLINT(concurrency-mt-unsafe): one thread
  EXPECT_EQ(apply("port = 8123\n"), "");
  EXPECT_EQ(port_, 9);
}

TEST_F(CommandLineTest, AnUnknownKeyIsNamedWithASuggestion) {
  const std::string message = apply("prot = 8123\n");
  EXPECT_THAT(message, HasSubstr(path_ + ": unknown key prot (did you mean port?)"));
  EXPECT_EQ(port_, 1);
}

TEST_F(CommandLineTest, AKeyMayBeGivenOnce) {
  EXPECT_THAT(apply("port = 1\nport = 2\n"), AllOf(HasSubstr(path_), HasSubstr("--port")));
}

TEST_F(CommandLineTest, ABadValueIsNamed) {
  EXPECT_THAT(apply("port = 99999\n"), AllOf(HasSubstr(path_), HasSubstr("--port")));
  EXPECT_THAT(apply("port = \"many\"\n"), AllOf(HasSubstr(path_), HasSubstr("--port")));
}

TEST_F(CommandLineTest, WhatExcludesEachOtherDoesSoInAFileToo) {
  std::uint32_t many = 0;
  serve_.add("--many", many, "Instead of --port").excludes(serve_.add("--few", many, "Few"));
  EXPECT_THAT(apply("many = 2\n", {"--few", "1"}), HasSubstr("excludes"));
  EXPECT_EQ(apply("many = 2\n"), "");
}

TEST_F(CommandLineTest, AFileThatIsNotThereIsNamed) {
  EXPECT_THAT(parse({"serve", "--config", "/nowhere.toml"}), HasSubstr("nowhere.toml"));
}

}  // namespace
}  // namespace penstock::cli
