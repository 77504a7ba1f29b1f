#!/usr/bin/env python3
"""Workers in processes of their own: they join, answer as those of the front end's own process do,
and may be killed, stopped, hung and restarted, as the front end may."""

import re
import signal
import sys
import threading
import unittest

from penstock import START_S, WAIT_S, Closed, Connection, Process, Server, run, wait_until
from penstock import completion_body, model_flags

SECRET = 'open-sesame'
CANCELS = 300
THREADS = 8
FAST = ('--worker-heartbeat-s', '0.1', '--worker-lease-s', '2')


def words(count, first=0):
    """Token ids that are no special tokens."""
    return [1000 + (first + i) % 4000 for i in range(count)]


class FrontEnd(Server):
    """`penstock serve` that computes nothing itself."""

    def __init__(self, *flags, join_port=0, model='simulated', ready=False, **options):
        super().__init__('--workers', '0', '--join-listen', f'127.0.0.1:{join_port}', *FAST, *flags,
                         model=model, speedup=None, ready=ready, **options)
        match = re.search(r'^workers join at 127\.0\.0\.1:(\d+)$', self.stdout(), re.MULTILINE)
        self.join_port = int(match.group(1))

    def workers(self):
        answer = self.get('/debug/workers')
        return answer.json()['workers'] if answer.status == 200 else []

    def states(self):
        return {w['instance']: w['state'] for w in self.workers()}

    def wait_for(self, states):
        """Until exactly these workers are there, in these states."""
        wait_until(lambda: self.states() == states, f'{states}, not {self.states()}')


class Worker(Process):
    """`penstock worker`, by default with the simulated engine."""

    def __init__(self, front_end, *flags, model='simulated', speedup='max', listen=0):
        super().__init__('worker', *model_flags(model, speedup), '--join',
                         f'127.0.0.1:{front_end.join_port}', '--listen', f'127.0.0.1:{listen}',
                         *flags)
        match = self.wait_until(
            lambda: re.search(r'^worker (\w+) listening on 127\.0\.0\.1:(\d+)$', self.stdout(),
                              re.MULTILINE), 'it listens', START_S)
        self.instance = match.group(1)
        self.port = int(match.group(2))


def start_stream(server, prompt, **fields):
    """A streamed answer of which the first event has come: (connection, its events)."""
    connection = Connection(server.port)
    connection.request('POST', '/v1/completions',
                       completion_body(prompt, stream=True, max_tokens=100_000, **fields))
    response = connection.read_head()
    assert response.status == 200, response
    events = connection.events()
    next(events)
    return connection, events


class WorkersTest(unittest.TestCase):

    def start(self, speedups=('max', 'max'), **options):
        self.front_end = FrontEnd(**options)
        self.addCleanup(self.front_end.kill)
        self.workers = [self.add_worker(speedup=s) for s in speedups]
        self.front_end.wait_for({w.instance: 'ready' for w in self.workers})

    def add_worker(self, **options):
        worker = Worker(self.front_end, **options)
        self.addCleanup(worker.kill)
        return worker

    def ask(self, prompt, status=200, **fields):
        answer = self.front_end.request(
            'POST', '/v1/completions',
            {'model': 'simulated', 'prompt': prompt, 'max_tokens': 8, **fields})
        self.assertEqual(answer.status, status, answer)
        return answer

    def worker_of(self, count=1):
        """The worker process that runs a request now, and the others."""
        def found():
            busy = [w['instance'] for w in self.front_end.workers() if w['requests'] >= count]
            return busy[0] if len(busy) == 1 else None
        instance = wait_until(found, 'one worker has it')
        busy = next(w for w in self.workers if w.instance == instance)
        return busy, [w for w in self.workers if w is not busy]

    def expect_broken(self, events):
        """The rest of a stream says that it is not complete."""
        data = [text for field, text in events if field == 'data']
        self.assertIn('"error"', data[-1])
        self.assertNotIn('[DONE]', data)


class AnswersTest(WorkersTest):

    def test_answers_are_those_of_a_server_of_its_own(self):
        self.start()
        with Server() as alone:
            for i in range(20):
                body = {'model': 'simulated', 'prompt': words(50 + 40 * i, 99 * i), 'seed': i,
                        'max_tokens': 30, 'return_token_ids': True, 'cache_salt': f'tenant {i % 3}'}
                ours = self.front_end.request('POST', '/v1/completions', body).json()
                theirs = alone.request('POST', '/v1/completions', body).json()
                self.assertEqual(ours['choices'], theirs['choices'])
                self.assertEqual(ours['usage']['completion_tokens'], 30)

    def test_labels_choose_the_worker(self):
        self.start(speedups=())
        for zone in ('eu', 'us'):
            self.workers.append(Worker(self.front_end, '--labels', f'zone={zone},pool=a'))
            self.addCleanup(self.workers[-1].kill)
        self.front_end.wait_for({w.instance: 'ready' for w in self.workers})
        zones = {w['worker']: w['labels'] for w in self.front_end.workers()}
        self.assertEqual(sorted(zones.values()), ['zone=eu,pool=a', 'zone=us,pool=a'])

        def ask(labels, status):
            answer = self.front_end.request('POST', '/v1/completions', completion_body(),
                                            [('x-worker-labels', labels)])
            self.assertEqual(answer.status, status, answer)
            return answer

        for labels in ('zone=us', 'zone=eu', 'pool=a,zone=us', 'zone=us'):
            answer = ask(labels, 200)
            made = [d['worker'] for d in self.front_end.get('/debug/decisions').json()['decisions']
                    if d['request'] == answer.headers['x-request-id']]
            self.assertEqual([zones[worker] for worker in made], [f'zone={labels[-2:]},pool=a'])
        nowhere = ask('zone=mars', 503)
        self.assertEqual(nowhere.error()['param'], 'x-worker-labels')
        self.assertEqual(nowhere.headers['retry-after'], '1')
        self.assertEqual(ask('mars', 400).error()['param'], 'x-worker-labels')

    def test_conversations_stay_where_they_are_cached(self):
        self.start()
        for i in range(6):
            prompt = words(500, 600 * i)
            for turn in range(3):
                answer = self.ask(prompt, return_token_ids=True)
                cached = answer.json()['usage']['prompt_tokens_details']['cached_tokens']
                if turn > 0:
                    self.assertGreaterEqual(cached, (len(prompt) - 108) // 64 * 64)
                prompt += answer.json()['choices'][0]['token_ids'] + words(100, 77 * i)
                blocks = (len(prompt) - 101) // 64  # news of them may take a moment
                wait_until(lambda: sum(w['cache']['events'] for w in self.front_end.workers()) >=
                           blocks, 'the blocks are known')
        self.assertTrue(all(w['trust'] == 'exact' for w in self.front_end.workers()))

    def test_what_a_worker_refuses_is_a_refusal(self):
        self.start(speedups=('max',))
        error = self.ask(words(10), 422, grammar='root ::= "a"').error()
        self.assertIn('grammar', error['message'])
        self.assertEqual(self.front_end.states(), {self.workers[0].instance: 'ready'})

    def test_C3_cancels_leave_nothing_at_the_workers(self):
        self.start(speedups=(200, 200))
        failures = []

        def work(seed):
            for i in range(CANCELS // THREADS):
                try:
                    connection, events = start_stream(self.front_end, words(20, seed * 100 + i))
                    if i % 2:
                        next(events)
                    connection.reset()
                except Closed:
                    pass
                except Exception as error:  # told by the main thread
                    failures.append(repr(error))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.front_end.wait_until_idle()
        for worker in self.front_end.workers():
            self.assertEqual((worker['requests'], worker['prefills']), (0, 0))
        self.front_end.check_log()

    def test_top_shows_where_they_are(self):
        self.start(speedups=('max',))
        status, out, error = run('top', '--url', f'http://127.0.0.1:{self.front_end.port}/v1')
        self.assertEqual((status, error), (0, ''))
        self.assertRegex(out.splitlines()[5],
                         rf'^ +0  ready +exact .*127\.0\.0\.1:{self.workers[0].port}$')


class LossTest(WorkersTest):

    def test_a_killed_worker_breaks_its_streams_and_no_other(self):
        self.start(speedups=(10, 10))
        connection, events = start_stream(self.front_end, words(100))
        self.addCleanup(connection.close)
        busy, (other,) = self.worker_of()
        busy.signal(signal.SIGKILL)
        self.expect_broken(events)
        for i in range(5):
            self.ask(words(100, 500 * i), max_tokens=2)
        states = self.front_end.states()
        self.assertEqual(states[other.instance], 'ready')
        self.assertNotEqual(states.get(busy.instance), 'ready')
        self.front_end.wait_for({other.instance: 'ready'})  # its lease has ended
        connection.close()
        self.front_end.wait_until_idle()
        self.front_end.check_log()

    def test_without_a_worker_it_is_not_ready(self):
        self.start(speedups=('max',))
        self.assertEqual(self.front_end.get('/ready').status, 200)
        self.workers[0].signal(signal.SIGKILL)
        wait_until(lambda: self.front_end.get('/ready').status == 503, 'nobody is left')
        self.assertIn('no worker', self.front_end.get('/ready').json()['reason'])
        self.assertEqual(self.front_end.metric('penstock_ready'), 0)
        self.ask(words(10), status=503)
        self.add_worker()
        wait_until(lambda: self.front_end.get('/ready').status == 200, 'another has come')
        self.assertEqual(self.front_end.metric('penstock_ready'), 1)

    def test_what_has_no_token_yet_goes_to_another_worker(self):
        self.start(speedups=(1e-9,))  # its passes never end
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.ask(words(100))))
        thread.start()
        self.addCleanup(thread.join)
        busy, _ = self.worker_of()
        self.workers.append(self.add_worker())
        self.front_end.wait_for({w.instance: 'ready' for w in self.workers})
        busy.signal(signal.SIGKILL)
        thread.join(WAIT_S)
        self.assertEqual(len(answers), 1)
        self.assertEqual(self.front_end.metric('penstock_requests_moved_total'), 1)

    def test_a_stopped_worker_is_noticed_and_forgotten_and_may_come_back(self):
        self.start(speedups=(10, 10))
        connection, events = start_stream(self.front_end, words(100))
        self.addCleanup(connection.close)
        stopped, (other,) = self.worker_of()
        stopped.signal(signal.SIGSTOP)
        self.addCleanup(stopped.signal, signal.SIGCONT)
        wait_until(lambda: self.front_end.states().get(stopped.instance) != 'ready', 'suspect')
        for i in range(5):
            self.ask(words(100, 500 * i), max_tokens=2)
        self.expect_broken(events)
        self.front_end.wait_for({other.instance: 'ready'})
        stopped.signal(signal.SIGCONT)
        self.front_end.wait_for({w.instance: 'ready' for w in self.workers})
        self.ask(words(100), max_tokens=2)

    def test_a_worker_that_is_restarted_is_another(self):
        self.start(speedups=('max',))
        prompt = words(500)
        self.ask(prompt)
        old = self.workers[0]
        old.signal(signal.SIGKILL)
        old.wait()
        new = self.add_worker(listen=old.port)
        self.assertNotEqual(new.instance, old.instance)
        self.front_end.wait_for({new.instance: 'ready'})
        cached = self.ask(prompt).json()['usage']['prompt_tokens_details']['cached_tokens']
        self.assertEqual(cached, 0)
        page = self.front_end.workers()[0]['cache']
        self.assertEqual(page['forecasts'], page['forecasts_equal'])

    def test_a_front_end_that_is_restarted_finds_its_workers(self):
        self.start()
        prompt = words(500)
        self.ask(prompt)
        self.front_end.signal(signal.SIGKILL)
        self.front_end.wait()
        old = self.front_end
        self.front_end = FrontEnd(join_port=old.join_port)
        self.addCleanup(self.front_end.kill)
        self.front_end.wait_for({w.instance: 'ready' for w in self.workers})
        wait_until(lambda: sum(w['cache']['events'] for w in self.front_end.workers()) >= 7,
                   'what they hold is known')
        cached = self.ask(prompt).json()['usage']['prompt_tokens_details']['cached_tokens']
        self.assertEqual(cached, 448)

    def test_no_worker_is_an_answer_too(self):
        self.start(speedups=('max',))
        self.workers[0].signal(signal.SIGKILL)
        self.front_end.wait_for({})
        self.assertEqual(self.ask(words(10), 503).headers['retry-after'], '1')
        self.assertEqual(self.front_end.get('/health').status, 200)
        self.workers = [self.add_worker()]
        self.front_end.wait_for({self.workers[0].instance: 'ready'})
        self.ask(words(10))

    def test_a_worker_that_is_told_to_end_finishes_what_it_has(self):
        self.start(speedups=(20, 20))
        connection, events = start_stream(self.front_end, words(100), seed=1)
        self.addCleanup(connection.close)
        ending, (other,) = self.worker_of()
        ending.signal()
        wait_until(lambda: self.front_end.states().get(ending.instance) == 'draining', 'draining')
        for i in range(3):
            self.ask(words(100, 500 * i), max_tokens=2)
        next(events)  # still coming
        self.assertIsNone(ending.process.poll())
        connection.close()
        self.assertEqual(ending.wait(), 0)
        self.front_end.wait_for({other.instance: 'ready'})
        other.signal()
        self.assertEqual(other.wait(), 0)
        self.front_end.wait_for({})
        self.front_end.stop()


class JoinTest(WorkersTest):

    def test_only_who_knows_the_secret_joins(self):
        self.front_end = FrontEnd('--join-secret', SECRET)
        self.addCleanup(self.front_end.kill)
        stranger = self.add_worker()
        friend = Worker(self.front_end, '--join-secret', SECRET)
        self.addCleanup(friend.kill)
        self.front_end.wait_for({friend.instance: 'ready'})
        self.ask(words(10))
        stranger.wait_until(lambda: 'secret' in stranger.stderr(), 'it is told', WAIT_S)

    def test_a_worker_that_does_not_fit_is_told_why(self):
        self.start(speedups=('max',))
        odd = self.add_worker(model='demo')
        odd.wait_until(lambda: 'does not fit' in odd.stderr(), 'it is told', WAIT_S)
        self.assertEqual(self.front_end.states(), {self.workers[0].instance: 'ready'})

    def test_own_workers_and_others_serve_together(self):
        self.front_end = Server('--workers', '1', '--join-listen', '127.0.0.1:0', *FAST,
                                '--labels', 'zone=here')
        self.addCleanup(self.front_end.kill)
        self.front_end.__class__ = FrontEnd
        self.front_end.join_port = int(re.search(r'workers join at [\d.]+:(\d+)',
                                                 self.front_end.stdout()).group(1))
        worker = self.add_worker()
        self.front_end.wait_for({None: 'ready', worker.instance: 'ready'})
        for i in range(20):
            self.ask(words(100, 200 * i))
        self.assertTrue(all(w['completion_tokens'] > 0 for w in self.front_end.workers()))
        self.assertEqual([w['labels'] for w in self.front_end.workers()], ['zone=here', None])
        for _ in range(5):
            answer = self.front_end.request('POST', '/v1/completions', completion_body(),
                                            [('x-worker-labels', 'zone=here')])
            self.assertEqual(answer.status, 200, answer)
        decisions = self.front_end.get('/debug/decisions').json()['decisions']
        self.assertEqual([d['worker'] for d in decisions[:5]], [0] * 5)

    def test_ready_says_who_is_missing(self):
        self.front_end = FrontEnd()
        self.addCleanup(self.front_end.kill)
        wait_until(lambda: 'no worker has joined' in self.front_end.get('/ready').json()['reason'],
                   'it waits for one')
        self.ask(words(10), 503)
        self.front_end.stop()

    def test_flags_are_checked(self):
        for arguments, said in [
                (('serve', '--model', 'simulated', '--workers', '0'), '--join-listen'),
                (('serve', '--model', 'simulated', '--join-listen', '0.0.0.0:0'), '--join-secret'),
                (('serve', '--model', 'simulated', '--labels', 'eu'), '--labels'),
                (('serve', '--model', 'simulated', '--labels', 'process=1'), '--labels'),
                (('serve', '--model', 'demo', '--join-listen', '0.0.0.0:0', '--join-secret',
                  'sixteen-characters-or-more', '--kv-transfer', 'tcp'), '--kv-transfer tcp'),
                (('worker', '--join', '127.0.0.1:1'), '--model'),
                (('worker', 'simulated'), '--join'),
                (('worker', 'simulated', '--join', '127.0.0.1:1', '--listen', '0.0.0.0:0'),
                 '--join-secret'),
                (('worker', 'simulated', '--join', '127.0.0.1:1', '--listen', '127.evil:0'),
                 '--join-secret'),
                (('worker', 'simulated', '--join', '127.0.0.1:1', '--advertise', 'here:80x'),
                 '--advertise'),
                (('worker', 'simulated', '--join', 'nowhere'), '--join'),
                (('worker', 'simulated', '--join', '127.0.0.1:1', '--labels', 'eu'), '--labels'),
        ]:
            status, _, error = run(*arguments)
            self.assertEqual(status, 2, error)
            self.assertIn(said, error)


class RealModelTest(WorkersTest):

    def test_greedy_answers_are_those_of_a_server_of_its_own(self):
        self.front_end = FrontEnd(model='demo')
        self.addCleanup(self.front_end.kill)
        flags = ('--threads', '1', '--context', '1024')
        self.workers = [Worker(self.front_end, *flags, model='demo') for _ in range(2)]
        for worker in self.workers:
            self.addCleanup(worker.kill)
        self.front_end.wait_for({w.instance: 'ready' for w in self.workers})
        bodies = [{'model': 'demo', 'temperature': 0, 'max_tokens': 24, 'logprobs': True,
                   'top_logprobs': 3, 'messages': [{'role': 'user', 'content': content}]}
                  for content in ('What is the capital of France?', 'Write a haiku about rain.',
                                  'Count from one to ten.', 'Why is the sky blue?')]
        bodies[3]['response_format'] = {'type': 'json_object'}
        with Server('--workers', '1', *flags, model='demo') as alone:
            for body in bodies:
                answers = [server.request('POST', '/v1/chat/completions', body)
                           for server in (self.front_end, alone)]
                self.assertEqual([a.status for a in answers], [200, 200], answers)
                self.assertEqual(answers[0].json()['choices'], answers[1].json()['choices'])


if __name__ == '__main__':
    sys.exit(unittest.main())
