#include "engine/llama/shared_store.h"

#include "base/log.h"

namespace penstock::engine {

Result<tiers::Store*> SharedStore::open(std::string_view compatibility, std::uint32_t block_bytes) {
  const std::lock_guard lock(mutex_);
  if (store_ != nullptr) {
    if (options_.compatibility == compatibility && options_.block_bytes == block_bytes) {
      return store_.get();
    }
    return fail(Code::kUnprocessable, "the KV store is in use for another model's blocks");
  }
  options_.compatibility = compatibility;
  options_.block_bytes = block_bytes;
  auto opened = tiers::Store::open(options_, clock_);
  if (!opened) return std::unexpected(opened.error());
  store_ = std::move(*opened);
  const tiers::Stats found = store_->stats();
  if (!options_.disk_folder.empty()) {
    log::info("{}: {} KV blocks found in {:.0f} ms{}{}", options_.disk_folder,
              found.recovered_blocks, found.recovery_ms,
              found.incompatible_segments > 0 ? "; some files are of another model or build" : "",
              found.direct ? "" : "; this file system has no direct I/O, the page cache is used");
  }
  return store_.get();
}

}  // namespace penstock::engine
