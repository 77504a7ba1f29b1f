#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <thread>

#include "transfer/memory.h"

namespace penstock::transfer {

/// One thread that notices at once when a descriptor's other side is gone: a socket hung up, or the
/// process behind a pidfd ended. Thread: any.
class DeathWatch final {
 public:
  DeathWatch();
  ~DeathWatch();

  /// Sets `*gone` when `fd` becomes readable or hangs up. Both outlive the watch.
  std::uint64_t watch(int fd, std::atomic<bool>* gone);
  /// After this `*gone` is not touched any more.
  void unwatch(std::uint64_t id);

 private:
  void work();

  struct Watched {
    int fd = -1;
    std::atomic<bool>* gone = nullptr;
  };
  Fd epoll_;
  Fd stop_;
  std::mutex mutex_;
  std::map<std::uint64_t, Watched> watched_;
  std::uint64_t last_id_ = 0;  // never used twice, unlike descriptors
  std::jthread thread_;
};

}  // namespace penstock::transfer
