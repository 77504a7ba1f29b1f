#include "cli/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

namespace penstock::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// A subcommand with a flag of each kind, and a file.
class ConfigFileTest : public testing::Test {
 protected:
  ConfigFileTest() : sub_(*app_.add_subcommand("serve")) {
    sub_.add_option("--port", port_)->check(CLI::Range(0, 65535))->envname("CONFIG_FILE_TEST_PORT");
    sub_.add_option("--api-key", keys_);
    sub_.add_option("--model", model_);
    sub_.add_flag("--exact", exact_);
  }
  ~ConfigFileTest() override {
    unsetenv("CONFIG_FILE_TEST_PORT");
    std::remove(path_.c_str());
  }

  /// Applies a file with this text after the command line; the message, or empty.
  std::string apply(const std::string& text, std::vector<std::string> arguments = {}) {
    std::ofstream(path_) << text;
    arguments.emplace_back("serve");
    app_.parse(std::move(arguments));  // CLI11 takes them in reverse
    const Result<void> applied = apply_config_file(sub_, path_);
    return applied ? "" : applied.error().message;
  }

  CLI::App app_;
  CLI::App& sub_;
  std::string path_ =
      testing::TempDir() + "config_file_test_" + std::to_string(::getpid()) + ".toml";
  int port_ = 1;
  std::vector<std::string> keys_;
  std::string model_;
  bool exact_ = false;
};

TEST_F(ConfigFileTest, SetsEveryKindOfOption) {
  EXPECT_EQ(apply("# a comment\nport = 8123\nmodel = \"a b.gguf\"\napi-key = [\"x\", \"y\"]\n"
                  "exact = true\n"),
            "");
  EXPECT_EQ(port_, 8123);
  EXPECT_EQ(model_, "a b.gguf");
  EXPECT_THAT(keys_, ElementsAre("x", "y"));
  EXPECT_TRUE(exact_);
}

TEST_F(ConfigFileTest, AFlagMayBeOff) {
  EXPECT_EQ(apply("exact = false\n"), "");
  EXPECT_FALSE(exact_);
}

TEST_F(ConfigFileTest, TakesASectionOfItsOwnName) {
  EXPECT_EQ(apply("[serve]\nport = 8123\n"), "");
  EXPECT_EQ(port_, 8123);
  EXPECT_THAT(apply("[server]\nport = 1\n"), HasSubstr("unknown section [server]"));
}

TEST_F(ConfigFileTest, TheCommandLineAndTheEnvironmentWin) {
  EXPECT_EQ(apply("port = 8123\n", {"7", "--port"}), "");
  EXPECT_EQ(port_, 7);
}

TEST_F(ConfigFileTest, TheEnvironmentWins) {
  setenv("CONFIG_FILE_TEST_PORT", "9", 1);
  EXPECT_EQ(apply("port = 8123\n"), "");
  EXPECT_EQ(port_, 9);
}

TEST_F(ConfigFileTest, AnUnknownKeyIsNamedWithASuggestion) {
  const std::string message = apply("prot = 8123\n");
  EXPECT_THAT(message, HasSubstr(path_ + ": unknown key prot (did you mean port?)"));
  EXPECT_EQ(port_, 1);
}

TEST_F(ConfigFileTest, AKeyMayBeGivenOnce) {
  EXPECT_THAT(apply("port = 1\nport = 2\n"), testing::AllOf(HasSubstr(path_), HasSubstr("--port")));
}

TEST_F(ConfigFileTest, ABadValueIsNamed) {
  EXPECT_THAT(apply("port = 99999\n"), testing::AllOf(HasSubstr(path_), HasSubstr("--port")));
  EXPECT_THAT(apply("port = \"many\"\n"), testing::AllOf(HasSubstr(path_), HasSubstr("--port")));
}

TEST_F(ConfigFileTest, AFileThatIsNotThereIsNamed) {
  EXPECT_THAT(apply_config_file(sub_, "/nowhere.toml").error().message, HasSubstr("nowhere.toml"));
}

}  // namespace
}  // namespace penstock::cli
