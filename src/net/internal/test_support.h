#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "net/http_server.h"
#include "net/loop.h"

// What the tests of this module share: a plain blocking socket, and ways to wait.

namespace penstock::net::test {

/// How long a test waits for what must happen. Reached only by a test that fails.
inline constexpr auto kPatience = std::chrono::seconds(60);

/// Waits until `condition` holds; false if it never does.
inline bool eventually(const std::function<bool()>& condition) {
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::yield();
  }
  return true;
}

/// Runs `task` on the loop and waits for it.
inline void run_on(Loop& loop, std::function<void()> task) {
  std::promise<void> done;
  loop.post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

/// Keeps the loop from running anything until destroyed, so that what happens meanwhile happens at
/// once in its eyes.
class Held final {
 public:
  explicit Held(Loop& loop) {
    loop.post([released = released_.get_future().share()] { released.wait(); });
  }
  ~Held() { released_.set_value(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  std::promise<void> released_;
};

struct Answer {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // decoded
  std::vector<std::string> chunks;             // if it came in chunks
  bool complete = false;
};

/// A blocking socket that gives up after kPatience instead of hanging the test.
class RawSocket final {
 public:
  RawSocket() = default;
  explicit RawSocket(int descriptor) : descriptor_(descriptor) { set_patience(); }
  RawSocket(RawSocket&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)), input_(std::move(other.input_)) {}
  RawSocket& operator=(RawSocket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    std::swap(input_, other.input_);
    return *this;
  }
  ~RawSocket() { close(); }

  static RawSocket connect(std::uint16_t port, int receive_buffer_bytes = 0) {
    RawSocket self(::socket(AF_INET, SOCK_STREAM, 0));
    if (receive_buffer_bytes > 0) {
      ::setsockopt(self.descriptor_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes,
                   sizeof receive_buffer_bytes);
    }
    const int on = 1;
    ::setsockopt(self.descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const sockaddr_in address = loopback(port);
    if (::connect(self.descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof address)) {
      self.close();
    }
    return self;
  }

  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  [[nodiscard]] bool open() const { return descriptor_ >= 0; }
  [[nodiscard]] int descriptor() const { return descriptor_; }

  /// False once the peer takes no more.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const auto sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  /// Receives once, into the input not yet taken. False at the end, on reset, or out of patience.
  bool receive() {
    char buffer[65536];
    const auto got = ::recv(descriptor_, buffer, sizeof buffer, 0);
    if (got <= 0) {
      timed_out_ = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
      EXPECT_FALSE(timed_out_) << "the peer sends nothing and does not close";
      return false;
    }
    input_.append(buffer, static_cast<std::size_t>(got));
    return true;
  }

  std::string read_exactly(std::size_t size_bytes) {
    while (input_.size() < size_bytes && receive()) {
    }
    return take(std::min(size_bytes, input_.size()));
  }

  std::string read_until(std::string_view end) {
    while (true) {
      const auto at = input_.find(end);
      if (at != std::string::npos) return take(at + end.size());
      if (!receive()) return take(input_.size());
    }
  }

  /// Everything until the peer closes (or resets).
  std::string read_to_end() {
    while (receive()) {
    }
    return take(input_.size());
  }

  /// True if the peer closes without another byte.
  bool at_end() { return input_.empty() && !receive() && !timed_out_; }

  Answer read_answer(bool to_head = false) {
    Answer answer;
    const std::string head = read_until("\r\n\r\n");
    if (!head.ends_with("\r\n\r\n") || !head.starts_with("HTTP/1.1 ")) return answer;
    parse_head(head, answer);
    if (to_head || answer.status == 204 || answer.status < 200) {
      answer.complete = true;
    } else if (answer.headers.contains("transfer-encoding")) {
      read_chunks(answer);
    } else if (const auto length = answer.headers.find("content-length");
               length != answer.headers.end()) {
      const auto size_bytes = std::stoul(length->second);
      answer.body = read_exactly(size_bytes);
      answer.complete = answer.body.size() == size_bytes;
    } else {
      answer.body = read_to_end();
      answer.complete = true;
    }
    return answer;
  }

  void shut_down_sending() const { ::shutdown(descriptor_, SHUT_WR); }

  /// Closes with a reset, not in an orderly way.
  void reset() {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close();
  }

  void close() {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  }

 private:
  void set_patience() const {
    const timeval patience{.tv_sec = kPatience.count(), .tv_usec = 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ::setsockopt(descriptor_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  }

  std::string take(std::size_t size_bytes) {
    std::string taken = input_.substr(0, size_bytes);
    input_.erase(0, size_bytes);
    return taken;
  }

  static void parse_head(std::string_view head, Answer& answer) {
    std::from_chars(head.data() + 9, head.data() + 12, answer.status);
    head.remove_prefix(head.find("\r\n") + 2);
    while (head != "\r\n") {
      const auto line = head.substr(0, head.find("\r\n"));
      head.remove_prefix(line.size() + 2);
      const auto colon = line.find(": ");
      std::string name(line.substr(0, colon));
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      answer.headers[name] = line.substr(colon + 2);
    }
  }

  void read_chunks(Answer& answer) {
    while (true) {
      const std::string line = read_until("\r\n");
      if (!line.ends_with("\r\n")) return;
      const auto size_bytes = std::stoul(line, nullptr, 16);
      const std::string chunk = read_exactly(size_bytes + 2);
      if (chunk.size() != size_bytes + 2 || !chunk.ends_with("\r\n")) return;
      if (size_bytes == 0) {
        answer.complete = true;
        return;
      }
      answer.chunks.push_back(chunk.substr(0, size_bytes));
      answer.body += answer.chunks.back();
    }
  }

  int descriptor_ = -1;
  bool timed_out_ = false;
  std::string input_;
};

/// A listening socket on an ephemeral port, for servers that behave as a test wants.
class RawListener final {
 public:
  RawListener() : descriptor_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = RawSocket::loopback(0);
    EXPECT_EQ(::bind(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(descriptor_, 64), 0);
    socklen_t size = sizeof address;
    ::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  ~RawListener() { ::close(descriptor_); }
  RawListener(const RawListener&) = delete;
  RawListener& operator=(const RawListener&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] RawSocket accept() const {
    return RawSocket(::accept(descriptor_, nullptr, nullptr));
  }

 private:
  int descriptor_;
  std::uint16_t port_ = 0;
};

/// A handler whose behaviour is a function.
class FunctionHandler final : public HttpHandler {
 public:
  using Function = std::function<void(Exchange&)>;
  explicit FunctionHandler(Function function) : function_(std::move(function)) {}
  void handle(Exchange& exchange) override { function_(exchange); }

 private:
  Function function_;
};

/// A server before `handler`, which outlives it, on a free port; with one loop, unless the options
/// say how many. Null, and the test has failed, if it does not start.
inline std::unique_ptr<HttpServer> start_for_test(HttpHandler& handler, HttpServerOptions options) {
  options.port = 0;
  if (options.loops == 0) options.loops = 1;
  auto started = start_http_server(options, handler);
  if (started) return std::move(*started);
  ADD_FAILURE() << started.error().message;
  return nullptr;
}

}  // namespace penstock::net::test
