#include "cli/read_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace penstock::cli {
namespace {

TEST(ReadFile, GivesAllBytesAndSaysWhatCannotBeRead) {
  const std::string folder = ::testing::TempDir();
  const std::string path = folder + "penstock-read-file";
  for (const std::string& bytes : {std::string(), std::string("a\0b\r\n\n", 6)}) {
    std::ofstream(path) << bytes;
    EXPECT_EQ(read_file(path).value(), bytes);
  }
  EXPECT_EQ(read_file(folder).error().code, Code::kNotFound);
  EXPECT_EQ(read_file("/no/such").error().message, "cannot read /no/such");
}

}  // namespace
}  // namespace penstock::cli
