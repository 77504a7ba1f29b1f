#!/usr/bin/env python3
"""Multi-turn conversations on several workers of the real demo model: what a policy finds cached,
how long first tokens take, and whether the router knew what would be cached.

Two kinds of load. Quiet: one conversation at a time, so nothing moves between a prediction and its
answer; every prediction must then be equal to what the worker reports, and the run fails if one
is not. Busy: several conversations at once, each turn following the answer before at once.

Workers of one machine share its cores, so throughput says little here: what differs between
policies is work saved. Figures are min-max over the rounds; policies take turns, and a round's
prompts are the same for all of them.
"""

import argparse
import http.client
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from servers import PENSTOCK, Server, free_port, load, machine, say, span, table

TURNS = 6
PROMPT_TOKENS = 120   # words of each turn
SYSTEM_TOKENS = 200   # of the system prompts that conversations share
GROUPS = 4            # of those
ANSWER_TOKENS = 32
CONTEXT = 4096


def get(server, path):
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=30)
    connection.request('GET', path)
    body = connection.getresponse().read()
    connection.close()
    return json.loads(body)


def serve(policy, workers, sequences):
    port = free_port()
    return Server(f'live-{policy}', [PENSTOCK, 'serve', '--model', 'demo', '--port', str(port),
                                     '--workers', str(workers), '--threads', '1',
                                     '--sequences', str(sequences), '--context', str(CONTEXT),
                                     '--policy', policy], port, '/ready')


def measure(policy, workers, clients, sessions, seed):
    with serve(policy, workers, max(2, clients)) as server:
        report = load(server, '--concurrency', clients, '--requests', sessions * TURNS,
                      '--turns', TURNS, '--prompt-tokens', PROMPT_TOKENS,
                      '--shared-prefix-tokens', SYSTEM_TOKENS, '--prefix-groups', GROUPS,
                      '--max-tokens', ANSWER_TOKENS, '--ignore-eos', '--temperature', 0,
                      '--timeout-s', 300, '--seed', seed)
        caches = [worker['cache'] for worker in get(server, '/debug/workers')['workers']]
        total = lambda name: sum(cache[name] for cache in caches)
        latency = report['latency_ms']
        return {'hits': report['tokens']['cached_ratio'],
                'ttft_p50_ms': latency['ttft']['p50'], 'ttft_p90_ms': latency['ttft']['p90'],
                'e2e_p50_ms': latency['e2e']['p50'],
                'tokens_per_s': report['tokens']['output'] / report['window_s'],
                'forecasts': total('forecasts'), 'equal': total('forecasts_equal'),
                'predicted': total('predicted_cached_tokens'),
                'reported': total('reported_cached_tokens')}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--clients', default='1,4', help='conversations at once; 1 is quiet')
    parser.add_argument('--sessions', type=int, default=12, help='conversations a round')
    parser.add_argument('--policy', default='latency,round-robin')
    parser.add_argument('--json', help='write every figure to this file')
    options = parser.parse_args()

    rows, everything, wrong = [], [], 0
    policies = options.policy.split(',')
    for clients in map(int, options.clients.split(',')):
        runs = {policy: [] for policy in policies}
        for round_number in range(options.rounds):
            for policy in policies if round_number % 2 == 0 else reversed(policies):
                got = measure(policy, options.workers, clients, options.sessions,
                              1000 * clients + round_number)
                say(f'{clients} at once, round {round_number + 1}: {policy} hits '
                    f'{got["hits"]:.3f}, TTFT p50 {got["ttft_p50_ms"]:.0f} ms, p90 '
                    f'{got["ttft_p90_ms"]:.0f} ms, {got["equal"]} of {got["forecasts"]} forecasts '
                    'equal')
                if clients == 1:
                    wrong += got['forecasts'] - got['equal']
                runs[policy].append(got)
                everything.append({'clients': clients, 'policy': policy,
                                   'round': round_number + 1, **got})
        for policy in policies:
            column = lambda name: [run[name] for run in runs[policy]]
            forecasts = sum(column('forecasts'))
            rows.append([clients, policy, span(column('hits'), 3), span(column('ttft_p50_ms')),
                         span(column('ttft_p90_ms')), span(column('e2e_p50_ms')),
                         span(column('tokens_per_s'), 1),
                         f'{sum(column("equal"))} of {forecasts}' if forecasts else 'none'])
    print(f'\n{machine()}; {options.workers} workers of one thread, {options.sessions} '
          f'conversations of {TURNS} turns a round, {options.rounds} rounds (min–max)\n')
    print(table(['at once', 'policy', 'cached ratio', 'TTFT p50 ms', 'TTFT p90 ms', 'e2e p50 ms',
                 'tokens/s', 'forecasts equal'], rows))
    if options.json:
        with open(options.json, 'w') as out:
            json.dump(everything, out, indent=1)
    if wrong:
        print(f'\n{wrong} forecasts of quiet runs were not equal to what the worker reported')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
