#!/usr/bin/env python3
"""Forty prompts by every way an answer can come: computed by several workers, split between two of
one process, over shared memory, over TCP, restored from host memory, from disk after kill -9 and
after an orderly restart, with the prompts' worker killed while KV is on its way, with roles that
change. Each answer's token ids, log probabilities and text are those of one worker that computes
everything. With the demo model, the same with q8_0 KV, and a model of another architecture.

PENSTOCK_BIN names the program. A line for each way says what was compared and what was moved.
"""

import concurrent.futures
import os
import signal
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import exact_prompts
from pd_test import (FLAGS, SPLIT, change_role, misses, processes_of, total,
                     wait_until_nothing_is_kept)
from penstock import Server, wait_until
from random_model import write_model
from stock import at_once
from workers_test import words

TOKENS = 8
LIVELY = ('--worker-heartbeat-s', '0.1', '--worker-lease-s', '2')


def ask(server, prompt, salt, **headers):
    """(token ids, log probabilities, text) and how many tokens of the prompt were cached."""
    answer = server.request('POST', '/v1/completions', {
        'model': server.model, 'prompt': prompt, 'max_tokens': TOKENS, 'temperature': 0,
        'logprobs': 1, 'ignore_eos': True, 'return_token_ids': True, 'cache_salt': salt,
    }, list(headers.items()))
    assert answer.status == 200, answer
    document = answer.json()
    choice = document['choices'][0]
    assert len(choice['token_ids']) == TOKENS, choice
    return ((choice['token_ids'], choice['logprobs']['token_logprobs'], choice['text']),
            document['usage']['prompt_tokens_details']['cached_tokens'])


def given(server, tier):
    return int(sum(value for name, value in server.metrics().items()
                   if name.startswith(f'penstock_kv_tier_given_total{{tier="{tier}"')))


class Ways:
    """Of one model; `flags` are the engine's beyond FLAGS."""

    name = 'm'
    flags = ()

    @classmethod
    def setUpClass(cls):
        with cls.serve('--workers', '1', '--kv-cache-mib', '0') as server:
            got = at_once(4, lambda prompt: ask(server, prompt, 'first'), cls.prompts())
            server.stop()
        cls.expected = {name: said for name, (said, _) in got.items()}
        assert len(cls.expected) >= 40
        assert not any(cached for _, cached in got.values())
        assert len({str(said) for said in cls.expected.values()}) > 30, 'answers differ'

    @classmethod
    def serve(cls, *flags):
        server = Server(*FLAGS, *cls.flags, *flags, model=cls.model())
        server.model = cls.name
        return server

    def ask_all(self, server, salt='first', **headers):
        """Tokens of prompts that were cached."""
        prompts = self.prompts()
        got = at_once(4, lambda prompt: ask(server, prompt, salt, **headers), prompts)
        for name in prompts:
            self.assertEqual(got[name][0], self.expected[name], name)
        return sum(cached for _, cached in got.values())

    def say(self, way, more=''):
        count = len(self.expected)
        print(f'{type(self).__name__:9} {way:34} {count} prompts, {count * TOKENS} tokens and log '
              f'probabilities equal{more}', file=sys.stderr, flush=True)

    def test_several_workers_that_compute(self):
        with self.serve('--workers', '2', '--policy', 'round-robin') as server:
            self.ask_all(server)
            server.stop()
        self.say('aggregated, two workers')

    def split(self, way, *flags):
        with self.serve(*SPLIT, *flags) as server:
            self.ask_all(server)
            handed = server.metric('penstock_requests_split_total{outcome="handed_over"}')
            self.assertEqual(handed, len(self.expected))
            wait_until(lambda: total(server, 'penstock_worker_kv_fetched_blocks_total') >= handed,
                       'the blocks have come')
            self.assertEqual(misses(server), {})
            wait_until_nothing_is_kept(server)
            blocks = total(server, 'penstock_worker_kv_fetched_blocks_total')
            server.stop()
        self.say(way, f'; all split, {blocks:.0f} blocks moved')

    def test_split_in_one_process(self):
        self.split('split, in process')

    def test_split_over_shared_memory(self):
        self.split('split, shared memory', '--processes', '--kv-transfer', 'shm')

    def test_split_over_tcp(self):
        self.split('split, TCP between processes', '--processes', '--kv-transfer', 'tcp')

    @staticmethod
    def bad_reads(server):
        """Without what computing is as quick as, or was by the time."""
        return {key: value for key, value in server.metrics().items()
                if key.startswith('penstock_kv_tier_missed_total') and value and
                not any(reason in key for reason in ('deadline', 'not_worth'))}

    def test_restored_from_host_and_disk_after_kill_9_and_after_a_restart(self):
        with tempfile.TemporaryDirectory() as folder:
            flags = ('--workers', '2', '--kv-host-mib', '1024', '--kv-disk', folder)
            with self.serve(*flags) as server:
                self.ask_all(server, **{'x-data-parallel-rank': '0'})
                # The other worker has nothing of its own.
                cached = self.ask_all(server, **{'x-data-parallel-rank': '1'})
                self.assertGreater(given(server, 'host'), 0)
                self.say('restored from host memory', f'; {given(server, "host")} blocks, {cached} '
                         'tokens cached')
                held = server.metric('penstock_kv_tier_blocks{tier="host"}')
                wait_until(lambda: server.metric('penstock_kv_tier_blocks{tier="disk"}') >= held,
                           'all of it is on disk')
                server.signal(signal.SIGKILL)
                server.wait()
            for life, rank in (('kill -9', '0'), ('a restart', '1')):
                with self.serve(*flags) as server:
                    again = self.ask_all(server, **{'x-data-parallel-rank': rank})
                    self.assertGreater(again, 0)
                    self.assertGreater(given(server, 'disk'), 0)
                    self.assertEqual(self.bad_reads(server), {})
                    self.say(f'restored from disk after {life}', f'; {given(server, "disk")} '
                             f'blocks, {again} tokens cached')
                    server.stop()

    def test_the_prompts_worker_is_killed_while_kv_is_on_its_way(self):
        kills = 0
        with self.serve(*SPLIT, '--processes', '--kv-transfer', 'tcp', *LIVELY) as server:

            def prefill():
                """The prompts' worker once it is one again, its number and its process."""
                ready = [w['worker'] for w in server.get('/debug/workers').json()['workers']
                         if w['state'] == 'ready' and w['role'] == 'prefill']
                pids = [pid for pid, role in processes_of(server).items() if role == 'prefill']
                return pids[0] if len(ready) == 1 and len(pids) == 1 else None

            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                answers = pool.submit(self.ask_all, server)
                while not answers.done() and kills < 4:  # it is started again later each time
                    wait_until(lambda: answers.done() or prefill(), 'there is one')
                    victim = prefill()
                    wait_until(lambda: answers.done() or
                               total(server, 'penstock_worker_kv_leases') > 0, 'KV is kept')
                    if victim is None or answers.done():
                        continue
                    # Stopped first: who takes the KV over is left in the middle of it.
                    os.kill(victim, signal.SIGSTOP)
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
                    wait_until(lambda: answers.done() or victim not in processes_of(server),
                               'it is gone')
                answers.result()
            self.assertGreater(kills, 0)
            wait_until(prefill, 'it is back')
            self.ask_all(server, 'afterwards')
            wait_until_nothing_is_kept(server)
            outcomes = {key.split('"')[1]: int(value) for key, value in server.metrics().items()
                        if key.startswith('penstock_requests_split_total{') and value}
            server.stop()
        self.say('prefill killed, KV on its way', f'; {kills} kills, legs {outcomes}')

    def roles_change(self, way, *flags):
        changes = 0
        with self.serve(*SPLIT, *flags) as server:
            done = threading.Event()

            def swap():
                nonlocal changes
                roles = ['prefill', 'decode']
                while not done.wait(0.2):
                    roles.reverse()
                    for worker, role in ((0, 'both'), (1, 'both'), (0, roles[0]), (1, roles[1])):
                        changes += change_role(server, worker, role).status == 200

            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                swapping = pool.submit(swap)
                try:
                    self.ask_all(server)
                finally:
                    done.set()
                swapping.result()
            self.assertGreater(changes, 0)
            self.assertEqual(misses(server), {})
            wait_until_nothing_is_kept(server)
            server.stop()
        self.say(way, f'; {changes} changes')

    def test_roles_change_in_one_process(self):
        self.roles_change('roles change, in process')

    def test_roles_change_between_processes(self):
        self.roles_change('roles change, processes', '--processes', *LIVELY)


class Demo(Ways, unittest.TestCase):
    name = 'demo'

    @staticmethod
    def model():
        return 'demo'

    @staticmethod
    def prompts():
        return exact_prompts.forty()


class Q8(Demo):
    flags = ('--kv-type', 'q8_0')


class Qwen2(Ways, unittest.TestCase):
    flags = ('--served-model-name', 'm')

    @classmethod
    def setUpClass(cls):
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.path = os.path.join(folder, 'm.gguf')
        write_model(cls.path, architecture='qwen2', quantized=True)
        super().setUpClass()

    @classmethod
    def model(cls):
        return cls.path

    @staticmethod
    def prompts():
        return {f'{i}': [t % 256 for t in words(100 + 9 * i, 37 * i)] for i in range(40)}


if __name__ == '__main__':
    unittest.main()
