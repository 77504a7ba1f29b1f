#!/usr/bin/env python3
"""2,000 clients that leave at random moments: nothing of theirs is left, and all are accounted for.

The moments come from a seed; what they meet at the server is as random as the machine. So each
client knows of its request only what is certain: it was complete, or never whole, or cut for sure,
or one of the latter two; and the sums must fit.
"""

import collections
import random
import sys
import threading
import unittest

from penstock import (Closed, Connection, Server, chat_body, completion_body, request_bytes,
                      wait_until)

SEED = 20240807
CANCELS = 2000
CANCELS_QUEUED = 400  # of those, while every place at the worker is taken
THREADS = 16

# Tokens of a request that is to be cut: it would run for minutes.
ENDLESS = 50_000
SEQUENCES = 256  # that the simulated worker runs at once

CHAT = '/v1/chat/completions'
COMPLETIONS = '/v1/completions'

# What 2,000 cancels may leave in memory: events of blocks for readers that lag, buffers, the
# allocator's floor. A prompt and its connection left behind by each would be more.
GROWTH_BYTES_MAX = 32 * 2**20

# What became of a request, as its client knows it.
ANSWERED = 'answered'    # every byte was read
CUT = 'cut'              # the server has it, and its answer cannot be complete
CUT_OR_LOST = 'cut or lost'  # as CUT, if the server has read it at all
NO_REQUEST = 'no request'  # the server cannot have the whole of it


class Client:
    """One request of random kind that is left at a random moment."""

    def __init__(self, port, seed):
        self.random = random.Random(seed)
        self.connection = Connection(port)
        self.stream = self.random.random() < 0.7
        self.prompt = ' '.join(self.random.choices(['red', 'green', 'blue'],
                                                   k=self.random.randint(1, 200)))

    def request(self, max_tokens):
        fields = {'max_tokens': max_tokens, 'stream': self.stream, 'seed': 1,
                  'n': self.random.choice([1, 1, 1, 3])}
        if self.random.random() < 0.5:
            return request_bytes('POST', CHAT, chat_body(self.prompt, **fields))
        return request_bytes('POST', COMPLETIONS, completion_body(self.prompt, **fields))

    def leave(self):
        """With a FIN or an RST; true for an RST."""
        if self.random.random() < 0.5:
            self.connection.close()
            return False
        self.connection.reset()
        return True

    def leave_unsent(self):
        whole = self.request(ENDLESS)
        self.connection.send(whole[:self.random.randrange(len(whole))])
        self.leave()
        return NO_REQUEST

    def leave_at_once(self):
        self.connection.send(self.request(ENDLESS))
        # An RST may overtake what the server has not read yet; a FIN comes after it.
        return CUT_OR_LOST if self.leave() else CUT

    def leave_soon(self):
        """After up to 30 ms, unless something comes: while queued, in the prompt's computing."""
        self.connection.send(self.request(ENDLESS))
        heard = self.connection.readable(self.random.random() * 0.03)
        return CUT_OR_LOST if self.leave() and not heard else CUT

    def leave_in_stream(self):
        self.stream = True
        self.connection.send(self.request(ENDLESS))
        self.connection.read_head()
        events = self.connection.events()
        for _ in range(self.random.randint(1, 12)):
            field, text = next(events)
            assert field == 'data' and text != '[DONE]', text
        self.leave()
        return CUT

    def leave_half(self):
        """Ends its own side only, and waits for the server to end the other."""
        self.connection.send(self.request(ENDLESS))
        self.connection.half_close()
        try:
            while True:
                self.connection.fill()
        except Closed:
            pass
        assert not self.connection.buffer.endswith(b'0\r\n\r\n'), 'a cut stream looks complete'
        self.connection.close()
        return CUT

    def leave_answered(self):
        self.connection.send(self.request(self.random.randint(1, 8)))
        answer = self.connection.read_response()
        assert answer.status == 200, answer
        self.leave()
        return ANSWERED

    def run(self, moments):
        try:
            return getattr(self, self.random.choice(moments))()
        finally:
            self.connection.close()


MOMENTS = ['leave_unsent', 'leave_at_once', 'leave_soon', 'leave_in_stream', 'leave_in_stream',
           'leave_half', 'leave_answered']
MOMENTS_QUEUED = ['leave_unsent', 'leave_at_once', 'leave_soon', 'leave_half']


class CancelTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        # A decode step takes 1.4 ms: streams are under way when they are cut.
        cls.server = Server(speedup=4)
        cls.addClassCleanup(cls.server.kill)
        cls.text = cls.server.chat('Are you well?').text()

    def tearDown(self):
        self.doCleanups()  # closes what the test opened
        self.check_nothing_is_left()
        self.server.check_log()

    def run_clients(self, seeds, moments):
        """All of them, THREADS at a time; counts what became of their requests."""
        ends = collections.Counter()
        failures = []
        lock = threading.Lock()
        seeds = iter(seeds)

        def work():
            while not failures:
                with lock:
                    seed = next(seeds, None)
                if seed is None:
                    return
                try:
                    end = Client(self.server.port, seed).run(moments)
                except Exception as error:  # told by the main thread
                    failures.append(f'seed {seed}: {error!r}')
                    return
                with lock:
                    ends[end] += 1

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        return ends

    def counts(self):
        """What the server counted so far: requests cancelled, ended as 499, and as 200."""
        metrics = self.server.metrics()

        def requests(status):
            return sum(value for name, value in metrics.items()
                       if name.startswith('penstock_requests_total') and f'"{status}"' in name)
        cancelled = metrics.get('penstock_requests_cancelled_total{reason="client_gone"}', 0)
        return collections.Counter(cancelled=cancelled, gone=requests(499), good=requests(200))

    def check_sums(self, before, ends):
        """What the server counted since `before` must be what the clients did."""
        counts = self.counts()
        counts.subtract(before)
        self.assertGreaterEqual(counts['cancelled'], ends[CUT])
        self.assertLessEqual(counts['cancelled'], ends[CUT] + ends[CUT_OR_LOST])
        self.assertEqual(counts['gone'], counts['cancelled'])
        self.assertEqual(counts['good'], ends[ANSWERED])

    def check_nothing_is_left(self):
        self.server.wait_until_idle()
        metrics = self.server.metrics()
        self.assertLessEqual(metrics['penstock_worker_kv_blocks{worker="0"}'],
                             metrics['penstock_worker_kv_blocks_max{worker="0"}'])
        self.assertEqual(metrics['penstock_worker_errors_total{worker="0"}'], 0)

    def occupy(self):
        """Takes every place at the worker, with requests that stay; returns their connections."""
        fillers = []
        for _ in range(2):
            filler = self.server.connect()
            self.addCleanup(filler.close)
            filler.request('POST', COMPLETIONS,
                           completion_body(n=SEQUENCES // 2, max_tokens=ENDLESS))
            fillers.append(filler)
        running = 'penstock_worker_running{worker="0"}'
        wait_until(lambda: self.server.metric(running) == SEQUENCES, 'every place is taken')
        return fillers

    def test_C1_C3_C4_2000_cancels_at_random_moments(self):
        resident_before = self.server.resident_bytes()
        before = self.counts()
        ends = self.run_clients(range(SEED, SEED + CANCELS - CANCELS_QUEUED), MOMENTS)
        self.check_nothing_is_left()
        self.check_sums(before, ends)
        for end in (ANSWERED, CUT, CUT_OR_LOST, NO_REQUEST):
            self.assertGreater(ends[end], 50, ends)

        # C4: nobody of these ever got a place, so leaving must be noticed in the queue.
        fillers = self.occupy()
        queued = self.run_clients(range(SEED + CANCELS - CANCELS_QUEUED, SEED + CANCELS),
                                  MOMENTS_QUEUED)
        ends += queued
        self.assertGreater(queued[CUT], 50)
        self.assertEqual(sum(ends.values()), CANCELS)
        waiting = 'penstock_worker_waiting{worker="0"}'
        wait_until(lambda: self.server.metric(waiting) == 0, 'the queue is empty again')
        self.assertEqual(self.server.metric('penstock_worker_running{worker="0"}'), SEQUENCES)
        self.assertEqual(self.server.metric('penstock_requests_in_flight'), len(fillers))
        for filler in fillers:
            filler.close()
        ends[CUT] += len(fillers)
        self.check_nothing_is_left()
        self.check_sums(before, ends)

        for _ in range(50):
            self.assertEqual(self.server.chat('Are you well?').text(), self.text)
        ends[ANSWERED] += 50
        self.check_nothing_is_left()
        self.check_sums(before, ends)
        self.assertLess(self.server.resident_bytes() - resident_before, GROWTH_BYTES_MAX)

    def test_C4_a_queued_request_is_visible_and_leaves_with_its_client(self):
        self.occupy()
        waiting = 'penstock_worker_waiting{worker="0"}'
        queued = [self.server.connect() for _ in range(5)]
        for connection in queued:
            self.addCleanup(connection.close)
            connection.request('POST', CHAT, chat_body(stream=True))
        wait_until(lambda: self.server.metric(waiting) == 5, 'five wait')
        states = [request['state'] for request in self.server.debug_requests()
                  if request['endpoint'] == 'chat_completions']
        self.assertEqual(states, ['waiting'] * 5)
        for left, connection in enumerate(queued, 1):
            connection.close()
            wait_until(lambda: self.server.metric(waiting) == 5 - left, 'one less waits')

    def test_C1_tokens_stop_when_the_client_leaves(self):
        with self.server.connect() as connection:
            connection.request('POST', CHAT, chat_body(stream=True, max_tokens=ENDLESS))
            connection.read_head()
            events = connection.events()
            for _ in range(5):
                next(events)
            self.assertEqual(len(self.server.debug_requests()), 1)
        self.check_nothing_is_left()
        # An idle worker makes no steps: none is computed for nobody.
        steps = 'penstock_worker_steps_total{worker="0"}'
        before = self.server.metric(steps)
        self.server.chat(max_tokens=3)
        self.assertLessEqual(self.server.metric(steps), before + 5)


if __name__ == '__main__':
    sys.exit(unittest.main())
