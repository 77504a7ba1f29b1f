#include "base/result.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <string>
#include <string_view>

namespace penstock {
namespace {

struct Expected {
  Code code;
  int http_status;
  FaultClass fault;
};

// What each code means to HTTP, and to breakers and retries. A code that is added to the enum is
// added here.
constexpr std::array kCodes = {
    Expected{Code::kInvalidArgument, 400, FaultClass::kClient},
    Expected{Code::kContextLength, 400, FaultClass::kClient},
    Expected{Code::kUnauthorized, 401, FaultClass::kClient},
    Expected{Code::kNotFound, 404, FaultClass::kClient},
    Expected{Code::kModelNotFound, 404, FaultClass::kClient},
    Expected{Code::kMethodNotAllowed, 405, FaultClass::kClient},
    Expected{Code::kTimeout, 408, FaultClass::kClient},
    Expected{Code::kPayloadTooLarge, 413, FaultClass::kClient},
    Expected{Code::kUnprocessable, 422, FaultClass::kClient},
    Expected{Code::kHeaderTooLarge, 431, FaultClass::kClient},
    Expected{Code::kOverloaded, 429, FaultClass::kOverload},
    Expected{Code::kInternal, 500, FaultClass::kWorker},
    Expected{Code::kUnimplemented, 501, FaultClass::kClient},
    Expected{Code::kUnavailable, 503, FaultClass::kOverload},
    Expected{Code::kDeadlineExceeded, 504, FaultClass::kWorker},
    Expected{Code::kCancelled, 499, FaultClass::kClient},
};

TEST(Result, EveryCodeHasAStatusAndAFault) {
  for (const Expected& expected : kCodes) {
    EXPECT_EQ(http_status(expected.code), expected.http_status);
    EXPECT_EQ(Error{expected.code}.fault(), expected.fault) << expected.http_status;
  }
}

TEST(Result, EveryCodeIsListedHere) {
  std::set<Code> listed;
  for (const Expected& expected : kCodes) listed.insert(expected.code);
  EXPECT_EQ(listed.size(), kCodes.size());
  EXPECT_EQ(listed.size(), static_cast<std::size_t>(Code::kCancelled) + 1);
}

TEST(Result, EveryCodeHasItsOwnName) {
  std::set<std::string_view> names;
  for (const Expected& expected : kCodes) {
    names.insert(openai_code(expected.code));
    EXPECT_FALSE(openai_type(expected.code).empty());
  }
  EXPECT_EQ(names.size(), kCodes.size());
  EXPECT_EQ(names.count(""), 0U);
}

TEST(Result, OurOwnFaultsAreServerErrors) {
  for (const Expected& expected : kCodes) {
    const bool is_ours = expected.http_status >= 500 && expected.http_status != 504;
    EXPECT_EQ(openai_type(expected.code) == "server_error", is_ours) << expected.http_status;
  }
}

TEST(Result, AnUnlistedCodeIsOurFault) {
  EXPECT_EQ(http_status(static_cast<Code>(1000)), 500);
  EXPECT_EQ(openai_type(static_cast<Code>(1000)), "server_error");
}

// H1: one client's bad requests must not open a breaker.
TEST(Result, H1_AClientsErrorIsNeverAWorkersFault) {
  for (const Expected& expected : kCodes) {
    if (expected.http_status >= 500) continue;
    EXPECT_NE(Error{expected.code}.fault(), FaultClass::kWorker) << expected.http_status;
  }
}

TEST(Result, FailCarriesWhatItIsGiven) {
  const Result<int> result = fail(Code::kNotFound, "no such model", "model");
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, Code::kNotFound);
  EXPECT_EQ(result.error().message, "no such model");
  EXPECT_EQ(result.error().param, "model");
  EXPECT_EQ(result.error().retry_after_s, 0);
  EXPECT_EQ((Result<int>{fail(Code::kInternal, "m")}.error().param), "");
  EXPECT_EQ((Result<int>{invalid("m")}.error().code), Code::kInvalidArgument);
  EXPECT_EQ(Result<int>{7}.value(), 7);
}

}  // namespace
}  // namespace penstock
