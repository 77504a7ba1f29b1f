#pragma once

#include <expected>
#include <string>
#include <string_view>

namespace penstock {

/// Why something failed, in the caller's terms. One table (`http_status`) maps a code to HTTP;
/// gRPC gets its own beside it.
enum class Code {
  kInvalidArgument,   // the request is malformed or asks for something that cannot be: 400
  kContextLength,     // the prompt is longer than the model takes: 400
  kUnauthorized,      // 401
  kNotFound,          // unknown path or object: 404
  kModelNotFound,     // no such model is served: 404
  kMethodNotAllowed,  // 405
  kTimeout,           // the peer was too slow to send its request: 408
  kPayloadTooLarge,   // 413
  kUnprocessable,     // well-formed, but this model cannot do it: 422
  kHeaderTooLarge,    // 431
  kOverloaded,        // a bounded queue is full; retry later: 429
  kInternal,          // our fault: 500
  kUnimplemented,     // 501
  kUnavailable,       // draining, or no worker can serve: 503
  kDeadlineExceeded,  // the request's own deadline passed: 504
  kCancelled,         // the client left; nobody reads the answer: 499
};

/// A failure is one of these; only `kWorker` and `kNetwork` may feed breakers and retries.
enum class FaultClass { kClient, kOverload, kWorker, kNetwork };

/// The outcome of what could not be done. A value: copy it freely.
struct Error {
  Code code = Code::kInternal;
  std::string message;  // for the caller: says what is wrong and what would be right
  std::string
      param;  // the request field at fault as the client wrote it ("messages[0].role"), or empty
  int retry_after_s = 0;  // > 0: sent as Retry-After

  [[nodiscard]] FaultClass fault() const noexcept;
};

template <class T>
using Result = std::expected<T, Error>;

/// Shorthand for `return fail(Code::kInvalidArgument, "...", "n");`.
[[nodiscard]] std::unexpected<Error> fail(Code code, std::string message, std::string param = {});

/// Shorthand for `fail(Code::kInvalidArgument, ...)`.
[[nodiscard]] std::unexpected<Error> invalid(std::string message);

/// "No such file or directory", of an errno. Unlike strerror, any thread may ask.
[[nodiscard]] std::string errno_text(int error);

/// HTTP status of a code (the table above). 499 is never put on the wire.
[[nodiscard]] int http_status(Code code) noexcept;

/// OpenAI's `error.type` and `error.code` for a code: ("invalid_request_error", "model_not_found").
[[nodiscard]] std::string_view openai_type(Code code) noexcept;
[[nodiscard]] std::string_view openai_code(Code code) noexcept;

}  // namespace penstock
