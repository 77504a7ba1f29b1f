#include "transfer/death_watch.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"

namespace penstock::transfer {

DeathWatch::DeathWatch() : epoll_(epoll_create1(EPOLL_CLOEXEC)), stop_(eventfd(0, EFD_CLOEXEC)) {
  CHECK(epoll_.valid() && stop_.valid());
  epoll_event event{.events = EPOLLIN, .data = {.u64 = 0}};
  CHECK_EQ(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_.get(), &event), 0);
  thread_ = std::jthread([this] { work(); });
}

DeathWatch::~DeathWatch() {
  const std::uint64_t one = 1;
  CHECK_EQ(write(stop_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  thread_.join();
}

std::uint64_t DeathWatch::watch(int fd, std::atomic<bool>* gone) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t id = ++last_id_;
  epoll_event event{.events = EPOLLIN | EPOLLRDHUP, .data = {.u64 = id}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    gone->store(true);  // what cannot be watched cannot be trusted
    return id;
  }
  watched_[id] = {fd, gone};
  return id;
}

void DeathWatch::unwatch(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  const auto at = watched_.find(id);
  if (at == watched_.end()) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, at->second.fd, nullptr);
  watched_.erase(at);
}

void DeathWatch::work() {
  for (;;) {
    epoll_event event{};
    if (epoll_wait(epoll_.get(), &event, 1, -1) != 1) continue;
    const std::uint64_t id = event.data.u64;  // the event is packed: nothing may refer into it
    if (id == 0) return;
    const std::lock_guard lock(mutex_);
    const auto at = watched_.find(id);
    if (at == watched_.end()) continue;
    at->second.gone->store(true, std::memory_order_release);
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, at->second.fd, nullptr);
    watched_.erase(at);
  }
}

}  // namespace penstock::transfer
