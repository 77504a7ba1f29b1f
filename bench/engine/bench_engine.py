#!/usr/bin/env python3
"""Tokens/s and time to first token of Penstock's llama.cpp worker beside stock llama-server.

Both get the same model, threads, context a sequence and number of sequences, and are asked the same
prompts by `penstock bench` (closed loop, greedy, answers of a fixed length). One waits while the
other is asked; their order turns round each round, and a ratio is that of one round, so that what
drifts on the machine hits both. llama-server keeps its own defaults, prompt cache included.

    bench/engine/run.sh [--rounds 3] [--streams 1,4,16] [--workload shared,distinct] [--json FILE]
"""

import argparse
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from servers import PENSTOCK, Server, free_port, load, machine, say, span, table

MODEL = os.environ.get('PENSTOCK_DEMO_MODEL')  # both set by run.sh
LLAMA_SERVER = os.environ.get('PENSTOCK_LLAMA_SERVER')
CONTEXT = 2048
ANSWER = 48

# Prompt arguments. A word of the generated prompts is about a token.
WORKLOADS = {
    'distinct': ['--prompt-tokens', 256],
    'shared': ['--shared-prefix-tokens', 512, '--prompt-tokens', 64],
}


def penstock(streams, threads):
    port = free_port()
    return Server('penstock', [PENSTOCK, 'serve', '--model', MODEL, '--served-model-name', 'demo',
                               '--port', str(port), '--threads', str(threads),
                               '--sequences', str(streams), '--context', str(CONTEXT)],
                  port, '/ready')


def llama_server(streams, threads):
    port = free_port()
    return Server('llama-server', [LLAMA_SERVER, '--model', MODEL, '--alias', 'demo',
                                   '--host', '127.0.0.1', '--port', str(port),
                                   '--threads', str(threads), '--parallel', str(streams),
                                   '--ctx-size', str(CONTEXT * streams), '--no-webui'],
                  port, '/health')


def measure(server, streams, workload, seed):
    report = load(server, '--concurrency', streams, '--requests', max(6, 2 * streams),
                  '--max-tokens', ANSWER, *asked(workload, seed))
    ttft = report['latency_ms']['ttft']
    return {'tokens_per_s': report['tokens']['output'] / report['window_s'],
            'ttft_p50_ms': ttft['p50'], 'ttft_p90_ms': ttft['p90'],
            'itl_p50_ms': report['latency_ms']['itl']['p50'],
            'cached_ratio': report['tokens']['cached_ratio']}


def asked(workload, seed):
    return ['--temperature', 0, '--ignore-eos', '--seed', seed, *WORKLOADS[workload]]


def by_turns(workload, streams, options):
    """The figures of each round, by server."""
    runs = {'penstock': [], 'llama-server': []}
    with penstock(streams, options.threads) as ours, llama_server(streams, options.threads) as its:
        servers = [('penstock', ours), ('llama-server', its)]
        for _, server in servers:  # warms up
            load(server, '--concurrency', 1, '--requests', 1, '--max-tokens', 4,
                 *asked(workload, 0))
        for number in range(1, options.rounds + 1):
            for name, server in servers:
                got = measure(server, streams, workload, number)
                say(f'{workload}, {streams} streams, round {number}: {name} '
                    f'{got["tokens_per_s"]:.1f} tokens/s, TTFT p50 {got["ttft_p50_ms"]:.0f} ms')
                runs[name].append({'workload': workload, 'streams': streams, 'server': name,
                                   'round': number, **got})
            servers.reverse()
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--streams', default='1,4,16')
    parser.add_argument('--workload', default=','.join(WORKLOADS))
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--json', help='write every figure to this file')
    options = parser.parse_args()
    if not MODEL or not LLAMA_SERVER:
        parser.error('start it with bench/engine/run.sh, which sets up the model and llama-server')

    rows, everything = [], []
    for workload in options.workload.split(','):
        for streams in map(int, options.streams.split(',')):
            runs = by_turns(workload, streams, options)
            everything += [got for server in runs.values() for got in server]
            column = lambda name, key: [run[key] for run in runs[name]]

            def ratio(key):
                each = [a / b for a, b in zip(column('penstock', key), column('llama-server', key))]
                return f'{statistics.median(each):.2f}x ({span(each, 2)})'

            rows.append([workload, streams,
                         *(span(column(n, 'tokens_per_s'), 1) for n in runs),
                         ratio('tokens_per_s'),
                         *(span(column(n, 'ttft_p50_ms')) for n in runs),
                         ratio('ttft_p50_ms'),
                         *(span(column(n, 'itl_p50_ms'), 1) for n in runs)])
    print(f'\n{machine()}, {options.threads} threads, {CONTEXT} tokens of context a sequence, '
          f'{ANSWER} tokens an answer, {options.rounds} rounds (min–max; medians of the rounds\' '
          'ratios: tokens/s above 1 and TTFT below 1 are better)\n')
    print(table(['prompts', 'streams', 'tokens/s', 'llama-server', 'ratio', 'TTFT p50 ms',
                 'llama-server', 'ratio', 'ITL p50 ms', 'llama-server'], rows))
    if options.json:
        with open(options.json, 'w') as out:
            json.dump(everything, out, indent=1)


if __name__ == '__main__':
    main()
