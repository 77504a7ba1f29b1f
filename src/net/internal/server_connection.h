#pragma once

#include <boost/smart_ptr/intrusive_ref_counter.hpp>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "net/http_server.h"
#include "net/internal/asio_loop.h"
#include "net/internal/fault.h"
#include "net/internal/input_buffer.h"
#include "net/internal/output_queue.h"
#include "net/internal/request_parser.h"
#include "net/internal/server_loop.h"

namespace penstock::net {

/// One client's connection: reads requests, hands them out one at a time as itself in the role of
/// Exchange, and sends the answers in order. Loop thread only.
///
/// Life: created by ServerLoop, which holds one reference until close(); each asynchronous
/// operation under way holds another, so the object outlives every callback.
///
/// Invariants:
/// - A read is under way in every state but kClosed, unless paused_ or client_shut_: that is how a
///   client's leaving is noticed at once. While paused_ each tick asks the socket instead.
/// - A request is not begun before every byte of the answer before it is with the kernel, so what
///   is unsent belongs to one answer.
/// - The handler is called from process_input() only, and never from inside an Exchange method.
class ServerConnection final
    : public Exchange,
      public boost::intrusive_ref_counter<ServerConnection, boost::thread_unsafe_counter> {
 public:
  ServerConnection(ServerLoop& server, TcpSocket socket);
  ~ServerConnection() override;

  // ServerLoop's side.
  void start();          // serves
  void start_refused();  // answers 503 and closes
  void on_deadline(TimePoint now);
  void drain();  // closes if idle
  void stop();   // closes, telling the handler
  [[nodiscard]] std::size_t slot() const noexcept { return slot_; }
  void set_slot(std::size_t slot) noexcept { slot_ = slot; }

  // Exchange.
  [[nodiscard]] HttpRequest& request() noexcept override { return request_; }
  [[nodiscard]] Loop& loop() noexcept override { return server_.loop(); }
  void own(std::unique_ptr<Transaction> transaction) override;
  void respond(int status, std::string_view content_type, std::string_view body,
               std::initializer_list<HttpHeader> headers) override;
  void start_stream(std::string_view content_type,
                    std::initializer_list<HttpHeader> headers) override;
  void write(std::string_view bytes) override;
  void flush() override;
  [[nodiscard]] bool writable() const noexcept override;
  [[nodiscard]] std::size_t unsent_bytes() const noexcept override;
  void finish() override;

 private:
  enum class State : std::uint8_t {
    kIdle,       // no byte of a request yet
    kHeader,     // some of its header
    kBody,       // some of its body
    kExchange,   // the handler owes an answer
    kFlushing,   // the answer is complete, not all of it sent
    kLingering,  // our side is shut; what the client still sends is thrown away
    kClosed,
  };

  // Input (server_connection.cc).
  void read_more();
  void on_read(ErrorCode failure, std::size_t size_bytes);
  void on_read_failed(bool end_of_file);
  void process_input();
  [[nodiscard]] bool process_step();
  void send_continue();
  void dispatch();
  void name_request();
  void resume_soon();
  [[nodiscard]] bool client_has_left();
  [[nodiscard]] bool charge_body();
  void release_body();

  // Ends.
  void client_gone();
  void reject(const HttpFault& fault, std::initializer_list<HttpHeader> headers);
  void on_answer_sent();
  void count_as_ended();
  void linger();
  void close();
  void watch();  // sets the deadline of an answer under way

  // Output (server_exchange.cc).
  void send(std::initializer_list<std::string_view> parts);
  std::size_t offer(std::span<const asio::const_buffer> parts, std::size_t total_bytes,
                    ErrorCode& failure);
  void keep_unsent(std::initializer_list<std::string_view> parts, std::size_t sent_bytes);
  void wait_until_writable(bool progressed);
  void on_socket_writable(ErrorCode failure);
  void drop_soon();
  void flush_stream(bool last);
  void end_exchange();
  [[nodiscard]] bool keeps_alive() const noexcept;

  ServerLoop& server_;
  TcpSocket socket_;
  std::size_t slot_ = 0;  // in the server's tables

  State state_ = State::kIdle;
  bool refused_ = false;     // not counted among the open connections
  bool processing_ = false;  // process_input() is on the stack
  bool read_pending_ = false;
  bool read_into_body_ = false;  // what the pending read fills, if not input_
  bool paused_ = false;          // input_ is full while an answer is under way
  bool resume_pending_ = false;
  bool client_shut_ = false;  // end of input seen while the last answer was being sent

  bool blocked_ = false;      // the socket took less than offered; a wait is under way
  bool broken_ = false;       // sending failed, or too much is unsent: dropped in the next turn
  bool counted_ = false;      // among the open exchanges
  bool close_after_ = false;  // the answer said Connection: close
  bool streaming_ = false;
  bool chunked_ = false;
  bool was_unwritable_ = false;  // on_writable() is owed

  RequestParser parser_;
  HttpRequest request_;
  std::size_t charged_bytes_ = 0;  // to the server's budget, for request_.body
  std::string peer_;
  std::unique_ptr<Transaction> transaction_;
  OutputQueue unsent_;  // not blocked_: a head that waits for the first flush
  std::string chunk_;   // written since the last flush
  TimePoint stall_deadline_ = TimePoint::max();  // max: nothing is stalled
  InputBuffer input_;
};

}  // namespace penstock::net
