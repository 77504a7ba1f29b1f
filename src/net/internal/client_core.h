#pragma once

#include <boost/intrusive_ptr.hpp>
#include <boost/smart_ptr/intrusive_ref_counter.hpp>
#include <cstddef>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "net/http_client.h"
#include "net/internal/asio_loop.h"
#include "net/internal/input_buffer.h"
#include "net/internal/response_parser.h"

namespace penstock::net {

class ClientCall;
class ClientConnection;

/// What the calls and connections of one HttpClient share. Loop thread only. Callbacks under way
/// keep it alive past the client; shut_down() makes it inert.
class ClientCore final
    : public boost::intrusive_ref_counter<ClientCore, boost::thread_unsafe_counter> {
 public:
  ClientCore(AsioLoop& loop, Url server, std::size_t idle_connections_max);
  ~ClientCore();

  [[nodiscard]] AsioLoop& loop() noexcept { return loop_; }
  [[nodiscard]] const std::string& authority() const noexcept { return authority_; }

  void add(ClientCall& call) { calls_.insert(&call); }
  void forget(ClientCall& call) { calls_.erase(&call); }

  /// Gives the call a connection: an idle one if there is and `may_reuse`, else a new one.
  void start(ClientCall& call, bool may_reuse);

  /// Takes back a connection that could serve again, if there is room for it.
  void put_idle(ClientConnection& connection);
  void drop_idle(ClientConnection& connection);

  /// Calls connection.on_resolved() when the server's addresses are known or cannot be.
  void resolve(boost::intrusive_ptr<ClientConnection> connection);
  [[nodiscard]] const std::vector<asio::ip::tcp::endpoint>& endpoints() const noexcept {
    return endpoints_;
  }
  void forget_endpoints();  // none answers: the name may mean others by now

  void shut_down();

 private:
  void on_resolved(ErrorCode failure, std::vector<asio::ip::tcp::endpoint> endpoints);

  AsioLoop& loop_;
  const Url server_;
  const std::string authority_;  // host:port as the Host header wants it
  const std::size_t idle_connections_max_;
  asio::ip::basic_resolver<asio::ip::tcp, LoopExecutor> resolver_;
  bool is_shut_down_ = false;
  bool resolving_ = false;
  std::vector<asio::ip::tcp::endpoint> endpoints_;
  std::vector<boost::intrusive_ptr<ClientConnection>> waiting_;  // for endpoints_
  std::vector<boost::intrusive_ptr<ClientConnection>> idle_;     // the most recently used last
  std::unordered_set<ClientCall*> calls_;                        // not done
};

/// One call; the handle its caller holds. Loop thread only.
class ClientCall final : public HttpCallHandle {
 public:
  ClientCall(boost::intrusive_ptr<ClientCore> core, HttpCall call, HttpCallListener& listener);
  ~ClientCall() override { abandon(); }
  ClientCall(const ClientCall&) = delete;
  ClientCall& operator=(const ClientCall&) = delete;

  void start();
  void abandon();  // ends it without a word

  // For its connection.
  [[nodiscard]] const HttpCall& what() const noexcept { return call_; }
  [[nodiscard]] HttpCallListener& listener() noexcept { return *listener_; }
  void set_connection(ClientConnection* connection);
  void retry();
  [[nodiscard]] bool may_retry() const noexcept { return !retried_; }
  void finish(Result<void> outcome);  // `this` may be gone when it returns

 private:
  boost::intrusive_ptr<ClientCore> core_;
  HttpCall call_;
  HttpCallListener* listener_;  // null: done or abandoned
  std::unique_ptr<Loop::Timer> timer_;
  boost::intrusive_ptr<ClientConnection> connection_;
  bool retried_ = false;
};

/// One connection: serves one call at a time, then waits in the pool. Loop thread only. Each
/// operation under way holds a reference.
///
/// Invariant: once connected a read is always under way until close(), so an idle connection that
/// the server closes leaves the pool at once.
class ClientConnection final
    : public ResponseSink,
      public boost::intrusive_ref_counter<ClientConnection, boost::thread_unsafe_counter> {
 public:
  explicit ClientConnection(boost::intrusive_ptr<ClientCore> core);
  ~ClientConnection() override;

  void connect(ClientCall& call);
  void reuse(ClientCall& call);
  void on_resolved(ErrorCode failure);
  void abandon();  // its call is not to be heard of again
  void close();

 private:
  [[nodiscard]] bool on_head(int status) override;
  [[nodiscard]] bool on_body_piece(std::string_view bytes) override;

  void connect_next(std::size_t index);
  void on_connected(std::size_t index, ErrorCode failure);
  void begin();
  void send_more();
  void read_more();
  void on_read(ErrorCode failure, std::size_t size_bytes);
  void on_end(ErrorCode failure);
  void settle();
  void complete();
  void fail_call(std::string message);
  [[nodiscard]] ClientCall& release_call();

  boost::intrusive_ptr<ClientCore> core_;
  TcpSocket socket_;
  ClientCall* call_ = nullptr;  // null: idle, or abandoned
  bool reused_ = false;
  bool closed_ = false;
  std::string head_;            // of the request
  std::size_t sent_bytes_ = 0;  // of head and body together
  bool send_pending_ = false;
  ResponseParser parser_;
  InputBuffer input_;
};

}  // namespace penstock::net
