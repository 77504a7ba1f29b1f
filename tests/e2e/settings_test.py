#!/usr/bin/env python3
"""What is set reaches the engine or is refused by name; and a worker's cache is cleared by hand."""

import sys
import unittest

from penstock import Server, completion_body, run, wait_until

ELSEWHERE = ((), ('--processes',))  # in the front end's process, and in one of its own
RANK = 'x-data-parallel-rank'


def words(count, first=0):
    """Token ids that are no special tokens."""
    return [1000 + first + i for i in range(count)]


class SimulatedTest(unittest.TestCase):

    def test_flags_reach_the_engine(self):
        flags = ('--context', '640', '--block-tokens', '16', '--kv-blocks', '150',
                 '--step-tokens', '64')
        for where in ELSEWHERE:
            with self.subTest(where), Server(*flags, *where) as server:
                worker, = server.get('/debug/workers').json()['workers']
                self.assertEqual(worker['kv_blocks_max'], 150)
                card, = server.get('/v1/models').json()['data']
                self.assertEqual(card['max_model_len'], 640)
                for cached in (0, 16):
                    usage = server.complete(words(32)).json()['usage']
                    self.assertEqual(usage['prompt_tokens_details']['cached_tokens'], cached)
                server.stop()

    def test_sequences_and_queue_bound_what_a_worker_takes(self):
        with Server('--sequences', '3', '--queue', '5', speedup=0.01) as server:
            with server.connect() as held:
                held.request('POST', '/v1/completions', completion_body(['x'] * 8))
                wait_until(lambda: server.metric('penstock_worker_waiting{worker="0"}') == 5,
                           'three run, five wait')
                self.assertEqual(server.complete('y').status, 429)
            server.wait_until_idle()

    def test_what_means_nothing_is_refused(self):
        for model, flag in (('simulated', ('--threads', '1')), ('simulated', ('--exact',)),
                            ('demo', ('--speedup', '2')), ('demo', ('--kv-blocks', '9'))):
            for command in (('serve',), ('worker', '--join', '127.0.0.1:1')):
                with self.subTest(command=command, flag=flag):
                    status, out, error = run(*command, '--model', model, *flag)
                    self.assertEqual((status, out), (2, ''))
                    self.assertIn(flag[0], error)

    def test_answers_end_where_the_client_names_no_length(self):
        with Server('--context', '640') as server:
            answer = server.complete(words(100), max_tokens=None).json()
            self.assertEqual(answer['usage']['completion_tokens'], 256)
            self.assertEqual(answer['choices'][0]['finish_reason'], 'length')
        with Server('--context', '640', '--max-tokens-default', '0') as server:
            answer = server.complete(words(100), max_tokens=None).json()
            self.assertEqual(answer['usage']['completion_tokens'], 540)


class ClearCacheTest(unittest.TestCase):

    def cached(self, rank):
        """Cached tokens of a prompt at a worker: as reported, which is what was predicted."""
        answer = self.server.request(
            'POST', '/v1/completions',
            {'model': 'simulated', 'prompt': words(1000, rank), 'max_tokens': 1}, [(RANK, rank)])
        self.assertEqual(answer.status, 200, answer)
        decision = self.server.get('/debug/decisions').json()['decisions'][0]
        cached = answer.json()['usage']['prompt_tokens_details']['cached_tokens']
        self.assertEqual(decision['predicted']['cached_tokens'], cached)
        return cached

    def clear(self, worker):
        return self.server.request('POST', f'/debug/workers/{worker}/clear-cache')

    def events(self):
        """KV events of each worker that the router has applied."""
        workers = self.server.get('/debug/workers').json()['workers']
        return [worker['cache']['events'] for worker in workers]

    def test_one_workers_cache_is_cleared(self):
        for where in ELSEWHERE:
            with self.subTest(where), Server('--workers', '2', *where) as self.server:
                wait_until(lambda: self.events() == [0, 0], 'both are there')
                self.assertEqual([self.cached(0), self.cached(1)], [0, 0])
                wait_until(lambda: self.events() == [15, 15], 'each block is told')
                self.assertEqual([self.cached(0), self.cached(1)], [960, 960])
                answer = self.clear(0)
                self.assertEqual((answer.status, answer.json()), (202, {'worker': 0}))
                wait_until(lambda: self.events() == [16, 15], 'one of them has cleared its own')
                self.assertEqual([self.cached(0), self.cached(1)], [0, 960])
                for worker in self.server.get('/debug/workers').json()['workers']:
                    self.assertEqual(worker['trust'], 'exact')
                    self.assertEqual(worker['cache']['gaps'], 0)
                self.assertEqual(self.clear(2).status, 404)
                self.assertEqual(self.clear('x').status, 404)
                self.assertEqual(self.server.get('/debug/workers/0/clear-cache').status, 405)
                self.server.stop()


if __name__ == '__main__':
    sys.exit(unittest.main())
