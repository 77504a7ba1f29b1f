#!/usr/bin/env python3
"""What splitting prompt and answer costs and protects, on the real demo model.

Some answers stream; meanwhile long prompts come, one after the other. Measured are the gaps between
the streams' tokens while a long prompt is under way, and the long prompts' own time to the first
token. The same threads in all: one worker with two, two workers with one each that take whole
requests, and one for prompts beside one for answers, where the router decides (latency) and where
every request is split (round-robin). TTFT alone is a long prompt's with nothing else running: what
the second leg costs.

Floor: the gaps without any long prompt. And the other way to keep a long prompt from them: what
its KV takes that comes from disk, in slices and one call of the engine (src/engine/README).
"""

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from servers import PENSTOCK, Server, free_port, machine, say, table

SETTINGS = {
    'one worker, two threads': ['--workers', '1', '--threads', '2'],
    'two workers': ['--workers', '2', '--threads', '1'],
    'prompts apart, decided': ['--prefill', '1', '--decode', '1', '--threads', '1'],
    'prompts apart, always': ['--prefill', '1', '--decode', '1', '--threads', '1',
                              '--policy', 'round-robin'],
    'one worker, KV from disk': ['--workers', '1', '--threads', '2', '--kv-disk', 'KV'],
}


def prompt(tokens, seed):
    """Token ids that no other seed begins like."""
    return [1000 + seed, *(1000 + (seed * 7 + i * i) % 4000 for i in range(1, tokens))]


def stream(port, prompt, tokens):
    """The times at which its tokens came; the first is the request's."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=600)
    body = {'model': 'demo', 'prompt': prompt, 'max_tokens': tokens, 'temperature': 0,
            'ignore_eos': True, 'stream': True}
    times = [time.monotonic()]
    connection.request('POST', '/v1/completions', json.dumps(body),
                       {'Content-Type': 'application/json'})
    for line in connection.getresponse():
        if line.startswith(b'data: {'):
            times.append(time.monotonic())
    connection.close()
    return times


def get(port, path, method='GET'):
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
    connection.request(method, path)
    body = connection.getresponse().read()
    connection.close()
    return json.loads(body)


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def measure(name, flags, options):
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, Server(
            'pd', [PENSTOCK, 'serve', '--model', 'demo', '--port', str(port), '--sequences', '8',
                   '--context', '4096', *(folder if flag == 'KV' else flag for flag in flags)],
            port, '/ready'):
        stream(port, prompt(400, 1), 16)  # time models are learned, pages touched
        stream(port, prompt(400, 2), 16)
        alone = [stream(port, prompt(options.prompt_tokens, 10 + i), 2) for i in range(2)]
        if '--kv-disk' in flags:
            for i in range(options.prompts):
                stream(port, prompt(options.prompt_tokens, 1000 + i), 1)
            get(port, '/debug/workers/0/clear-cache', 'POST')  # the store keeps them
            alone = [stream(port, prompt(options.prompt_tokens, 10 + i), 2) for i in range(2)]
        spans, streams, long_ttft = [], [], []
        runs = [threading.Thread(
                    target=lambda i=i: streams.append(stream(port, prompt(8, 100 + i),
                                                             options.tokens)))
                for i in range(options.streams)]
        for thread in runs:
            thread.start()
        time.sleep(2)
        for i in range(options.prompts):
            times = stream(port, prompt(options.prompt_tokens, 1000 + i), 1)
            long_ttft.append(times[1] - times[0])
            spans.append((times[0], times[1]))
            time.sleep(1)
        for thread in runs:
            thread.join()
        quiet, under = [], []
        for times in streams:
            for before, after in zip(times[1:], times[2:]):
                loaded = any(before < end and after > begin for begin, end in spans)
                (under if loaded else quiet).append(1e3 * (after - before))
        workers = get(port, '/debug/workers')['workers']
        fetched = sum(worker['kv_blocks_fetched'] for worker in workers)
        fetch_ms = sum(worker['kv_fetch_ms'] for worker in workers)
        return {'name': name, 'quiet_p50': quantile(quiet, 0.5), 'quiet_p99': quantile(quiet, 0.99),
                'p50': quantile(under, 0.5), 'p99': quantile(under, 0.99), 'max': max(under),
                'ttft_s': statistics.median(long_ttft),
                'alone_s': min(times[1] - times[0] for times in alone),
                'fetched': fetched, 'fetch_ms': fetch_ms}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--prompt-tokens', type=int, default=1473,
                        help='of a long prompt; one more than its blocks, so that loading is all')
    parser.add_argument('--prompts', type=int, default=2, help='long ones, one after the other')
    parser.add_argument('--streams', type=int, default=3)
    parser.add_argument('--tokens', type=int, default=300, help='of each stream')
    parser.add_argument('--settings', default='', help='only those whose names contain this')
    options = parser.parse_args()
    say(machine())
    rows = []
    for name, flags in SETTINGS.items():
        if options.settings in name:
            say(name)
            rows.append(measure(name, flags, options))
    print(table(
        ['setting', 'ITL p50 / p99 without, ms', 'ITL p50 / p99 / max under a long prompt, ms',
         'its TTFT, s', 'TTFT alone, s', 'blocks fetched, ms each'],
        [[r['name'], f"{r['quiet_p50']:.0f} / {r['quiet_p99']:.0f}",
          f"{r['p50']:.0f} / {r['p99']:.0f} / {r['max']:.0f}", f"{r['ttft_s']:.2f}",
          f"{r['alone_s']:.2f}",
          f"{r['fetched']:.0f}, {r['fetch_ms'] / r['fetched']:.2f}" if r['fetched'] else '-']
         for r in rows]))


if __name__ == '__main__':
    main()
