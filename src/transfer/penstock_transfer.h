#pragma once

/* The transfer library for programs in other languages: a plain C interface over arena.h, peer.h
 * and the servers. Load libpenstock_transfer.so.
 *
 * Functions that return int: 0, or a negative number that is the error's code; pst_error() then
 * says in words what was wrong (of this thread, until its next call). Functions that return a
 * pointer: NULL on failure. Handles are destroyed in the opposite order of their making. Thread:
 * any, but one handle is destroyed by one thread when no other uses it. */

#include <stdint.h>

#define PST_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

#define PST_VERSION 1

/* NOLINTBEGIN(modernize-use-using, readability-identifier-naming): this is C */

typedef struct pst_arena pst_arena;
typedef struct pst_server pst_server;
typedef struct pst_pool pst_pool;
typedef struct pst_peer pst_peer;
typedef struct pst_transfer pst_transfer;

typedef struct {
  uint64_t high, low;
} pst_key;
typedef struct {
  uint32_t slot, generation;
} pst_ref;
typedef struct {
  uint32_t cell, generation;
} pst_grant;

/* What became of a block; every one above PST_ARRIVED is a miss. */
enum {
  PST_PENDING,
  PST_ARRIVED,
  PST_STALE,
  PST_WRONG_KEY,
  PST_TRUNCATED,
  PST_CORRUPT,
  PST_OUT_OF_RANGE,
  PST_REVOKED,
  PST_PEER_DEAD,
  PST_PATH_FAILED,
  PST_DEADLINE,
  PST_CANCELLED
};

/* One pull. Arrays are the caller's and stay as they are until the transfer is done. */
typedef struct {
  const pst_ref* granted; /* the ticket's list */
  uint32_t granted_count;
  const uint32_t* take; /* positions in it */
  const uint32_t* to;   /* destination slots */
  const pst_key* keys;  /* what each must hold */
  uint8_t* status;      /* written */
  uint32_t count;       /* of take, to, keys and status */
  pst_grant grant;
  const uint32_t* range_ends; /* layer ranges that complete one by one, or NULL */
  uint32_t range_count;
  uint32_t timeout_ms; /* 0: none */
  uint32_t priority;   /* 0 to 255, higher goes first */
} pst_pull;

/* Ways to a peer: its memory in this process, mapped, read by the kernel, or TCP. */
enum { PST_PATH_LOCAL, PST_PATH_SHARED, PST_PATH_CMA, PST_PATH_TCP };

/* Attempts by one path since the peer was connected; took_ns over bytes is what the path costs. */
typedef struct {
  uint64_t pulls;
  uint64_t retries;       /* of those, because another path had failed */
  uint64_t blocks;        /* that arrived */
  uint64_t failed_blocks; /* that the path lost or brought wrong; another is tried, if any */
  uint64_t bytes;         /* of those that arrived */
  uint64_t took_ns;
} pst_traffic;

PST_API int pst_version(void);
PST_API const char* pst_error(void);

/* An arena of `slots` blocks, each of `parts` parts side by side; `shared`: other processes of this
 * host may map it. pst_arena_adopt takes memory of yours, which outlives the arena. */
PST_API pst_arena* pst_arena_create(uint32_t slots, uint32_t parts, uint32_t part_bytes,
                                    int shared);
PST_API pst_arena* pst_arena_adopt(uint32_t slots, uint32_t parts, uint32_t part_bytes,
                                   void* memory, uint64_t size_bytes);
PST_API void pst_arena_destroy(pst_arena* arena);
PST_API void* pst_arena_part(pst_arena* arena, uint32_t slot, uint32_t part);
/* A block's life: reserve, write its parts in place, commit (which takes the checksums). */
PST_API int pst_reserve(pst_arena* arena, uint32_t slot);
PST_API int pst_commit(pst_arena* arena, uint32_t slot, pst_key key);
/* How a ticket names what the slot holds; fails if it is not readable. */
PST_API int pst_ref_of(pst_arena* arena, uint32_t slot, pst_ref* ref);
/* 1 if the slot is readable, holds `key`, and its bytes still have their checksums; else 0. */
PST_API int pst_verify(pst_arena* arena, uint32_t slot, pst_key key);

/* Readers may take `refs` (yours until the grant is closed) for `lease_ms`. Closing waits until no
 * reader is inside; if that takes longer than `timeout_ms` it fails and nothing is released. */
PST_API int pst_grant_open(pst_arena* arena, const pst_ref* refs, uint32_t count, uint32_t lease_ms,
                           pst_grant* grant);
PST_API int pst_grant_renew(pst_arena* arena, pst_grant grant, uint32_t lease_ms);
PST_API int pst_grant_close(pst_arena* arena, pst_grant grant, uint32_t timeout_ms);

/* Offers the arena at a local socket, or over TCP (port 0: any; pst_server_port tells). */
PST_API pst_server* pst_serve_host(pst_arena* arena, const char* socket_path,
                                   const char* compatibility);
PST_API pst_server* pst_serve_tcp(pst_arena* arena, const char* host, uint32_t port,
                                  const char* secret, const char* compatibility);
PST_API uint32_t pst_server_port(const pst_server* server);
PST_API void pst_server_destroy(pst_server* server);

PST_API pst_pool* pst_pool_create(uint32_t threads);
PST_API void pst_pool_destroy(pst_pool* pool);

/* Connects to an owner by a local socket, by TCP, or by whichever of both leads there; NULL for the
   one not meant. */
PST_API pst_peer* pst_peer_connect(pst_pool* pool, const char* socket_path, const char* tcp_host,
                                   uint32_t tcp_port, const char* secret,
                                   const char* compatibility);
PST_API pst_peer* pst_peer_local(pst_pool* pool, pst_arena* arena);
PST_API int pst_peer_alive(const pst_peer* peer);
/* What has been pulled from it by one kind of path. A transfer is in it at the latest when it is
 * destroyed or begun anew. Fails for a path that does not exist. */
PST_API int pst_peer_traffic(const pst_peer* peer, uint32_t path, pst_traffic* traffic);
PST_API void pst_peer_destroy(pst_peer* peer);

/* A transfer may be used again when it is done. `eventfd`: written 1 at the end, or -1. Destroying
 * one cancels it and waits. */
PST_API pst_transfer* pst_transfer_create(int eventfd);
PST_API int pst_transfer_start(pst_transfer* transfer, pst_peer* peer, const pst_pull* pull,
                               pst_arena* to);
PST_API int pst_transfer_done(const pst_transfer* transfer);
PST_API int pst_transfer_range_done(const pst_transfer* transfer, uint32_t range);
/* 1 when it is done, 0 if `timeout_ms` passed first. */
PST_API int pst_transfer_wait(const pst_transfer* transfer, uint32_t timeout_ms);
PST_API void pst_transfer_cancel(pst_transfer* transfer);
PST_API uint64_t pst_transfer_arrived(const pst_transfer* transfer);
PST_API void pst_transfer_destroy(pst_transfer* transfer);

/* NOLINTEND(modernize-use-using, readability-identifier-naming) */

#ifdef __cplusplus
}
#endif
