#!/usr/bin/env python3
"""Prompt and answer at different workers: the demo model's greedy answers are the token ids that
one worker gives that does both, whatever moves, changes or ends meanwhile, and nothing is kept
afterwards.

A policy that predicts no times splits every request, so that what is tested is what happens.

PENSTOCK_BIN names the program.
"""

import concurrent.futures
import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import exact_prompts
from penstock import Server, wait_until
from stock import ask, at_once

TOKENS = 6
BLOCK = 16
FLAGS = ('--exact', '--threads', '1', '--sequences', '4', '--block-tokens', str(BLOCK))
SPLIT = ('--prefill', '1', '--decode', '1', '--policy', 'round-robin')


def cases():
    """At least 40 prompts of some blocks: a few sentences and a question, and long ones."""
    questions = exact_prompts.SHORT + exact_prompts.UNICODE
    for i in range(38):
        text = exact_prompts.long_text(i, 3)
        yield f'short-{i}', f'{text} {questions[i % len(questions)]}'
    for i in range(2):
        yield f'long-{i}', 'Summarise: ' + exact_prompts.long_text(100 + i, 10 + 10 * i)


CASES = dict(cases())
FEW = dict(list(CASES.items())[::8])


def ask_all(server, cases, salt=''):
    """{name: (token ids, text)}"""
    fields = {'cache_salt': salt} if salt else {}
    answers = at_once(4, lambda text: ask(server, text, TOKENS, **fields), cases)
    return {name: (answer.tokens, answer.text) for name, answer in answers.items()}


def total(server, name):
    """Of a metric, over all labels."""
    return sum(value for key, value in server.metrics().items()
               if key == name or key.startswith(name + '{'))


def misses(server):
    """Without those of a machine that was too busy to fetch in time."""
    return {key: value for key, value in server.metrics().items()
            if key.startswith('penstock_worker_kv_fetch_missed_total') and value and
            'deadline' not in key}


def wait_until_nothing_is_kept(server):
    wait_until(lambda: total(server, 'penstock_worker_kv_leases') == 0, 'no lease is left')
    server.wait_until_idle()


def change_role(server, worker, role):
    return server.request('POST', f'/debug/workers/{worker}/role?to={role}')


class PdTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        assert len(CASES) >= 40
        with Server(*FLAGS, '--workers', '2', '--policy', 'round-robin', model='demo') as server:
            cls.expected = ask_all(server, CASES)
            server.stop()

    def compare(self, server, cases, salt='', expected=None):
        got = ask_all(server, cases, salt)
        for name in cases:
            self.assertEqual(got[name], (expected or self.expected)[name], name)

    def test_split_answers_are_those_of_one_worker_also_after_role_changes(self):
        with Server(*FLAGS, *SPLIT, model='demo') as server:
            self.compare(server, CASES)
            handed = 'penstock_requests_split_total{outcome="handed_over"}'
            self.assertEqual(server.metric(handed), len(CASES))
            self.assertEqual(total(server, 'penstock_requests_split_total'), len(CASES))
            self.assertGreaterEqual(total(server, 'penstock_worker_kv_fetched_blocks_total'),
                                    len(CASES))
            self.assertEqual(misses(server), {})
            parts = {d['part'] for d in server.get('/debug/decisions').json()['decisions']}
            self.assertEqual(parts, {'prompt', 'answer'})
            wait_until_nothing_is_kept(server)

            # The other way round, without a restart.
            for worker, role in ((0, 'both'), (1, 'prefill'), (0, 'decode')):
                self.assertEqual(change_role(server, worker, role).status, 200)
            workers = server.get('/debug/workers').json()['workers']
            self.assertEqual([w['role'] for w in workers], ['decode', 'prefill'])
            before = server.metric('penstock_worker_kv_fetched_blocks_total{worker="0"}')
            self.assertEqual(before, 0)
            self.compare(server, FEW, salt='other')
            self.assertGreaterEqual(
                server.metric('penstock_worker_kv_fetched_blocks_total{worker="0"}'), len(FEW))
            self.assertEqual(misses(server), {})
            wait_until_nothing_is_kept(server)
            server.stop()

    def test_roles_that_change_while_requests_run(self):
        with Server(*FLAGS, *SPLIT, model='demo') as server:
            done = threading.Event()

            def swap():
                roles = ['prefill', 'decode']
                while not done.is_set():
                    roles.reverse()
                    for worker, role in ((0, 'both'), (1, 'both'), (0, roles[0]), (1, roles[1])):
                        change_role(server, worker, role)
                    done.wait(0.05)

            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                swapping = pool.submit(swap)
                try:
                    self.compare(server, FEW, salt='while')
                finally:
                    done.set()
                swapping.result()
            self.assertEqual(misses(server), {})
            wait_until_nothing_is_kept(server)
            server.stop()

    def test_quantized(self):
        with Server(*FLAGS, '--kv-type', 'q8_0', model='demo') as server:
            expected = ask_all(server, FEW)
            server.stop()
        with Server(*FLAGS, *SPLIT, '--kv-type', 'q8_0', model='demo') as server:
            self.compare(server, FEW, expected=expected)
            self.assertGreater(total(server, 'penstock_worker_kv_fetched_blocks_total'), 0)
            self.assertEqual(misses(server), {})
            wait_until_nothing_is_kept(server)
            server.stop()

    def test_clients_that_leave_and_leases_that_lapse_leave_nothing(self):
        with Server(*FLAGS, *SPLIT, '--kv-lease-s', '0.001', model='demo') as server:
            self.compare(server, FEW)
            for i, text in enumerate(list(CASES.values())[:12]):
                body = {'model': 'demo', 'stream': True, 'max_tokens': 100,
                        'cache_salt': f'client {i}',
                        'messages': [{'role': 'user', 'content': text}]}
                with server.connect() as connection:
                    connection.request('POST', '/v1/chat/completions', body)
                    if i % 3 == 1:  # it is under way
                        wait_until(lambda: total(server, 'penstock_requests_in_flight') > 0,
                                   'the request is in')
                    if i % 3 == 2:  # the answer has begun
                        connection.read_head()
            wait_until_nothing_is_kept(server)
            server.stop()

    def test_what_cannot_be_a_role(self):
        with Server(*FLAGS, *SPLIT, model='demo') as server:
            self.assertEqual(change_role(server, 7, 'both').status, 404)
            self.assertEqual(change_role(server, 'x', 'both').status, 404)
            self.assertEqual(change_role(server, 0, 'nothing').status, 400)
            self.assertEqual(change_role(server, 1, 'prefill').status, 400)  # nobody would answer
            self.assertEqual(server.get('/debug/workers/0/role').status, 405)
            server.stop()
        with Server('--workers', '2') as server:  # simulated
            self.assertEqual(change_role(server, 0, 'prefill').status, 422)


if __name__ == '__main__':
    unittest.main()
