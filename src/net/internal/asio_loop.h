#pragma once

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>

#include "base/clock.h"
#include "net/loop.h"

namespace penstock::net {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;

/// Sockets name the io_context's own executor: the type-erased default costs an indirect call or
/// two on each operation.
using LoopExecutor = asio::io_context::executor_type;
using TcpSocket = asio::basic_stream_socket<asio::ip::tcp, LoopExecutor>;
using TcpAcceptor = asio::basic_socket_acceptor<asio::ip::tcp, LoopExecutor>;
using LoopTimer =
    asio::basic_waitable_timer<std::chrono::steady_clock,
                               asio::wait_traits<std::chrono::steady_clock>, LoopExecutor>;

/// The one implementation of Loop: an io_context run by one thread.
///
/// Timers lie in a map by due time; one kernel timer is armed for the earliest. A timer that is
/// cancelled costs no system call, and one whose moment has come cannot fire once destroyed.
class AsioLoop final : public Loop {
 public:
  explicit AsioLoop(std::size_t index);
  ~AsioLoop() override;
  AsioLoop(const AsioLoop&) = delete;
  AsioLoop& operator=(const AsioLoop&) = delete;

  [[nodiscard]] std::size_t index() const noexcept override { return index_; }
  [[nodiscard]] bool in_loop_thread() const noexcept override;
  void post(std::move_only_function<void()> task) override;
  [[nodiscard]] std::unique_ptr<Timer> after(Nanos delay,
                                             std::move_only_function<void()> task) override;

  [[nodiscard]] asio::io_context& context() noexcept { return context_; }

  /// Serves until stop(). The calling thread becomes the loop's.
  void run();

  /// Makes run() return after the current task; what is queued never runs. Thread: any.
  void stop();

 private:
  class TimerImpl;
  using Timers = std::multimap<TimePoint, TimerImpl*>;

  void arm();
  void fire();

  const std::size_t index_;
  std::atomic<bool> stopped_{false};
  Timers timers_;  // outlives context_, whose dropped tasks may hold timers
  asio::io_context context_;
  asio::executor_work_guard<LoopExecutor> work_;
  LoopTimer wake_;
  TimePoint armed_for_ = TimePoint::max();  // what wake_ waits for; max: nothing
};

}  // namespace penstock::net
