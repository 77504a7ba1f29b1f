#include "base/result.h"

#include <array>
#include <system_error>
#include <utility>

namespace penstock {
namespace {

struct Row {
  Code code;
  int http_status;
  std::string_view type;
  std::string_view name;
};

constexpr std::array kRows = {
    Row{Code::kInvalidArgument, 400, "invalid_request_error", "invalid_value"},
    Row{Code::kContextLength, 400, "invalid_request_error", "context_length_exceeded"},
    Row{Code::kUnauthorized, 401, "authentication_error", "invalid_api_key"},
    Row{Code::kNotFound, 404, "not_found_error", "not_found"},
    Row{Code::kModelNotFound, 404, "invalid_request_error", "model_not_found"},
    Row{Code::kMethodNotAllowed, 405, "invalid_request_error", "method_not_allowed"},
    Row{Code::kTimeout, 408, "timeout_error", "request_timeout"},
    Row{Code::kPayloadTooLarge, 413, "invalid_request_error", "payload_too_large"},
    Row{Code::kUnprocessable, 422, "invalid_request_error", "unprocessable"},
    Row{Code::kHeaderTooLarge, 431, "invalid_request_error", "header_too_large"},
    Row{Code::kOverloaded, 429, "rate_limit_error", "overloaded"},
    Row{Code::kInternal, 500, "server_error", "internal_error"},
    Row{Code::kUnimplemented, 501, "server_error", "unimplemented"},
    Row{Code::kUnavailable, 503, "server_error", "unavailable"},
    Row{Code::kDeadlineExceeded, 504, "timeout_error", "deadline_exceeded"},
    Row{Code::kCancelled, 499, "cancelled", "client_closed_request"},
};

const Row& row(Code code) noexcept {
  for (const Row& r : kRows) {
    if (r.code == code) return r;
  }
  return row(Code::kInternal);  // an unlisted code is our own fault
}

}  // namespace

FaultClass Error::fault() const noexcept {
  switch (code) {
    case Code::kOverloaded:
    case Code::kUnavailable: return FaultClass::kOverload;
    case Code::kInternal:
    case Code::kDeadlineExceeded: return FaultClass::kWorker;
    default: return FaultClass::kClient;
  }
}

std::unexpected<Error> fail(Code code, std::string message, std::string param) {
  return std::unexpected(Error{code, std::move(message), std::move(param), 0});
}

std::unexpected<Error> invalid(std::string message) {
  return fail(Code::kInvalidArgument, std::move(message));
}

std::string errno_text(int error) { return std::generic_category().message(error); }

int http_status(Code code) noexcept { return row(code).http_status; }
std::string_view openai_type(Code code) noexcept { return row(code).type; }
std::string_view openai_code(Code code) noexcept { return row(code).name; }

}  // namespace penstock
