#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "net/loop.h"

namespace penstock::net {

struct HttpServerOptions {
  std::string address = "127.0.0.1";
  std::uint16_t port = 8000;                 // 0: the system picks; see HttpServer::port()
  std::size_t loops = 0;                     // 0: one a core
  std::size_t connections_max = 16384;       // above: accepted, answered 503, closed
  std::size_t header_bytes_max = 32 * 1024;  // request line + headers: 431
  std::size_t body_bytes_max =
      64 * 1024 * 1024;  // 413, told before the body is read if it is declared
  // Of all request bodies above 64 KiB together, being received or answered; above: 503.
  std::size_t bodies_bytes_max = std::size_t{1} << 30;
  std::size_t unsent_bytes_high = 256 * 1024;       // Exchange::writable() is false from here
  std::size_t unsent_bytes_low = 64 * 1024;         // Transaction::on_writable() below this
  std::size_t stream_bytes_max = 16 * 1024 * 1024;  // unsent of one stream; above: client gone
  Nanos header_timeout = std::chrono::seconds(10);  // from first byte to end of headers: 408
  Nanos body_timeout = std::chrono::seconds(60);    // whole body: 408
  Nanos idle_timeout = std::chrono::seconds(75);    // keep-alive without a request: closed
  Nanos write_stall_timeout =
      std::chrono::seconds(30);  // no byte accepted by the peer: client gone
  std::string answer_headers;    // whole lines that every answer carries: "Vary: Origin\r\n"
};

/// A parsed request. Views point into it and live as long as it does.
struct HttpRequest {
  enum class Method : std::uint8_t { kGet, kHead, kPost, kPut, kDelete, kOptions, kPatch, kOther };
  Method method = Method::kOther;
  std::string target;  // as sent, at most header_bytes_max
  std::string body;    // decoded; capacity exceeds size by kBodyPaddingBytes
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case, in order
  std::string peer;                                          // "127.0.0.1:51234"
  /// What the answer carries as X-Request-Id. The client's own if that is 1 to kIdBytesMax
  /// printable characters; else one made up ("req-" and 16 hex digits), which the handler may
  /// change.
  std::string id;
  static constexpr std::size_t kIdBytesMax = 128;

  [[nodiscard]] std::string_view path() const noexcept;   // up to '?', without scheme and host
  [[nodiscard]] std::string_view query() const noexcept;  // after '?', or empty
  [[nodiscard]] std::string_view header(
      std::string_view lower_case_name) const noexcept;  // or empty
};

/// Readable, zeroed bytes that follow every HttpRequest::body (simdjson reads past the end).
inline constexpr std::size_t kBodyPaddingBytes = 64;

struct HttpHeader {
  std::string_view name;
  std::string_view value;
};

class Exchange;

/// What a handler keeps while an answer is not finished. The exchange owns it and destroys it when
/// the answer is complete or can no longer be: the destructor releases everything the request
/// holds. respond() and finish() destroy it before they return, so a transaction that calls them
/// must not touch itself afterwards. Loop thread only.
class Transaction {
 public:
  virtual ~Transaction() = default;
  /// The client left (closed, reset, half-closed, or accepted nothing for write_stall_timeout) or
  /// the server stops by force. Called at most once and never after the answer finished; the
  /// transaction is destroyed right after.
  virtual void on_client_gone() = 0;
  /// Unsent bytes fell below unsent_bytes_low after writable() was false.
  virtual void on_writable() {}
};

/// One request and its answer on one connection. Loop thread only. Exactly one of respond() or
/// start_stream() ... finish() ends it. Owned by the connection; references die with the answer, so
/// a handler that answers after handle() returned must own() a transaction to hear of that.
/// No call comes back into the handler from inside a method here, except ~Transaction when the
/// answer ends; a client found gone while sending is told in a later turn of the loop. Inside
/// on_client_gone() and ~Transaction only request() is useful: the rest does nothing.
class Exchange {
 public:
  virtual ~Exchange() = default;

  [[nodiscard]] virtual HttpRequest& request() noexcept = 0;
  [[nodiscard]] virtual Loop& loop() noexcept = 0;

  /// Hands over the state that must live until the answer ends. Call at most once, before ending.
  virtual void own(std::unique_ptr<Transaction> transaction) = 0;

  /// Whole answer: adds Content-Length, Date-free minimal headers, and keeps the connection open
  /// if the client asked for it. Ends the exchange (and destroys the transaction). `body` may be
  /// part of the request. Control characters in header values are sent as spaces.
  virtual void respond(int status, std::string_view content_type, std::string_view body,
                       std::initializer_list<HttpHeader> headers = {}) = 0;

  /// 200 with chunked transfer coding (or close-delimited for HTTP/1.0), e.g. "text/event-stream".
  /// Adds Cache-Control: no-cache and X-Accel-Buffering: no. Nothing is sent before flush().
  virtual void start_stream(std::string_view content_type,
                            std::initializer_list<HttpHeader> headers = {}) = 0;

  /// Appends to what will be sent; each flush() sends what was written since as one chunk, from
  /// inside the call if the socket takes it. Above stream_bytes_max the client counts as gone.
  virtual void write(std::string_view bytes) = 0;
  virtual void flush() = 0;
  [[nodiscard]] virtual bool writable() const noexcept = 0;  // unsent < unsent_bytes_high
  [[nodiscard]] virtual std::size_t unsent_bytes() const noexcept = 0;

  /// Ends a stream: flushes, sends the terminating chunk, ends the exchange.
  virtual void finish() = 0;
};

/// Where requests go. One object serves all loops at once, so it must be thread safe; each call
/// comes on the exchange's loop. A handler may answer inside the call or later.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  virtual void handle(Exchange& exchange) = 0;
};

/// What the server itself answers without asking the handler.
inline constexpr std::array<int, 6> kRejections = {400, 408, 413, 431, 503, 505};

struct HttpServerStats {  // totals over all loops, read without stopping them
  std::uint64_t connections_open = 0;
  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_refused = 0;  // over connections_max
  std::uint64_t requests = 0;
  std::uint64_t bad_requests = 0;  // answered by the server itself, in all
  std::array<std::uint64_t, kRejections.size()> rejected{};  // and by status
  std::uint64_t clients_gone = 0;
  std::uint64_t exchanges_open = 0;  // answers not complete, or not all of them sent
  std::size_t bodies_bytes = 0;      // of HttpServerOptions::bodies_bytes_max, taken now
  std::size_t bodies_bytes_max = 0;
  Nanos loop_lag_max{};  // the latest a loop's tick ever came: one turn kept the loop at least so
                         // long
};

/// HTTP/1.1 server: one event loop a core, SO_REUSEPORT, TCP_NODELAY, keep-alive and pipelining
/// (answers in order; at most header_bytes_max of a next request is read while one is answered).
/// Errors it answers itself are OpenAI-shaped JSON, with an X-Request-Id as well. Timeouts are kept
/// to about half a second. A client that closes its sending side before its answer is complete
/// counts as gone. Thread: create, stop and destroy on one thread, which is none of the loops.
class HttpServer {
 public:
  virtual ~HttpServer() = default;

  [[nodiscard]] virtual std::uint16_t port() const noexcept = 0;
  [[nodiscard]] virtual std::size_t loop_count() const noexcept = 0;
  [[nodiscard]] virtual Loop& loop(std::size_t index) noexcept = 0;
  [[nodiscard]] virtual HttpServerStats stats() const = 0;

  /// From now on answers carry Connection: close and idle connections are closed; new connections
  /// are still accepted (the handler says 503).
  virtual void drain() = 0;
  /// Ends every exchange (on_client_gone) and joins the loops. Idempotent. The loops stay valid to
  /// post() to until the server is destroyed, but run nothing more.
  virtual void stop() = 0;
};

/// Whether this machine has `options.address`: binds it for a moment, with any free port. Fails as
/// start_http_server() does.
Result<void> check_address(const HttpServerOptions& options);

/// Binds, starts the loops and accepts. Fails with a message that names the address and the
/// remedy (port taken, not permitted, not this machine's address).
Result<std::unique_ptr<HttpServer>> start_http_server(const HttpServerOptions& options,
                                                      HttpHandler& handler);

}  // namespace penstock::net
