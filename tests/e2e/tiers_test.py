#!/usr/bin/env python3
"""KV of prompts that outlives the server: the demo model's greedy answers are the same token ids
computed anew, restored after an orderly restart, and restored after kill -9.

PENSTOCK_BIN names the program.
"""

import os
import signal
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import exact_prompts
from penstock import Server, run, wait_until
from stock import ask

TOKENS = 12
CASES = {f'long-{i}': exact_prompts.long_text(i, 6 + 10 * i) for i in range(3)}
# The same beginning, then something else: what both share is restored.
CASES['shared'] = CASES['long-2'] + ' Now say what the river does.'


def serve(folder, *flags):
    return Server('--sequences', '2', '--kv-disk', folder, '--kv-disk-mib', '2048',
                  *flags, model='demo')


def full_blocks(answer):
    return len(answer.prompt) // 64


def wait_until_written(server, blocks):
    wait_until(lambda: server.metric('penstock_kv_tier_blocks{tier="disk"}') >= blocks,
               f'{blocks} blocks are on disk')


class TiersTest(unittest.TestCase):
    def compare(self, server, expected):
        """What a server that just started gives is what was computed."""
        for name, text in CASES.items():
            answer = ask(server, text, TOKENS)
            self.assertEqual(answer.tokens, expected[name].tokens, name)
            # With --exact a part of 64 rows or more is computed anew.
            self.assertGreaterEqual(answer.cached, full_blocks(answer) * 64 - 128, name)
        self.assertGreater(server.metric('penstock_kv_tier_given_total{tier="disk"}'), 0)
        missed = {name: value for name, value in server.metrics().items()
                  if name.startswith('penstock_kv_tier_missed_total') and value}
        self.assertEqual(missed, {})

    def restarts(self, *flags):
        with tempfile.TemporaryDirectory() as folder:
            with serve(folder, '--exact', *flags) as server:
                expected = {name: ask(server, text, TOKENS) for name, text in CASES.items()}
                self.assertEqual(expected['long-0'].cached, 0)
                blocks = sum(full_blocks(answer) for answer in expected.values()
                             if answer.cached < 64)
                wait_until_written(server, blocks)
                server.signal(signal.SIGKILL)
                server.wait()
            with serve(folder, '--exact', *flags) as server:
                self.assertGreaterEqual(server.metric('penstock_kv_tier_recovered_blocks'), blocks)
                self.compare(server, expected)
                server.stop()
            with serve(folder, '--exact', *flags) as server:
                self.compare(server, expected)
                server.stop()

    def test_S3_after_kill_9_and_after_an_orderly_restart(self):
        self.restarts()

    def test_S3_quantized(self):
        self.restarts('--kv-type', 'q8_0')

    def foreseen(self, server, text):
        """What was decided for a request; its prediction came true."""
        answer = ask(server, text, TOKENS)
        decision = server.get('/debug/decisions').json()['decisions'][0]
        self.assertEqual(decision['predicted']['cached_tokens'], answer.cached // 64 * 64, decision)
        return decision

    def test_the_router_foresees_what_is_loaded(self):
        with tempfile.TemporaryDirectory() as folder:
            with serve(folder, '--workers', '2') as server:
                self.assertNotIn('fetch', self.foreseen(server, CASES['long-2']))
                wait_until_written(server, 1)
                server.stop()
            with serve(folder, '--workers', '2') as server:
                restored = self.foreseen(server, CASES['long-2'])
                fetch = restored['fetch']
                self.assertEqual(fetch['tier'], 'disk')
                self.assertEqual(fetch['blocks'] * 64, restored['predicted']['cached_tokens'])
                self.assertLess(fetch['load_ms'], fetch['recompute_ms'])
                chosen = [c for c in restored['candidates'] if c['worker'] == restored['worker']]
                self.assertEqual(chosen[0]['terms']['load_ms'], fetch['load_ms'])
                # It is in the worker's pool by now, and goes there again.
                again = self.foreseen(server, CASES['shared'])
                self.assertEqual(again['worker'], restored['worker'])
                self.assertNotIn('fetch', again)
                # The other worker would take it from host memory.
                others = [c for c in again['candidates'] if c['worker'] != restored['worker']]
                self.assertGreater(others[0]['terms']['load_ms'], 0)
                self.assertEqual(server.metric('penstock_kv_tier_given_total{tier="disk"}'),
                                 fetch['blocks'])
                server.stop()

    def test_after_a_restart_a_prompt_goes_to_the_process_that_has_it_on_disk(self):
        prompts = [exact_prompts.long_text(i, 20) for i in range(4)]
        flags = ('--exact', '--workers', '2', '--processes')

        def workers(server):
            return server.get('/debug/workers').json()['workers']

        def processes(server, blocks):
            """{worker: its process}, once both are there and so many blocks of theirs known."""
            wait_until(lambda: [w['state'] for w in workers(server)] == ['ready', 'ready'],
                       'both have joined')
            wait_until(lambda: sum(w['cache']['tier_blocks_followed']
                                   for w in workers(server)) >= blocks,
                       'it is known where the blocks are')
            return {w['worker']: w['labels'] for w in workers(server)}

        with tempfile.TemporaryDirectory() as folder:
            with serve(folder, *flags) as server:
                where = processes(server, 0)
                answers, homes = [], []
                for i, text in enumerate(prompts):
                    rank = sorted(where, key=where.get)[i % 2]
                    answers.append(ask(server, text, TOKENS, headers={
                        'x-data-parallel-rank': str(rank)}))
                    homes.append(where[rank])
                # What the prompts of a worker share it has once.
                blocks = sum(full_blocks(answer) - answer.cached // 64 for answer in answers)
                processes(server, blocks)
                wait_until(lambda: sum(
                    value for name, value in server.metrics().items()
                    if name.startswith('penstock_kv_tier_blocks{tier="disk"')) >= blocks,
                           'they are on disk')
                server.signal(signal.SIGKILL)
                server.wait()
            with serve(folder, *flags) as server:
                where = processes(server, blocks)
                for text, home, expected in zip(prompts, homes, answers):
                    decision = self.foreseen(server, text)
                    self.assertIn('fetch', decision)
                    self.assertEqual(decision['fetch']['tier'], 'disk', decision)
                    self.assertEqual(where[decision['worker']], home, decision)
                    self.assertEqual(ask(server, text, TOKENS).tokens, expected.tokens)
                self.assertEqual([w['trust'] for w in workers(server)], ['exact', 'exact'])
                server.stop()

    def test_a_share_of_host_memory_too_small_for_blocks_ends_the_server(self):
        status, _, error = run('serve', '--model', 'demo', '--port', '0', '--workers', '2',
                               '--processes', '--kv-host-mib', '2')
        self.assertEqual(status, 1)
        self.assertIn('--kv-host-mib: 1048576 bytes', error)
        self.assertNotIn('started again', error)

    def test_S13_a_damaged_disk_is_recomputed(self):
        text = CASES['long-1']
        with tempfile.TemporaryDirectory() as folder:
            with serve(folder, '--exact') as server:
                expected = ask(server, text, TOKENS)
                wait_until_written(server, full_blocks(expected))
                server.stop()
            for name in os.listdir(folder):
                if not name.endswith('.segment'):
                    continue
                with open(os.path.join(folder, name), 'r+b') as file:
                    for at in range(500_000, os.path.getsize(file.name), 1_000_000):
                        file.seek(at)
                        file.write(b'not what was here')
            with serve(folder, '--exact') as server:
                answer = ask(server, text, TOKENS)
                self.assertEqual(answer.tokens, expected.tokens)
                self.assertLess(answer.cached, 64)
                server.stop()


if __name__ == '__main__':
    unittest.main()
