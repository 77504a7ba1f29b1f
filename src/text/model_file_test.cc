#include "text/model_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <vector>

namespace penstock::text {
namespace {

class ModelFileTest : public ::testing::Test {
 protected:
  ModelFileTest() { std::filesystem::create_directory(folder_); }
  ~ModelFileTest() override { std::filesystem::remove_all(folder_); }
  std::string write(const char* name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }

 private:
  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) / ("penstock-parts-" + std::to_string(getpid()));
};

TEST_F(ModelFileTest, AModelInSeveralFilesIsKnownByThemAll) {
  const std::string first = write("m-00001-of-00002.gguf", "GGUF first");
  EXPECT_EQ(fingerprint_of(first).error().code, Code::kNotFound);
  write("m-00002-of-00002.gguf", "GGUF second");
  const std::string before = fingerprint_of(first).value();
  write("m-00002-of-00002.gguf", "GGUF tuned!");
  EXPECT_NE(fingerprint_of(first).value(), before);
  const std::string whole = write("m-of-00002.gguf", "GGUF first");
  EXPECT_TRUE(fingerprint_of(whole).value().starts_with("10-"));
}

TEST_F(ModelFileTest, AChangedByteAnywhereIsAnotherModel) {
  std::string text(12 << 20, 'x');
  std::vector<std::string> seen{fingerprint_of(write("m.gguf", text)).value()};
  EXPECT_EQ(fingerprint_of(write("copy.gguf", text)).value(), seen.front());
  for (std::size_t at = 0; at < text.size(); at += (1 << 20) + 90'001) {
    text[at] = 'y';
    seen.push_back(fingerprint_of(write("m.gguf", text)).value());
  }
  EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), seen.size());
}

TEST_F(ModelFileTest, ReadingItIsHeardAndCanBeGivenUp) {
  const std::string path = write("m.gguf", std::string(3 << 20, 'x'));
  std::vector<float> heard;
  const auto hear = [&](float fraction) {
    heard.push_back(fraction);
    return true;
  };
  ASSERT_TRUE(fingerprint_of(path, hear).has_value());
  EXPECT_TRUE(std::ranges::is_sorted(heard));
  EXPECT_EQ(heard.back(), 1);
  EXPECT_EQ(fingerprint_of(path, [](float) { return false; }).error().code, Code::kCancelled);
}

}  // namespace
}  // namespace penstock::text
