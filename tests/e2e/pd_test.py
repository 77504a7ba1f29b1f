#!/usr/bin/env python3
"""Prompt and answer at different workers: the demo model's greedy answers are the token ids that
one worker gives that does both, whatever moves, changes or ends meanwhile, and nothing is kept
afterwards.

A policy that predicts no times splits every request, so that what is tested is what happens.

PENSTOCK_BIN names the program; every_way_test.py asks more prompts.
"""

import concurrent.futures
import os
import signal
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


CASES = dict(list(exact_prompts.forty().items())[::8])


def ask_all(server, salt=''):
    """{name: (token ids, text)}"""
    fields = {'cache_salt': salt} if salt else {}
    answers = at_once(4, lambda text: ask(server, text, TOKENS, **fields), CASES)
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


def processes_of(server):
    """{pid: role} of the worker processes that the server has started."""
    with open(f'/proc/{server.process.pid}/task/{server.process.pid}/children',
              encoding='ascii') as file:
        found = {}
        for pid in file.read().split():
            try:
                with open(f'/proc/{pid}/cmdline', encoding='utf-8') as line:
                    words = line.read().split('\0')
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if '--role' in words:
                found[int(pid)] = words[words.index('--role') + 1]
        return found


def runs(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def change_role(server, worker, role):
    return server.request('POST', f'/debug/workers/{worker}/role?to={role}')


class Comparing(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        with Server(*FLAGS, '--workers', '2', '--policy', 'round-robin', model='demo') as server:
            cls.expected = ask_all(server)
            server.stop()

    def compare(self, server, salt=''):
        got = ask_all(server, salt)
        for name in CASES:
            self.assertEqual(got[name], self.expected[name], name)


class InOneProcessTest(Comparing):

    def test_split_answers_are_those_of_one_worker_also_after_role_changes(self):
        with Server(*FLAGS, *SPLIT, model='demo') as server:
            self.compare(server)
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
            self.compare(server, salt='other')
            self.assertGreaterEqual(
                server.metric('penstock_worker_kv_fetched_blocks_total{worker="0"}'), len(CASES))
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
                    self.compare(server, salt='while')
                finally:
                    done.set()
                swapping.result()
            self.assertEqual(misses(server), {})
            wait_until_nothing_is_kept(server)
            server.stop()

    def test_clients_that_leave_and_leases_that_lapse_leave_nothing(self):
        with Server(*FLAGS, *SPLIT, '--kv-lease-s', '0.001', model='demo') as server:
            self.compare(server)
            for i, text in enumerate(2 * list(CASES.values())):
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


class BetweenProcessesTest(Comparing):

    def split_between_processes(self, transfer):
        server = Server(*FLAGS, *SPLIT, '--processes', '--kv-transfer', transfer,
                        '--worker-heartbeat-s', '0.1', '--worker-lease-s', '2', model='demo')
        self.addCleanup(server.kill)
        self.compare(server)
        handed = 'penstock_requests_split_total{outcome="handed_over"}'
        self.assertEqual(server.metric(handed), len(CASES))
        self.assertEqual(total(server, 'penstock_requests_split_total'), len(CASES))
        wait_until(lambda: total(server, 'penstock_worker_kv_fetched_blocks_total') >= len(CASES),
                   'the blocks have come')
        path = {'shm': 'shared', 'tcp': 'tcp'}[transfer]
        for what in ('blocks', 'bytes', 'seconds'):
            family = f'penstock_worker_kv_transfer_{what}_total'
            self.assertGreater(sum(value for key, value in server.metrics().items()
                                   if key.startswith(f'{family}{{path="{path}"')), 0)
        self.assertEqual(misses(server), {})
        wait_until_nothing_is_kept(server)
        return server

    def test_processes_that_share_memory(self):
        server = self.split_between_processes('shm')
        workers = server.get('/debug/workers').json()['workers']
        prefill, decode = sorted(workers, key=lambda w: w['role'], reverse=True)
        for worker, role in ((prefill, 'both'), (decode, 'prefill'), (prefill, 'decode')):
            self.assertEqual(change_role(server, worker['worker'], role).status, 200)
        self.compare(server, 'swapped')
        self.assertEqual(misses(server), {})
        wait_until_nothing_is_kept(server)
        children = processes_of(server)
        server.stop()
        self.assertFalse(any(runs(pid) for pid in children), 'they end with it')

    def test_processes_over_tcp_and_a_server_that_is_killed(self):
        server = self.split_between_processes('tcp')
        children = processes_of(server)
        self.assertEqual(sorted(children.values()), ['decode', 'prefill'])
        server.signal(signal.SIGKILL)
        server.wait()
        wait_until(lambda: not any(runs(pid) for pid in children), 'they are gone with it')

    def test_a_prefill_process_that_is_killed_costs_time_only(self):
        server = Server(*FLAGS, *SPLIT, '--processes', '--worker-heartbeat-s', '0.1',
                        '--worker-lease-s', '2', model='demo')
        self.addCleanup(server.kill)
        leases = lambda: total(server, 'penstock_worker_kv_leases')
        for i in range(3):
            victim = next(pid for pid, role in processes_of(server).items() if role == 'prefill')
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                answers = pool.submit(ask_all, server, f'killed {i}')
                wait_until(lambda: answers.done() or leases() > 0, 'KV is kept for an answer')
                os.kill(victim, signal.SIGKILL)
                for name, got in answers.result().items():
                    self.assertEqual(got, self.expected[name], name)
            wait_until(lambda: [w['role'] for w in server.get('/debug/workers').json()['workers']
                                if w['state'] == 'ready'].count('prefill') == 1, 'it is back')
        self.compare(server, 'afterwards')
        wait_until_nothing_is_kept(server)
        server.stop()


if __name__ == '__main__':
    unittest.main()
