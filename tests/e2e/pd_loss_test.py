#!/usr/bin/env python3
"""Prompt and answer in different processes, of which the one that answers, or the front end, is
killed: what is answered is what one worker answers, token by token and with the same
probabilities, or it says that it is not complete; and nothing is kept for whoever is gone.

The models are random ones, written here: two that are split, and one that cannot be.
"""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from pd_test import misses, total, wait_until_nothing_is_kept
from penstock import WAIT_S, Closed, Connection, Server, run, wait_until
from random_model import write_model
from workers_test import FrontEnd, Worker, words

NAME = ('--served-model-name', 'm')
FLAGS = ('--exact', '--threads', '1', '--sequences', '8', '--block-tokens', '16',
         '--context', '2048')
SMALL = {'width': 64, 'layers': 2}
PROMPTS = [words(100 + 30 * i, 37 * i) for i in range(8)]
LONG = 1800  # tokens of an answer during which there is time for accidents
KNOWN = 200  # of those, that are compared
SHORT = 8


def body(prompt, tokens, **fields):
    return {'model': 'm', 'prompt': [t % 256 for t in prompt], 'max_tokens': tokens,
            'temperature': 0, 'ignore_eos': True, 'logprobs': 1, 'return_token_ids': True, **fields}


def said(choices):
    """What a choice's pieces say: [(token id, log probability)]."""
    tokens, numbers = [], []
    for choice in choices:
        tokens += choice.get('token_ids', [])
        numbers += (choice.get('logprobs') or {}).get('token_logprobs', [])
    return list(zip(tokens, numbers, strict=True))


def ask(server, prompt, tokens=SHORT, **fields):
    answer = server.request('POST', '/v1/completions', body(prompt, tokens, **fields))
    assert answer.status == 200, answer
    return said(answer.json()['choices'])


class Stream:
    """A long answer that is read on a thread of its own."""

    def __init__(self, server, prompt, **fields):
        self.got = []  # as said() has it
        self.end = ''  # '[DONE]', 'error', or 'closed'
        self.connection = Connection(server.port)
        self.connection.request('POST', '/v1/completions',
                                body(prompt, LONG, stream=True, **fields))
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        try:
            response = self.connection.read_head()
            if response.status != 200:
                self.connection.read_body(response)
                self.end = 'error' if response.error() else ''
                return
            for field, text in self.connection.events():
                if field != 'data' or text == '[DONE]':
                    self.end = text if field == 'data' else self.end
                    continue
                document = json.loads(text)
                if 'error' in document:
                    self.end = 'error'
                else:
                    self.got += said(document['choices'])
        except Closed:
            self.end = 'closed'
        finally:
            self.connection.close()

    def leave(self):
        with contextlib.suppress(OSError):  # it has just come to its end
            self.connection.socket.shutdown(socket.SHUT_RDWR)

    def wait(self):
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        return self.end


class SplitTest(unittest.TestCase):
    model_is = SMALL
    flags = ()
    tokens = KNOWN

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.model = os.path.join(cls.folder.name, 'm.gguf')
        write_model(cls.model, **cls.model_is)
        with Server(*NAME, *FLAGS, *cls.flags, model=cls.model) as alone:
            cls.answers = [ask(alone, prompt, cls.tokens) for prompt in PROMPTS]
        assert len({str(answer[:SHORT]) for answer in cls.answers}) == len(PROMPTS)

    def compare(self, server, **fields):
        """Several at a time, so that they decode together."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda prompt: ask(server, prompt, **fields), PROMPTS))
        self.assertEqual(answers, [answer[:SHORT] for answer in self.answers])


class KilledTest(SplitTest):

    def start(self, decoders):
        self.front_end = self.start_front_end()
        self.workers = [self.start_worker(role) for role in ['prefill'] + ['decode'] * decoders]
        self.wait_for_workers()

    def start_front_end(self, **options):
        front_end = FrontEnd(*NAME, '--policy', 'round-robin', model=self.model, **options)
        self.addCleanup(front_end.kill)
        return front_end

    def start_worker(self, role, **options):
        worker = Worker(self.front_end, '--role', role, *FLAGS, model=self.model, **options)
        self.addCleanup(worker.kill)
        return worker

    def wait_for_workers(self):
        self.front_end.wait_for({w.instance: 'ready' for w in self.workers})

    def streams(self, count, **fields):
        """So many answers, each at least begun."""
        streams = [Stream(self.front_end, prompt, **fields) for prompt in PROMPTS[:count]]
        wait_until(lambda: all(s.got or s.end for s in streams), 'answers have begun')
        return streams

    def check_streams(self, streams):
        """Each is what one worker says, as far as it came. Their ends."""
        for stream, answer in zip(streams, self.answers):
            stream.wait()
            self.assertEqual(stream.got[:KNOWN], answer[:len(stream.got)])
        return [stream.end for stream in streams]

    def test_a_decode_worker_that_is_killed_while_it_answers(self):
        self.start(decoders=2)
        streams = self.streams(6)
        victim = self.workers[2]
        victim.signal(signal.SIGKILL)
        victim.wait()
        self.compare(self.front_end)  # by the other one, meanwhile
        for stream in streams:
            if not stream.end:
                stream.leave()
        ends = self.check_streams(streams)
        self.assertIn('error', ends)
        self.assertTrue(set(ends) & {'closed', '[DONE]'}, ends)
        self.workers[2] = self.start_worker('decode', listen=victim.port)
        self.wait_for_workers()
        self.compare(self.front_end, cache_salt='afterwards')
        self.assertEqual(misses(self.front_end), {})
        wait_until_nothing_is_kept(self.front_end)
        self.front_end.stop()

    def test_the_front_end_is_killed_and_started_again(self):
        self.start(decoders=1)
        streams = self.streams(4)
        old = self.front_end
        old.signal(signal.SIGKILL)
        old.wait()
        self.assertEqual(set(self.check_streams(streams)), {'closed'})
        self.front_end = self.start_front_end(join_port=old.join_port)
        self.wait_for_workers()
        roles = sorted(w['role'] for w in self.front_end.workers())
        self.assertEqual(roles, ['decode', 'prefill'])
        # What they did for the one before has ended, the KV that they kept for it as well.
        wait_until_nothing_is_kept(self.front_end)
        self.compare(self.front_end)
        self.compare(self.front_end, cache_salt='other')
        fetched = total(self.front_end, 'penstock_worker_kv_fetched_blocks_total')
        self.assertGreaterEqual(fetched, 2 * len(PROMPTS))
        self.assertEqual(misses(self.front_end), {})
        wait_until_nothing_is_kept(self.front_end)
        self.front_end.stop()


class OtherArchitectureTest(SplitTest):
    model_is = {'architecture': 'qwen2', 'layers': 2, 'quantized': True}
    tokens = SHORT

    def test_it_is_split(self):
        for flags in ((), ('--processes', '--kv-transfer', 'tcp')):
            with Server(*NAME, *FLAGS, '--prefill', '1', '--decode', '1', '--policy', 'round-robin',
                        *flags, model=self.model) as server:
                self.compare(server)
                wait_until(lambda: total(server, 'penstock_worker_kv_fetched_blocks_total') >=
                           5 * len(PROMPTS), 'the blocks have come')
                self.assertEqual(misses(server), {})
                wait_until_nothing_is_kept(server)
                server.stop()


class QuantizedKvTest(SplitTest):
    model_is = {'quantized': True}
    flags = ('--kv-type', 'q8_0')
    tokens = SHORT

    def test_it_is_split_between_processes_and_there_after_a_restart(self):
        with tempfile.TemporaryDirectory() as disk:
            for life in range(2):
                with Server(*NAME, *FLAGS, *self.flags, '--prefill', '1', '--decode', '1',
                            '--policy', 'round-robin', '--processes', '--kv-disk', disk,
                            model=self.model) as server:
                    self.compare(server)  # the second time it is on disk
                    self.compare(server, cache_salt=f'life {life}')  # and this is not
                    wait_until(lambda: total(server, 'penstock_worker_kv_fetched_blocks_total') >=
                               5 * len(PROMPTS), 'the blocks have come')
                    self.assertEqual(misses(server), {})
                    wait_until_nothing_is_kept(server)
                    server.stop()


class RecurrentTest(unittest.TestCase):

    def test_it_is_not_split_and_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, 'm.gguf')
            write_model(model, architecture='mamba', **SMALL)
            split = ('serve', '--model', model, '--port', '0', '--prefill', '1', '--decode', '1')
            for flags in ((), ('--processes',)):
                status, _, error = run(*split, *flags)
                self.assertEqual(status, 1, error)
                self.assertIn('cannot be cut into blocks', error)
            with Server(*NAME, '--workers', '2', model=model) as server:
                for prompt in PROMPTS[:2]:  # as a whole
                    self.assertEqual(ask(server, prompt), ask(server, prompt))
                server.stop()


if __name__ == '__main__':
    unittest.main()
