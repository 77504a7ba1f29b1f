#!/usr/bin/env python3
"""What the transfer library carries, beside memcpy, plain sockets, NIXL and Mooncake.

Each row is a process of its own (rows.cc): pools of 512 MiB, blocks in random order into random
slots, creation inside the time, checksums verified by the consumer, some blocks compared byte by
byte, and memcpy over cold pools of the same size measured before each round of it. Ratios are
medians of rounds' own ratios; rows are run --runs times, in turn.

The peers are run if PENSTOCK_TRANSFER_PEERS names a Python that has nixl and
mooncake-transfer-engine, and PENSTOCK_SHARED (or ../shared) has bench/transfer; else their
published figures stand in, as such.

    bench/transfer/run.sh [--runs 3] [--rows shared,cma,tcp,submit,latency,death] [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from servers import ROOT, machine, say, span, table

ROWS = os.environ.get('PENSTOCK_TRANSFER_ROWS') or os.path.join(ROOT, 'build', 'transfer_rows')
SIZES = {4096: '4 KiB', 16384: '16 KiB', 65536: '64 KiB', 1048576: '1 MiB'}
# At least this much of memcpy; for TCP, of the best plain-socket floor of two streams.
MARKS = {('shared', 4096): 0.60, ('shared', 16384): 0.70, ('shared', 65536): 0.80,
         ('shared', 1048576): 0.90}
TCP_MARK = 0.90
# The floor; the same with the library's send buffer; and also received as the library does.
FLOORS = ('sockets', 'tuned', 'staged')
# Ratios to memcpy, unverified data, two quieter cores: NIXL 1.5.1 with UCX 1.23, Mooncake 0.3.13.
PUBLISHED = {('shared', 16384): 'NIXL 0.31–0.48', ('shared', 65536): 'NIXL 0.52–0.76',
             ('shared', 1048576): 'NIXL 0.81–0.91', ('shared', 4096): 'NIXL ~0.2',
             ('tcp', 16384): 'NIXL 0.06–0.12', ('tcp', 65536): 'Mooncake 0.13–0.15',
             ('tcp', 1048576): 'Mooncake 0.16–0.19'}


def run_row(words):
    done = subprocess.run([ROWS, *map(str, words)], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise SystemExit(f'{ROWS} {words}: ended with {done.returncode}: {done.stderr[-500:]}')
    return [json.loads(line) for line in done.stdout.splitlines()]


def plan(wanted):
    rows = []
    for size in SIZES:
        if 'shared' in wanted:
            rows += [('shared', size, 1), ('shared', size, 2)]
        if 'cma' in wanted:
            rows.append(('cma', size, 1))
        if 'tcp' in wanted and size != 4096:
            rows += [(floor, size, 2) for floor in FLOORS] + [('tcp', size, 2)]
    return rows + [(name,) for name in ('submit', 'latency', 'death') if name in wanted]


def report_moving(figures):
    rows = []
    for (mode, size, threads), runs in figures.items():
        if mode in FLOORS:
            continue
        ratio = statistics.median(run['ratio'] for run in runs)
        aim, reached = '', ''
        if mode == 'tcp':
            rate = statistics.median(run['GBps'] for run in runs)
            floor, *others = (statistics.median(run['GBps'] for run in figures[(name, size, 2)])
                              for name in FLOORS)
            aim = f'>= {TCP_MARK} of sockets'
            reached = (f'{"yes" if rate / floor >= TCP_MARK else "NO"} ({rate / floor:.2f} of '
                       f'{floor:.1f}; ' + ', '.join(f'{rate / other:.2f} {name}' for other, name
                                                    in zip(others, FLOORS[1:])) + ')')
        elif (mode, size) in MARKS and threads == 1:
            aim = f'>= {MARKS[(mode, size)]:.2f}'
            reached = 'yes' if ratio >= MARKS[(mode, size)] else 'NO'
        rows.append([mode, SIZES[size], str(threads), span([run['GBps'] for run in runs], 1),
                     span([run['memcpy'] for run in runs], 1),
                     span([run['ratio'] for run in runs], 2), aim, reached,
                     PUBLISHED.get((mode, size), '')])
    print(table(['path', 'block', 'threads', 'GB/s', 'memcpy', 'ratio', 'aim', 'reached',
                 'published'], rows))


def report_single(figures):
    rows = []

    def row(what, values, digits, unit, mark):
        worst = max(values)
        rows.append([what, f'{span(values, digits)} {unit}', f'<= {mark} {unit}',
                     'yes' if worst <= mark else 'NO'])

    if submits := figures.get(('submit',)):
        row('submitting 100,000 blocks', [run['us'] / 1e3 for run in submits], 3, 'ms', 1)
        row('allocations of such a transfer', [run['allocations'] for run in submits], 0, '', 0)
    if latencies := figures.get(('latency',)):
        row('end seen, spinning', [run['spin_us'] for run in latencies], 2, 'us', 0.5)
        row('end seen, by eventfd', [run['eventfd_us'] for run in latencies], 1, 'us', 40)
    for run in figures.get(('death',), []):
        row(f'a killed owner noticed ({run["over"]}; {run["arrived_min"]}–{run["arrived_max"]} of '
            f'{run["blocks"]} blocks had arrived)', [run['noticed_max_ms']], 1, 'ms', 100)
    print(table(['what', 'measured', 'aim', 'reached'], rows))


def run_peers():
    python = os.environ.get('PENSTOCK_TRANSFER_PEERS')
    shared = os.environ.get('PENSTOCK_SHARED') or os.path.join(os.path.dirname(ROOT), 'shared')
    folder = os.path.join(shared, 'bench', 'transfer')
    if not python or not os.path.exists(os.path.join(folder, 'nixl_bench.py')):
        say('the peers are not run (see --help): their published figures stand in')
        return
    for name, tls in (('nixl_bench.py', None), ('nixl_bench.py', 'tcp'),
                      ('moon_te_bench.py', None)):
        environment = dict(os.environ, **({'UCX_TLS': tls} if tls else {}))
        done = subprocess.run([python, name, '--ops', 'READ'], cwd=folder, env=environment,
                              capture_output=True, text=True, timeout=600)
        print(f'\n{name} {tls or ""}\n{done.stdout.strip() or done.stderr[-300:]}')


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--rows', default='shared,cma,tcp,submit,latency,death')
    parser.add_argument('--json', help='write every row to this file')
    options = parser.parse_args()
    figures, everything = {}, []
    for number in range(options.runs):
        for words in plan(options.rows.split(',')):
            rows = run_row(words)
            everything += rows
            figures.setdefault(words, []).extend(rows)
        say(f'run {number + 1} done')
    print(f'\n{machine()}, {options.runs} runs (min–max), verified data\n')
    moving = {key: runs for key, runs in figures.items() if len(key) == 3}
    if moving:
        report_moving(moving)
        print()
    report_single(figures)
    run_peers()
    if options.json:
        with open(options.json, 'w') as out:
            json.dump(everything, out, indent=1)


if __name__ == '__main__':
    main()
