#!/usr/bin/env python3
"""The transfer library from Python, with ctypes alone: an owner in one process, a consumer in
another, over shared memory and TCP; what arrives, what is missed, and the owner's death."""

import ctypes
import multiprocessing
import os
import select
import tempfile
import unittest

u8, u32, u64 = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_uint64
ARRIVED, STALE, CORRUPT, PEER_DEAD = 1, 2, 5, 8
SHARED, TCP = 1, 3
SLOTS, PARTS, PART_BYTES = 64, 2, 3000
SECRET, BUILD = b'a secret of thirty-two characters', b'build 1'


class Key(ctypes.Structure):
    _fields_ = [('high', u64), ('low', u64)]


class Ref(ctypes.Structure):
    _fields_ = [('slot', u32), ('generation', u32)]


class Grant(ctypes.Structure):
    _fields_ = [('cell', u32), ('generation', u32)]


class Traffic(ctypes.Structure):
    _fields_ = [(name, u64) for name in ('pulls', 'retries', 'blocks', 'failed_blocks', 'bytes',
                                         'took_ns')]


class Pull(ctypes.Structure):
    _fields_ = [('granted', ctypes.POINTER(Ref)), ('granted_count', u32),
                ('take', ctypes.POINTER(u32)), ('to', ctypes.POINTER(u32)),
                ('keys', ctypes.POINTER(Key)), ('status', ctypes.POINTER(u8)), ('count', u32),
                ('grant', Grant), ('range_ends', ctypes.POINTER(u32)), ('range_count', u32),
                ('timeout_ms', u32), ('priority', u32)]


def load():
    library = ctypes.CDLL(os.environ['PENSTOCK_TRANSFER_LIB'])
    for name in ('arena_create', 'arena_part', 'serve_host', 'serve_tcp', 'pool_create',
                 'peer_connect', 'transfer_create'):
        getattr(library, f'pst_{name}').restype = ctypes.c_void_p
    library.pst_transfer_arrived.restype = u64
    library.pst_error.restype = ctypes.c_char_p
    return library


def content(block, part):
    return bytes((block * 7 + part * 13 + i) % 251 for i in range(PART_BYTES))


def own(path, pipe):
    """An owner of SLOTS blocks: serves until it is killed; changes what it is told to."""
    library = load()
    arena = ctypes.c_void_p(library.pst_arena_create(SLOTS, PARTS, PART_BYTES, 1))
    refs, grant = (Ref * SLOTS)(), Grant()
    for slot in range(SLOTS):
        assert library.pst_reserve(arena, slot) == 0
        for part in range(PARTS):
            ctypes.memmove(library.pst_arena_part(arena, slot, part), content(slot, part),
                           PART_BYTES)
        assert library.pst_commit(arena, slot, Key(slot, 1)) == 0
        assert library.pst_ref_of(arena, slot, ctypes.byref(refs[slot])) == 0
    assert library.pst_grant_open(arena, refs, SLOTS, 3600000, ctypes.byref(grant)) == 0
    assert library.pst_serve_host(arena, path, BUILD)
    tcp = ctypes.c_void_p(library.pst_serve_tcp(arena, b'127.0.0.1', 0, SECRET, BUILD))
    pipe.send((library.pst_server_port(tcp), [(r.slot, r.generation) for r in refs],
               (grant.cell, grant.generation)))
    while True:
        what, slot = pipe.recv()
        if what == 'reuse':
            library.pst_reserve(arena, slot)
        else:
            at = library.pst_arena_part(arena, slot, 1)
            ctypes.memset(at, 255, 1)
        pipe.send('done')


class TransferTest(unittest.TestCase):
    def setUp(self):
        self.library = load()
        self.path = os.path.join(tempfile.mkdtemp(), 'socket').encode()
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.owner = context.Process(target=own, args=(self.path, theirs), daemon=True)
        self.owner.start()
        self.port, refs, grant = self.pipe.recv()
        self.refs = (Ref * SLOTS)(*[Ref(*ref) for ref in refs])
        self.grant = Grant(*grant)
        self.pool = ctypes.c_void_p(self.library.pst_pool_create(1))
        self.arena = ctypes.c_void_p(
            self.library.pst_arena_create(SLOTS, PARTS, PART_BYTES, 0))

    def tearDown(self):
        self.owner.kill()
        self.owner.join()

    def connect(self, tcp):
        peer = (self.library.pst_peer_connect(self.pool, None, b'127.0.0.1', self.port, SECRET,
                                              BUILD) if tcp else
                self.library.pst_peer_connect(self.pool, self.path, None, 0, None, BUILD))
        self.assertTrue(peer, self.library.pst_error())
        return ctypes.c_void_p(peer)

    def pull(self, peer):
        """Takes all blocks, the last first, and waits on an eventfd."""
        take = (u32 * SLOTS)(*reversed(range(SLOTS)))
        to = (u32 * SLOTS)(*range(SLOTS))
        keys = (Key * SLOTS)(*[Key(block, 1) for block in take])
        status = (u8 * SLOTS)()
        event = os.eventfd(0)
        transfer = ctypes.c_void_p(self.library.pst_transfer_create(event))
        pull = Pull(self.refs, SLOTS, take, to, keys, status, SLOTS, self.grant, None, 0, 20000, 0)
        started = self.library.pst_transfer_start(transfer, peer, ctypes.byref(pull), self.arena)
        if started == 0:
            select.select([event], [], [], 20)
            self.assertEqual(self.library.pst_transfer_done(transfer), 1)
        self.library.pst_transfer_destroy(transfer)
        os.close(event)
        return started, {take[i]: (status[i], to[i]) for i in range(SLOTS)}

    def test_blocks_arrive_and_misses_are_told(self):
        for tcp in (False, True):
            with self.subTest(tcp=tcp):
                peer = self.connect(tcp)
                started, got = self.pull(peer)
                self.assertEqual(started, 0)
                for block, (status, slot) in got.items():
                    self.assertEqual(status, ARRIVED)
                    self.assertEqual(self.library.pst_verify(self.arena, slot, Key(block, 1)), 1)
                    for part in range(PARTS):
                        at = self.library.pst_arena_part(self.arena, slot, part)
                        self.assertEqual(ctypes.string_at(at, PART_BYTES), content(block, part))
                traffic = Traffic()
                self.assertEqual(self.library.pst_peer_traffic(peer, TCP if tcp else SHARED,
                                                               ctypes.byref(traffic)), 0)
                self.assertEqual(
                    (traffic.pulls, traffic.retries, traffic.blocks, traffic.failed_blocks,
                     traffic.bytes), (1, 0, SLOTS, 0, SLOTS * PARTS * PART_BYTES))
                self.assertGreater(traffic.took_ns, 0)
                self.assertLess(
                    self.library.pst_peer_traffic(peer, TCP + 1, ctypes.byref(traffic)), 0)
                self.library.pst_peer_destroy(peer)
        for order in (('reuse', 3), ('flip', 4)):
            self.pipe.send(order)
            self.pipe.recv()
        for tcp in (False, True):
            peer = self.connect(tcp)
            _, got = self.pull(peer)
            self.assertEqual({block: status for block, (status, _) in got.items()
                              if status != ARRIVED}, {3: STALE, 4: CORRUPT})
            for block in (3, 4):
                self.assertEqual(
                    self.library.pst_verify(self.arena, got[block][1], Key(block, 1)), 0)
            self.library.pst_peer_destroy(peer)

    def test_refusals_say_why(self):
        wrong = self.library.pst_peer_connect(self.pool, self.path, None, 0, None, b'build 2')
        self.assertFalse(wrong)
        self.assertIn(b'another build', self.library.pst_error())
        wrong = self.library.pst_peer_connect(self.pool, None, b'127.0.0.1', self.port,
                                              SECRET + b'!', BUILD)
        self.assertFalse(wrong)
        self.assertIn(b'secret', self.library.pst_error())

    def test_a_dead_owner_is_noticed(self):
        peer = self.connect(tcp=False)
        self.owner.kill()
        self.owner.join()
        while self.library.pst_peer_alive(peer):
            pass
        started, _ = self.pull(peer)
        self.assertLess(started, 0)
        self.assertIn(b'gone', self.library.pst_error())


if __name__ == '__main__':
    unittest.main()
