#include <algorithm>
#include <memory>
#include <string>

#include "transfer/host_server.h"
#include "transfer/peer.h"
#include "transfer/penstock_transfer.h"
#include "transfer/tcp_server.h"

using namespace penstock;
using namespace penstock::transfer;

struct pst_arena {
  std::unique_ptr<Arena> arena;
};
struct pst_server {
  std::unique_ptr<HostServer> host;
  std::unique_ptr<TcpServer> tcp;
};
struct pst_pool {
  explicit pst_pool(unsigned threads) : pool(threads) {}
  CopyPool pool;
};
struct pst_peer {
  std::unique_ptr<Peer> peer;
};
struct pst_transfer {
  Transfer transfer;
};

namespace {

const SteadyClock kClock;
thread_local std::string last_error;

// The C types are the C++ types under other names.
static_assert(sizeof(pst_key) == sizeof(BlockKey) && sizeof(pst_ref) == sizeof(BlockRef) &&
              sizeof(pst_grant) == sizeof(GrantId) && sizeof(BlockStatus) == 1);
static_assert(PST_CANCELLED == static_cast<int>(BlockStatus::kCancelled) &&
              PST_CANCELLED + 1 == kBlockStatuses);
static_assert(PST_PATH_TCP == static_cast<int>(PathKind::kTcp) && PST_PATH_TCP + 1 == kPathKinds);

int failed(const Error& error) {
  last_error = error.message;
  return -1 - static_cast<int>(error.code);
}
int refused(const char* message) { return failed({Code::kInvalidArgument, message}); }

template <class T>
int outcome(const Result<T>& result) {
  return result ? 0 : failed(result.error());
}

std::string text(const char* words) { return words == nullptr ? "" : words; }
BlockKey key_of(pst_key key) { return {key.high, key.low}; }
GrantId grant_of(pst_grant grant) { return {grant.cell, grant.generation}; }
TimePoint in(std::uint32_t ms) { return kClock.now() + std::chrono::milliseconds(ms); }
bool has(const pst_arena* arena, std::uint32_t slot) { return slot < arena->arena->layout().slots; }

pst_arena* wrap(Result<std::unique_ptr<Arena>> arena) {
  if (arena) return new pst_arena{std::move(*arena)};
  failed(arena.error());
  return nullptr;
}

}  // namespace

int pst_version(void) { return PST_VERSION; }
const char* pst_error(void) { return last_error.c_str(); }

pst_arena* pst_arena_create(uint32_t slots, uint32_t parts, uint32_t part_bytes, int shared) {
  return wrap(Arena::create(Layout::by_block(slots, parts, part_bytes),
                            shared != 0 ? MemoryKind::kShared : MemoryKind::kPrivate));
}
pst_arena* pst_arena_adopt(uint32_t slots, uint32_t parts, uint32_t part_bytes, void* memory,
                           uint64_t size_bytes) {
  return wrap(Arena::adopt(Layout::by_block(slots, parts, part_bytes),
                           {static_cast<std::byte*>(memory), size_bytes}));
}
void pst_arena_destroy(pst_arena* arena) { delete arena; }
void* pst_arena_part(pst_arena* arena, uint32_t slot, uint32_t part) {
  if (!has(arena, slot) || part >= arena->arena->layout().parts) return nullptr;
  return arena->arena->part(slot, part);
}
int pst_reserve(pst_arena* arena, uint32_t slot) {
  if (!has(arena, slot)) return refused("no such slot");
  arena->arena->reserve(slot);
  return 0;
}
int pst_commit(pst_arena* arena, uint32_t slot, pst_key key) {
  if (!has(arena, slot)) return refused("no such slot");
  if (arena->arena->ref(slot)) return refused("the slot was not reserved");
  arena->arena->sum_and_commit(slot, key_of(key));
  return 0;
}
int pst_ref_of(pst_arena* arena, uint32_t slot, pst_ref* ref) {
  const auto found = has(arena, slot) ? arena->arena->ref(slot) : std::nullopt;
  if (!found) return refused("the slot holds nothing that can be read");
  *ref = {found->slot, found->generation};
  return 0;
}
int pst_verify(pst_arena* arena, uint32_t slot, pst_key key) {
  return has(arena, slot) && arena->arena->verify(slot, key_of(key)) ? 1 : 0;
}

int pst_grant_open(pst_arena* arena, const pst_ref* refs, uint32_t count, uint32_t lease_ms,
                   pst_grant* grant) {
  const auto opened =
      arena->arena->grants().open({reinterpret_cast<const BlockRef*>(refs), count}, in(lease_ms));
  if (opened) *grant = {opened->cell, opened->generation};
  return outcome(opened);
}
int pst_grant_renew(pst_arena* arena, pst_grant grant, uint32_t lease_ms) {
  if (arena->arena->grants().renew(grant_of(grant), in(lease_ms))) return 0;
  return refused("the grant is not open");
}
int pst_grant_close(pst_arena* arena, pst_grant grant, uint32_t timeout_ms) {
  return outcome(arena->arena->grants().close(grant_of(grant), Deadline(in(timeout_ms)), kClock));
}

pst_server* pst_serve_host(pst_arena* arena, const char* socket_path, const char* compatibility) {
  auto host = HostServer::open(*arena->arena, text(socket_path), text(compatibility));
  if (outcome(host) != 0) return nullptr;
  return new pst_server{std::move(*host), nullptr};
}
pst_server* pst_serve_tcp(pst_arena* arena, const char* host, uint32_t port, const char* secret,
                          const char* compatibility) {
  auto tcp = TcpServer::open(*arena->arena, {text(host), static_cast<std::uint16_t>(port),
                                             text(secret), text(compatibility)});
  if (outcome(tcp) != 0) return nullptr;
  return new pst_server{nullptr, std::move(*tcp)};
}
uint32_t pst_server_port(const pst_server* server) {
  return server->tcp != nullptr ? server->tcp->port() : 0;
}
void pst_server_destroy(pst_server* server) { delete server; }

pst_pool* pst_pool_create(uint32_t threads) { return new pst_pool(std::max(threads, 1U)); }
void pst_pool_destroy(pst_pool* pool) { delete pool; }

pst_peer* pst_peer_connect(pst_pool* pool, const char* socket_path, const char* tcp_host,
                           uint32_t tcp_port, const char* secret, const char* compatibility) {
  PeerAddress address;
  address.socket_path = text(socket_path);
  address.tcp_host = text(tcp_host);
  address.tcp_port = static_cast<std::uint16_t>(tcp_port);
  address.secret = text(secret);
  address.compatibility = text(compatibility);
  auto peer = Peer::connect(address, pool->pool, kClock);
  if (outcome(peer) != 0) return nullptr;
  return new pst_peer{std::move(*peer)};
}
pst_peer* pst_peer_local(pst_pool* pool, pst_arena* arena) {
  return new pst_peer{Peer::local(*arena->arena, pool->pool, kClock)};
}
int pst_peer_alive(const pst_peer* peer) { return peer->peer->alive() ? 1 : 0; }
int pst_peer_traffic(const pst_peer* peer, uint32_t path, pst_traffic* traffic) {
  if (path >= kPathKinds) return refused("no such path");
  const PathTraffic sum = peer->peer->traffic()[path];
  *traffic = {sum.pulls,         sum.retries, sum.blocks,
              sum.failed_blocks, sum.bytes,   static_cast<uint64_t>(sum.took.count())};
  return 0;
}
void pst_peer_destroy(pst_peer* peer) { delete peer; }

pst_transfer* pst_transfer_create(int eventfd) {
  auto* made = new pst_transfer;
  made->transfer.eventfd = eventfd;
  return made;
}
int pst_transfer_start(pst_transfer* transfer, pst_peer* peer, const pst_pull* pull,
                       pst_arena* to) {
  if (!transfer->transfer.done()) return refused("the transfer is still running");
  Pull wanted;
  wanted.granted = {reinterpret_cast<const BlockRef*>(pull->granted), pull->granted_count};
  wanted.take = {pull->take, pull->count};
  wanted.to = {pull->to, pull->count};
  wanted.keys = {reinterpret_cast<const BlockKey*>(pull->keys), pull->count};
  wanted.status = {reinterpret_cast<BlockStatus*>(pull->status), pull->count};
  wanted.grant = grant_of(pull->grant);
  if (pull->range_ends != nullptr) wanted.range_ends = {pull->range_ends, pull->range_count};
  if (pull->timeout_ms > 0) wanted.deadline = Deadline(in(pull->timeout_ms));
  wanted.priority = static_cast<std::uint8_t>(std::min(pull->priority, 255U));
  return outcome(peer->peer->pull(transfer->transfer, wanted, *to->arena));
}
int pst_transfer_done(const pst_transfer* transfer) { return transfer->transfer.done() ? 1 : 0; }
int pst_transfer_range_done(const pst_transfer* transfer, uint32_t range) {
  return transfer->transfer.range_done(range) ? 1 : 0;
}
int pst_transfer_wait(const pst_transfer* transfer, uint32_t timeout_ms) {
  return transfer->transfer.wait(Deadline(in(timeout_ms)), kClock) ? 1 : 0;
}
void pst_transfer_cancel(pst_transfer* transfer) { transfer->transfer.cancel(); }
uint64_t pst_transfer_arrived(const pst_transfer* transfer) { return transfer->transfer.arrived(); }
void pst_transfer_destroy(pst_transfer* transfer) { delete transfer; }
