#include "text/model_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace penstock::text {
namespace {

TEST(ModelFileTest, AModelInSeveralFilesIsKnownByThemAll) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / ("penstock-parts-" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  };
  const std::string first = write("m-00001-of-00002.gguf", "GGUF first");
  EXPECT_EQ(fingerprint_of(first).error().code, Code::kNotFound);
  write("m-00002-of-00002.gguf", "GGUF second");
  const std::string before = fingerprint_of(first).value();
  write("m-00002-of-00002.gguf", "GGUF tuned!");
  EXPECT_NE(fingerprint_of(first).value(), before);
  const std::string whole = write("m-of-00002.gguf", "GGUF first");
  EXPECT_TRUE(fingerprint_of(whole).value().starts_with("10-"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace penstock::text
