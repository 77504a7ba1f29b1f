#include "net/internal/fault.h"

#include <fmt/format.h>

namespace penstock::net {

std::string to_json(const HttpFault& fault) {
  // Messages are literals of this module without quotes or backslashes: nothing to escape.
  return fmt::format(R"({{"error":{{"message":"{}","type":"{}","param":null,"code":"{}"}}}})",
                     fault.message, openai_type(fault.code), openai_code(fault.code));
}

}  // namespace penstock::net
