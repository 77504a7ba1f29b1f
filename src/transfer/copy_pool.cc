#include "transfer/copy_pool.h"

#include "transfer/path.h"

namespace penstock::transfer {

CopyPool::CopyPool(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

CopyPool::~CopyPool() { queue_.stop(); }

void CopyPool::work() noexcept {
  while (const auto chunk = queue_.claim(true)) {
    static_cast<CopiedPath&>(chunk->path()).run(*chunk);  // no other kind uses this queue
    if (queue_.finish(*chunk)) Path::finished(*chunk->transfer);
  }
}

}  // namespace penstock::transfer
