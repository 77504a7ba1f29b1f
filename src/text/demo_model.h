#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "text/model_file.h"

namespace penstock::text {

/// The demo model for tests that need a real vocabulary, opened once a process; null (and the test
/// skips itself) where `make test` has not fetched it.
inline std::shared_ptr<const ModelFile> demo_vocabulary() {
  static const std::shared_ptr<const ModelFile> model = []() -> std::shared_ptr<const ModelFile> {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment
    const char* path = std::getenv("PENSTOCK_DEMO_MODEL");
    if (path == nullptr) return nullptr;
    Result<std::shared_ptr<const ModelFile>> opened =
        ModelFile::open({.path = path, .weights = false});
    EXPECT_TRUE(opened.has_value()) << (opened ? "" : opened.error().message);
    return opened ? *opened : nullptr;
  }();
  return model;
}

}  // namespace penstock::text

#define PENSTOCK_NEED_DEMO_MODEL()                    \
  if (::penstock::text::demo_vocabulary() == nullptr) \
  GTEST_SKIP() << "PENSTOCK_DEMO_MODEL names no GGUF file; make test fetches it"
