#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace penstock::log {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

/// What goes to standard error at `level`, one line of each kind being logged.
std::string logged_at(Level level) {
  testing::internal::CaptureStderr();
  set_level(level);
  debug("d{}", 1);
  info("i{}", 2);
  warn("w{}", 3);
  error("e{}", 4);
  set_level(Level::kInfo);
  return testing::internal::GetCapturedStderr();
}

TEST(Log, ShowsItsLevelAndAbove) {
  const std::pair<Level, std::string> marks[] = {
      {Level::kDebug, "d1"}, {Level::kInfo, "i2"}, {Level::kWarn, "w3"}, {Level::kError, "e4"}};
  for (const auto& [level, unused] : marks) {
    const std::string lines = logged_at(level);
    for (const auto& [other, mark] : marks) {
      EXPECT_EQ(lines.find(mark) != std::string::npos, other >= level) << mark << " in " << lines;
    }
  }
  EXPECT_THAT(logged_at(Level::kOff), IsEmpty());
}

TEST(Log, KnowsItsLevelsByName) {
  EXPECT_EQ(parse_level("debug").value(), Level::kDebug);
  EXPECT_EQ(parse_level("info").value(), Level::kInfo);
  EXPECT_EQ(parse_level("warn").value(), Level::kWarn);
  EXPECT_EQ(parse_level("error").value(), Level::kError);
  EXPECT_EQ(parse_level("off").value(), Level::kOff);
  const auto unknown = parse_level("loud");
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().code, Code::kInvalidArgument);
  EXPECT_THAT(unknown.error().message, HasSubstr("\"loud\": expected debug, info"));
}

}  // namespace
}  // namespace penstock::log
