#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace penstock::net {

/// What is wrong with the bytes a client sent, or with sending any. A value.
struct HttpFault {
  int status = 400;
  Code code = Code::kInvalidArgument;  // names type and code of the JSON body
  std::string_view message;            // a literal
};

/// The OpenAI-shaped body that tells a fault: {"error":{"message","type","param","code"}}.
[[nodiscard]] std::string to_json(const HttpFault& fault);

}  // namespace penstock::net
