#pragma once

#include <thread>
#include <vector>

#include "transfer/chunk_queue.h"
#include "transfer/death_watch.h"

namespace penstock::transfer {

/// Threads that copy: shared by all peers whose memory this host's processors can reach. One moves
/// about as much as memory gives to one core; two pay where memory has more to give and a core is
/// idle. Outlives the peers that use it.
class CopyPool final {
 public:
  explicit CopyPool(unsigned threads = 1);
  ~CopyPool();
  [[nodiscard]] ChunkQueue& queue() noexcept { return queue_; }
  /// Tells the peers when their owners die.
  [[nodiscard]] DeathWatch& deaths() noexcept { return deaths_; }

 private:
  void work() noexcept;

  ChunkQueue queue_;
  DeathWatch deaths_;
  std::vector<std::jthread> threads_;
};

}  // namespace penstock::transfer
