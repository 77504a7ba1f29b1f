// What the kernel alone takes for a token streamed to each of many clients: one send() a client,
// every so often, to sockets on loopback that another process reads at once. No server that sends
// each token when it is made can cost less on this machine.
//
//     send_floor CLIENTS PACE_MS BYTES SECONDS     prints CPU microseconds a send

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

int check(int result, const char* what) {
  if (result >= 0) return result;
  std::perror(what);
  std::exit(1);
}

double process_cpu_s() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

[[noreturn]] void read_all(const sockaddr_in& address, int clients) {
  const int events = check(epoll_create1(0), "epoll_create1");
  for (int i = 0; i < clients; ++i) {
    const int s = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    check(connect(s, reinterpret_cast<const sockaddr*>(&address), sizeof address), "connect");
    epoll_event wanted{.events = EPOLLIN, .data = {.fd = s}};
    check(epoll_ctl(events, EPOLL_CTL_ADD, s, &wanted), "epoll_ctl");
  }
  std::vector<epoll_event> ready(static_cast<std::size_t>(clients));
  std::vector<char> buffer(64 * 1024);
  for (;;) {
    const int count = epoll_wait(events, ready.data(), clients, -1);
    for (int i = 0; i < count; ++i) {
      if (recv(ready[static_cast<std::size_t>(i)].data.fd, buffer.data(), buffer.size(), 0) <= 0) {
        _exit(0);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("usage: send_floor CLIENTS PACE_MS BYTES SECONDS\n", stderr);
    return 2;
  }
  const int clients = std::atoi(argv[1]);
  const double pace_ms = std::atof(argv[2]);
  const std::string token(static_cast<std::size_t>(std::atoi(argv[3])), 'x');
  const int rounds = static_cast<int>(std::atof(argv[4]) * 1e3 / pace_ms);

  const int listener = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  check(bind(listener, reinterpret_cast<sockaddr*>(&address), size), "bind");
  check(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), "getsockname");
  check(listen(listener, clients), "listen");
  const pid_t reader = check(fork(), "fork");
  if (reader == 0) read_all(address, clients);

  std::vector<int> sockets;
  for (int i = 0; i < clients; ++i) {
    sockets.push_back(check(accept(listener, nullptr, nullptr), "accept"));
    const int on = 1;
    setsockopt(sockets.back(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  timespec next;
  clock_gettime(CLOCK_MONOTONIC, &next);
  const double before_s = process_cpu_s();
  for (int round = 0; round < rounds; ++round) {
    for (const int s : sockets) {
      check(static_cast<int>(send(s, token.data(), token.size(), MSG_NOSIGNAL)), "send");
    }
    next.tv_nsec += static_cast<long>(pace_ms * 1e6);
    while (next.tv_nsec >= 1'000'000'000) {
      next.tv_nsec -= 1'000'000'000;
      ++next.tv_sec;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, nullptr);
  }
  std::printf("%.2f\n", (process_cpu_s() - before_s) / rounds / clients * 1e6);
  kill(reader, SIGKILL);
  waitpid(reader, nullptr, 0);
}
