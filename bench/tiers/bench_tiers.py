#!/usr/bin/env python3
"""KV in tiers: what the disk tier reads and writes beside the same disk's raw io_uring figure in
the same run, how long recovery takes, and the time to first token of a long prompt that is
computed, in the worker's pool, in host memory, or on disk after a restart (demo model); whether
what is decided, loading or computing, is the quicker. And, in the simulator, what tiers keep of a
trace, beside a cache of as many blocks that knows the future.

    bench/tiers/run.sh [--folder DIR] [--mib N] [--recovery-gib N] [--words N]
                       [--rounds N] [--trace FILE]
                       [--only disk|recovery|ttft|decision|policy]
"""

import argparse
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import servers
from random_model import write_model

ROWS = os.path.join(servers.ROOT, 'build', 'tiers_rows')
POLICY = os.path.join(servers.ROOT, 'build', 'tiers_policy')
DECISION = os.path.join(servers.ROOT, 'build', 'tiers_decision')
BLOCK_BYTES = [65536, 1474560]  # small, and 64 tokens of the demo model
WORDS = 'river lock barge weir canal water turbine gate level pump mill stone'.split()


def rows(mode, folder, block_bytes, mib):
    done = subprocess.run([ROWS, mode, folder, str(block_bytes), str(mib)], check=True,
                          stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def disk(folder, mib):
    lines = []
    for block_bytes in BLOCK_BYTES:
        row = rows('disk', folder, block_bytes, mib)
        lines.append([f'{block_bytes // 1024} KiB',
                      f"{row['raw_write']:.2f}", f"{row['write']:.2f}",
                      f"{row['write'] / row['raw_write']:.2f}",
                      f"{row['raw_read']:.2f}", f"{row['read']:.2f}",
                      f"{row['read'] / row['raw_read']:.2f}"])
    print(servers.table(['block', 'raw write GB/s', 'write', 'ratio', 'raw read GB/s', 'read',
                         'ratio'], lines))


def recovery(folder, mib):
    """What grows with the disk is the slope. Segments that were being filled, which are read once,
    are left out."""
    mib = min(mib, shutil.disk_usage(folder).free // 2**21)  # half of what is free
    lines = []
    for block_bytes in BLOCK_BYTES:
        low, high = (rows('recovery', folder, block_bytes, size) for size in (mib // 4, mib))

        def for_100_gib(ms_low, ms_high):
            slope = (ms_high - ms_low) / (high['disk_gib'] - low['disk_gib'])
            return f"{(ms_high + slope * (100 - high['disk_gib'])) / 1000:.2f}"

        lines.append([f'{block_bytes // 1024} KiB',
                      *(f"{row['disk_gib']:.1f} GiB: {row['ms']:.1f} "
                        f"({row['ms_min']:.1f}–{row['ms_max']:.1f})" for row in (low, high)),
                      f"{for_100_gib(low['ms'], high['ms'])} "
                      f"(at most {for_100_gib(low['ms_min'], high['ms_max'])})"])
    print(servers.table(['block', 'recovery ms, median (span)', 'recovery ms',
                         's for 100 GiB, extrapolated'], lines))


def prompt(seed, words):
    chooser = random.Random(seed)
    return ' '.join(chooser.choice(WORDS) for _ in range(words))


def ttft_ms(server, text):
    """(ms to the first token, cached tokens, prompt tokens)"""
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=600)
    body = json.dumps({'model': 'demo', 'stream': True, 'temperature': 0, 'max_tokens': 4,
                       'stream_options': {'include_usage': True},
                       'messages': [{'role': 'user', 'content': text}]})
    start = time.monotonic()
    connection.request('POST', '/v1/chat/completions', body,
                       {'Content-Type': 'application/json'})
    response = connection.getresponse()  # the head waits for the first token
    took = 1000 * (time.monotonic() - start)
    events = [line[6:] for line in response.read().decode().splitlines()
              if line.startswith('data: {')]
    usage = json.loads(events[-1])['usage']
    connection.close()
    return took, usage['prompt_tokens_details']['cached_tokens'], usage['prompt_tokens']


def serve(folder, *flags):
    port = servers.free_port()
    return servers.Server('penstock', [
        servers.PENSTOCK, 'serve', '--model', 'demo', '--port', str(port), '--sequences', '1',
        '--kv-disk', folder, '--kv-host-mib', '512', *flags], port, '/ready')


def written(server):
    connection = http.client.HTTPConnection('127.0.0.1', server.port)
    connection.request('GET', '/metrics')
    for line in connection.getresponse().read().decode().splitlines():
        if line.startswith('penstock_kv_tier_blocks{tier="disk"}'):
            return float(line.split()[-1])
    return 0


def ttft(folder, words):
    text, other = prompt(1, words), prompt(2, words)
    lines = []

    def measure(server, what):
        took, cached, tokens = ttft_ms(server, text)
        servers.say(f'{what}: {took:.0f} ms, {cached} of {tokens} tokens cached')
        lines.append([what, f'{took:.0f}', cached, tokens])
        return tokens

    with serve(folder + '/kv') as server:
        blocks = measure(server, 'computed') // 64
        measure(server, "the worker's pool")
        while written(server) < blocks:
            time.sleep(0.05)
    with serve(folder + '/kv') as server:
        measure(server, 'disk, after a restart')
    with serve(folder + '/kv2', '--kv-cache-mib', '96') as server:
        ttft_ms(server, text)
        ttft_ms(server, other)  # pushes it out of the pool
        measure(server, 'host memory')
    print(servers.table(['prompt from', 'TTFT ms', 'cached tokens', 'of'], lines))


def decision(folder, rounds):
    """Prompts of the demo model, and of one for which computing is about as quick as loading."""
    small = os.path.join(folder, 'small.gguf')
    write_model(small, width=64, layers=1, context=4096)
    demo = os.environ['PENSTOCK_DEMO_MODEL']  # set by run.sh
    lines = []
    for name, model, block_tokens, lengths in [('demo', demo, 64, [129, 513, 1025]),
                                               ('small', small, 16, [17, 33, 65, 129, 513])]:
        done = subprocess.run([DECISION, model, os.path.join(folder, name), str(rounds),
                               str(block_tokens), *map(str, lengths)], check=True,
                              stdout=subprocess.PIPE)
        for row in map(json.loads, done.stdout.splitlines()):
            if row['loaded_tokens'] < (row['tokens'] - 1) // block_tokens * block_tokens:
                raise SystemExit(f'{name}, {row}: was not there to be loaded')
            ratio = row['decided_ms'] / min(row['computed_ms'], row['loaded_ms'])
            lines.append([name, row['tokens'], row['tier'],
                          *(f'{row[way]:.2f}'
                            for way in ('computed_ms', 'loaded_ms', 'decided_ms')),
                          row['decided_tokens'], f'{ratio:.2f}', 'yes' if ratio <= 1.1 else 'NO'])
    print(servers.table(['model', 'tokens', 'in', 'computed ms', 'loaded', 'as decided',
                         'tokens it loaded', 'of the quicker', 'within 1.10'], lines))


def policy(trace):
    folder = os.environ.get('PENSTOCK_TRACES', os.path.join(servers.ROOT, '..', 'shared', 'data'))
    path = trace or os.path.join(folder, 'mooncake_conversation.jsonl')
    if trace is None and not os.path.exists(path):
        print(f'policy: skipped, there is no {path}; set PENSTOCK_TRACES to its folder')
        return
    subprocess.run([POLICY, path], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', help='on the disk to measure (default: a temporary one)')
    parser.add_argument('--mib', type=int, default=512, help='of blocks, for disk')
    parser.add_argument('--recovery-gib', type=int, default=16,
                        help='to be found again; half of what is free at most')
    parser.add_argument('--words', type=int, default=2000, help='of the long prompt')
    parser.add_argument('--only', choices=['disk', 'recovery', 'ttft', 'decision', 'policy'])
    parser.add_argument('--rounds', type=int, default=9, help='of decision, at least 3')
    parser.add_argument('--trace', help='default: mooncake_conversation.jsonl in $PENSTOCK_TRACES, '
                        'or in shared/data beside the source tree')
    flags = parser.parse_args()
    print(servers.machine(), flush=True)
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        if flags.only in (None, 'disk'):
            disk(folder, flags.mib)
        if flags.only in (None, 'recovery'):
            recovery(folder, flags.recovery_gib * 1024)
        if flags.only in (None, 'ttft'):
            ttft(folder, flags.words)
        if flags.only in (None, 'decision'):
            decision(folder, flags.rounds)
    if flags.only in (None, 'policy'):
        policy(flags.trace)


if __name__ == '__main__':
    main()
