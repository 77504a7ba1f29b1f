#!/usr/bin/env python3
"""Several workers behind one server: who gets what, why, and that the pages say so."""

import sys
import threading
import unittest

from cancel_test import MOMENTS, SEED, Client
from penstock import Closed, Server, run

CANCELS = 2000
THREADS = 16
WORKERS = 3
BLOCK = 64  # tokens, of the simulated engine

RANK = 'x-data-parallel-rank'
TTFT = 'x-slo-ttft-ms'


def words(count, first=0):
    """Token ids that are no special tokens."""
    return [1000 + (first + i) % 4000 for i in range(count)]


class RoutingTest(unittest.TestCase):

    flags = ()
    speedup = 'max'

    @classmethod
    def setUpClass(cls):
        cls.server = Server('--workers', str(WORKERS), *cls.flags, speedup=cls.speedup)
        cls.addClassCleanup(cls.server.kill)

    def tearDown(self):
        self.doCleanups()
        self.server.wait_until_idle()
        self.server.check_log()

    def ask(self, prompt, status=200, headers=(), **fields):
        answer = self.server.request(
            'POST', '/v1/completions',
            {'model': 'simulated', 'prompt': prompt, 'max_tokens': 4, **fields}, headers)
        self.assertEqual(answer.status, status, answer)
        return answer

    def page(self, name):
        answer = self.server.get(f'/debug/{name}')
        self.assertEqual(answer.status, 200, answer)
        return answer.json()

    def decision(self, answer):
        """What was decided for the request that was answered so."""
        found = [d for d in self.page('decisions')['decisions']
                 if d['request'] == answer.headers['x-request-id']]
        self.assertEqual(len(found), 1, answer)
        return found[0]


class PlacementTest(RoutingTest):

    def test_conversations_stay_where_they_are_cached(self):
        prompts = [words(500, 600 * i) for i in range(8)]
        homes = []
        for turn in range(4):
            for i, prompt in enumerate(prompts):
                answer = self.ask(prompt, return_token_ids=True, cache_salt='conversations')
                decision = self.decision(answer)
                cached = answer.json()['usage']['prompt_tokens_details']['cached_tokens']
                self.assertEqual(decision['predicted']['cached_tokens'], cached)
                self.assertEqual(decision['reported']['cached_tokens'], cached)
                if turn == 0:
                    homes.append(decision['worker'])
                    self.assertEqual(cached, 0)
                else:
                    self.assertEqual(decision['worker'], homes[i])
                    self.assertGreaterEqual(cached, (len(prompt) - 108) // BLOCK * BLOCK)
                prompt += answer.json()['choices'][0]['token_ids'] + words(100, 77 * i)
        self.assertGreater(len(set(homes)), 1)
        for worker in self.page('workers')['workers']:
            self.assertEqual((worker['state'], worker['trust']), ('ready', 'exact'))
            self.assertEqual(worker['cache']['forecasts'], worker['cache']['forecasts_equal'])
        metrics = self.server.metrics()
        for name in ('forecasts', 'predicted_cached_tokens', 'reported_cached_tokens'):
            self.assertGreater(sum(metrics[f'penstock_router_{name}_total{{worker="{i}"}}']
                                   for i in range(WORKERS)), 0)

    def test_one_tenants_cache_is_not_anothers(self):
        prompt = words(500, 9000)
        first = self.decision(self.ask(prompt, cache_salt='a'))
        again = self.decision(self.ask(prompt, cache_salt='a'))
        other = self.decision(self.ask(prompt, cache_salt='b'))
        self.assertEqual(again['worker'], first['worker'])
        self.assertEqual(again['predicted']['cached_tokens'], 448)
        self.assertEqual(other['predicted']['cached_tokens'], 0)

    def test_a_decision_explains_itself(self):
        page = self.page('decisions')
        decision = self.decision(self.ask(words(100, 5000)))
        self.assertEqual(page['policy'], 'latency')
        self.assertEqual(decision['rule'], 'least added ms')
        self.assertEqual([c['worker'] for c in decision['candidates']], list(range(WORKERS)))
        terms = {name for c in decision['candidates'] for name in c['terms']}
        self.assertIn('first_token_ms', terms)
        costs = [c['cost'] for c in decision['candidates']]
        self.assertEqual(costs[decision['worker']], min(costs))
        self.assertGreater(decision['predicted']['ttft_ms'], 0)

    def test_a_rank_is_that_worker(self):
        for rank in (2, 0, 2):
            answer = self.ask(words(100, 6000), headers=[(RANK, rank)])
            self.assertEqual(self.decision(answer)['worker'], rank)
        for bad in ('3', '-1', 'x', '1.5'):
            error = self.ask(words(100), 400, [(RANK, bad)]).error()
            self.assertEqual(error['param'], RANK)

    def test_what_would_come_too_late_is_refused_at_once(self):
        answer = self.ask(words(100, 7000), 429, [(TTFT, '0')])
        self.assertGreaterEqual(int(answer.headers['retry-after']), 1)
        self.assertIn('too late', answer.error()['message'])
        self.assertTrue(self.page('decisions')['decisions'][0]['shed'])
        self.ask(words(100, 7000), headers=[(TTFT, '60000')])
        self.assertEqual(self.ask(words(100), 400, [(TTFT, 'soon')]).error()['param'], TTFT)

    def test_choices_of_one_prompt_share_a_worker(self):
        before = self.decision(self.ask(words(10)))['number']
        answer = self.ask(words(2000, 8000), n=4)
        made = [d for d in self.page('decisions')['decisions'] if d['number'] > before]
        self.assertEqual(len(made), 4, answer)
        self.assertEqual(len({d['worker'] for d in made}), 1)

    def test_top_prints_a_frame(self):
        self.ask(words(100))
        status, out, error = run('top', '--url', f'http://127.0.0.1:{self.server.port}/v1')
        self.assertEqual((status, error), (0, ''))
        lines = out.splitlines()
        self.assertIn('policy latency', lines[0])
        self.assertEqual(len(lines), 5 + WORKERS, out)
        for line in lines[5:]:
            self.assertRegex(line, r'^ +\d  ready +exact ')
        self.assertNotIn('\x1b', out)

    def test_no_such_debug_page(self):
        self.assertEqual(self.server.get('/debug/everything').status, 404)
        self.assertEqual(self.server.request('POST', '/debug/workers').status, 405)


class CancelTest(RoutingTest):

    speedup = 4  # a decode step takes 1.4 ms: what is to be cut does not end by itself

    def test_C3_2000_cancels_leave_no_request_with_a_worker(self):
        """Which of them had a place already when they left is chance; afterwards none has."""
        seeds = iter(range(SEED, SEED + CANCELS))
        failures = []
        lock = threading.Lock()

        def work():
            while not failures:
                with lock:
                    seed = next(seeds, None)
                if seed is None:
                    return
                try:
                    Client(self.server.port, seed).run(MOMENTS)
                except Closed:
                    pass
                except Exception as error:  # told by the main thread
                    failures.append(f'seed {seed}: {error!r}')

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.server.wait_until_idle()
        for worker in self.page('workers')['workers']:
            self.assertEqual((worker['requests'], worker['prefills']), (0, 0))


class OtherPoliciesTest(RoutingTest):

    flags = ('--policy', 'round-robin', '--decisions', '3', '--api-key', 'secret')

    def setUp(self):
        self.server.key = 'secret'

    def test_round_robin_takes_turns_and_the_log_is_bounded(self):
        answers = [self.ask(words(200)) for _ in range(WORKERS)]
        workers = [self.decision(answer)['worker'] for answer in answers]
        self.assertEqual(sorted(workers), list(range(WORKERS)))
        for _ in range(5):
            self.ask(words(10))
        self.assertEqual(len(self.page('decisions')['decisions']), 3)

    def test_pages_want_the_key(self):
        self.server.key = None
        self.addCleanup(setattr, self.server, 'key', 'secret')
        for page in ('workers', 'decisions', 'requests'):
            self.assertEqual(self.server.get(f'/debug/{page}').status, 401)
        url = f'http://127.0.0.1:{self.server.port}'
        status, _, error = run('top', '--url', url)
        self.assertEqual(status, 1)
        self.assertIn('--api-key', error)
        self.assertEqual(run('top', '--once', '--url', url, '--api-key', 'secret')[0], 0)


class FlagsTest(unittest.TestCase):

    def test_policies_are_listed_and_checked(self):
        listed = run('serve', '--help')[1]
        for name in ('latency', 'round-robin', 'dynamo', 'aibrix-prefix'):
            self.assertIn(f'  {name} ', listed)
        status, _, error = run('serve', '--model', 'simulated', '--policy', 'latncy')
        self.assertEqual(status, 2)
        self.assertIn('did you mean latency?', error)

    def test_top_says_what_is_wrong(self):
        status, _, error = run('top', '--url', 'http://127.0.0.1:1')
        self.assertEqual(status, 1)
        self.assertIn('127.0.0.1', error)
        self.assertEqual(run('top', '--url', 'ftp://x')[0], 2)


if __name__ == '__main__':
    sys.exit(unittest.main())
