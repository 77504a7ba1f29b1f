#!/usr/bin/env python3
"""Lookups, applied events and memory of Penstock's prefix index beside its peers'.

The workload is made from formulas (workload.h): every program gets the same events and queries,
and the check value of a cell says that it gave the same answers. The peers' program (Rust) lies
in PENSTOCK_SHARED/bench/index (or ../shared) and is built with cargo outside the tree; where that
is not possible, published figures stand in its place and are labelled so. The floor (floor.h) is
told where each answer lies and only compares the hashes and writes the depths; it copies events,
and holds two hashes a block. Programs never run at the same time; they take turns, so that what
drifts on the machine hits all.

    bench/index/run.sh [--rounds 2] [--cells s1,s2,s3,w7000] [--peers smg,crtc] [--json FILE]
"""

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from servers import ROOT, machine, say, span, table

OURS = os.environ.get('PENSTOCK_INDEX_ROWS') or os.path.join(ROOT, 'build', 'index_rows')
MODES = ('floor', 'query', 'apply1', 'apply2', 'mixed', 'mem')
NAMES = {'penstock': 'penstock', 'floor': 'floor', 'smg-chain': 'smg', 'dyn-crtc': 'crtc'}
CHECKS = {'s1': '3617272bf216373d', 's2': 'b8c6439711607b93', 's3': 'ea0c3a58a18709cd'}
TOUCHED_BYTES = 2 << 30

# (mode, field): what it says, unit, how it is shown, whether more is better, and the ratio to the
# best peer that is aimed at (None: an absolute mark, in MARKS).
FIGURES = {
    ('query1', 'p50_ns'): ('lookup p50', 'ns', 0, False, 0.75),
    ('query1', 'p99_ns'): ('lookup p99', 'ns', 0, False, 0.75),
    ('query2', 'qps'): ('lookups, 2 threads', '1/s', 0, True, 1.0),
    ('apply1', 'Mops'): ('apply, 1 thread', 'M blocks/s', 1, True, 1.5),
    ('apply2', 'Mops'): ('apply, 2 threads', 'M blocks/s', 1, True, 1.5),
    ('mixed1w1r', 'p50_ns'): ('lookup p50 under churn', 'ns', 0, False, 1.0),
    ('mixed1w1r', 'p99_ns'): ('lookup p99 under churn', 'ns', 0, False, None),
    ('mixed1w1r', 'write_Mops'): ('churn beside a reader', 'M blocks/s', 1, True, 1.0),
    ('mem', 'bytes_per_membership'): ('memory a membership', 'B', 1, False, None),
    ('memchurn', 'growth'): ('memory after 3 turnovers', 'x', 3, False, None),
}
MARKS = {('mixed1w1r', 'p99_ns', 's1'): 1200, ('mixed1w1r', 'p99_ns', 's2'): 1200,
         ('mixed1w1r', 'p99_ns', 's3'): 1200,
         ('mem', 'bytes_per_membership', 's1'): 22, ('mem', 'bytes_per_membership', 's3'): 10,
         ('memchurn', 'growth', 's1'): 1.02, ('memchurn', 'growth', 's3'): 1.02,
         ('query1', 'p99_ns', 'w7000'): 100_000}
# Of the best peer (SMG's chain index 2.0.0, callback), from runs on two quieter cores; the middle
# of each range. For when it cannot be run here.
PUBLISHED = {
    ('s1', 'query1', 'p50_ns'): 736, ('s1', 'query1', 'p99_ns'): 1397,
    ('s2', 'query1', 'p50_ns'): 601, ('s2', 'query1', 'p99_ns'): 1187,
    ('s3', 'query1', 'p50_ns'): 1803, ('s3', 'query1', 'p99_ns'): 2644,
    ('s1', 'query2', 'qps'): 1.89e6, ('s2', 'query2', 'qps'): 3.12e6,
    ('s3', 'query2', 'qps'): 0.96e6,
    ('s1', 'apply1', 'Mops'): 7.1, ('s2', 'apply1', 'Mops'): 10.4, ('s3', 'apply1', 'Mops'): 7.8,
    ('s1', 'apply2', 'Mops'): 12.2, ('s2', 'apply2', 'Mops'): 17.3, ('s3', 'apply2', 'Mops'): 13.3,
    ('s1', 'mixed1w1r', 'p50_ns'): 671, ('s1', 'mixed1w1r', 'p99_ns'): 1347,
    ('s2', 'mixed1w1r', 'p50_ns'): 647, ('s2', 'mixed1w1r', 'p99_ns'): 1347,
    ('s3', 'mixed1w1r', 'p50_ns'): 931, ('s3', 'mixed1w1r', 'p99_ns'): 1913,
    ('s1', 'mixed1w1r', 'write_Mops'): 9.9, ('s2', 'mixed1w1r', 'write_Mops'): 5.3,
    ('s3', 'mixed1w1r', 'write_Mops'): 7.5,
    ('s1', 'mem', 'bytes_per_membership'): 44.2, ('s3', 'mem', 'bytes_per_membership'): 31.2,
    ('s1', 'memchurn', 'growth'): 1.006, ('s3', 'memchurn', 'growth'): 1.002,
}


def peers_program():
    """Builds the peers' program; None when that cannot be done, and says why."""
    ready = os.environ.get('PENSTOCK_INDEX_PEERS')
    if ready:
        return ready
    shared = os.environ.get('PENSTOCK_SHARED') or os.path.join(os.path.dirname(ROOT), 'shared')
    source = os.path.join(shared, 'bench', 'index')
    if not os.path.exists(os.path.join(source, 'Cargo.toml')):
        say(f'no {source}: the peers are not run, their published figures stand in')
        return None
    if not shutil.which('cargo'):
        say('no cargo: the peers are not run, their published figures stand in')
        return None
    folder = os.path.join(tempfile.gettempdir(), f'penstock-index-peers-{os.getuid()}')
    copy = os.path.join(folder, 'source')
    shutil.copytree(source, copy, dirs_exist_ok=True)
    say('building the peers with cargo (minutes the first time)')
    built = subprocess.run(['cargo', 'build', '--release'], cwd=copy, capture_output=True,
                           text=True,
                           env={**os.environ, 'CARGO_TARGET_DIR': os.path.join(folder, 'target')})
    if built.returncode != 0:
        say('cargo failed: the peers are not run, their published figures stand in\n' +
            built.stderr[-600:])
        return None
    return os.path.join(folder, 'target', 'release', 'rb')


def touch_memory():
    """Memory that a virtual machine's host has not given yet costs up to 3 s a GiB when it is first
    touched, in whichever program's turn that is. What is given back here is what the next one
    gets."""
    with mmap.mmap(-1, TOUCHED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        pages.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, TOUCHED_BYTES, mmap.PAGESIZE):
            pages[at] = 1


def run(command):
    touch_memory()
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        say(f'{" ".join(command)} ended with {done.returncode}: {done.stderr[-300:]}')
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]


def collect(rows, figures):
    """Adds the rows of one run to figures[(cell, mode, field)][who] = [values]."""
    loaded = None
    for row in rows:
        if row['impl'] not in NAMES:
            continue
        who = NAMES[row['impl']]
        if row['mode'] == 'mem' and who != 'floor':
            loaded = row['rss_delta']
        if row['mode'] == 'memchurn':
            if row['turnovers'] != 3:
                continue
            row['growth'] = row['rss_delta'] / loaded
        if row['mode'] == 'query1' and row['cell'] in CHECKS and \
                row['checksum'] != CHECKS[row['cell']]:
            raise SystemExit(f'{row["impl"]} gives wrong answers in {row["cell"]}: '
                             f'{row["checksum"]} instead of {CHECKS[row["cell"]]}')
        if who == 'penstock' and row.get('taken_bytes', 0) > row.get('budget_bytes', 0):
            raise SystemExit(f'over the budget: {row}')
        for mode, field in FIGURES:
            if row['mode'] == mode and field in row:
                figures.setdefault((row['cell'], mode, field), {}).setdefault(who, []).append(
                    row[field])


def verdict(key, ours, peer):
    cell, mode, field = key
    *_, more, aim = FIGURES[(mode, field)]
    mark = MARKS.get((mode, field, cell))
    if mark is not None:
        return f'<= {mark:g}', 'yes' if ours <= mark else 'NO'
    if aim is None or peer is None:
        return '', ''
    ratio = ours / peer
    return (f'>= {aim}x' if more else f'<= {aim}x',
            'yes' if (ratio >= aim if more else ratio <= aim) else 'NO')


def report(figures, peers, live):
    rows = []
    for key in sorted(figures, key=lambda k: (k[0], list(FIGURES).index(k[1:]))):
        of = figures[key]
        if 'penstock' not in of:
            continue
        title, unit, digits, more, _ = FIGURES[key[1:]]
        scale = lambda values: span(values, digits)
        ours = statistics.median(of['penstock'])
        medians = [statistics.median(of[p]) for p in peers if p in of]
        if not live and key in PUBLISHED:
            medians = [PUBLISHED[key]]
        best = (max(medians) if more else min(medians)) if medians else None
        shown = [scale(of[p]) if p in of else (f'{PUBLISHED[key]:g} (published)' if not live and
                 p == 'smg' and key in PUBLISHED else '-') for p in peers]
        aim, reached = verdict(key, ours, best)
        rows.append([key[0], title, unit, scale(of['floor']) if 'floor' in of else '-',
                     scale(of['penstock']), *shown,
                     f'{ours / best:.2f}x' if best else '-', aim, reached])
    print(table(['cell', 'what', 'unit', 'floor', 'penstock', *peers, 'to the best', 'aim',
                 'reached'], rows))


def report_stops(stops):
    if not stops:
        return
    often = statistics.median(row['per_s'] for row in stops)
    long_ns = statistics.median(row['p50_ns'] for row in stops)
    print(f'\nThis machine stops a thread {often:,.0f} times a second for a microsecond or more '
          f'(median {long_ns:,.0f} ns):\none lookup in a hundred has such a stop in it, and so p99 '
          f'is of them, from {1e7 / often:,.0f} ns a lookup on.')


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--cells', default='s1,s2,s3,w7000')
    parser.add_argument('--modes', default=','.join(MODES))
    parser.add_argument('--peers', default='smg,crtc')
    parser.add_argument('--json', help='write every row to this file')
    options = parser.parse_args()
    peers = options.peers.split(',')

    program = peers_program()
    figures, everything = {}, []
    for number in range(options.rounds):
        for cell in options.cells.split(','):
            for mode in options.modes.split(','):
                if cell == 'w7000' and mode not in ('floor', 'query'):
                    continue  # the peers stop at about a thousand workers
                commands = [[OURS, cell, mode]]
                if program and cell != 'w7000' and mode != 'floor':
                    commands += [[program, peer, cell, mode] for peer in peers]
                if number % 2:
                    commands.reverse()
                for command in commands:
                    rows = run(command)
                    everything += rows
                    collect(rows, figures)
            say(f'round {number + 1}: {cell} done')
    checked = ', '.join(cell for cell in options.cells.split(',') if cell in CHECKS)
    print(f'\n{machine()}, {options.rounds} rounds (min–max; ratios of medians); check values of '
          f'{checked} verified in every program;\nSMG by its callback, which fills no map\n')
    report(figures, peers, bool(program))
    print('\nMemory is what RSS grows by after loading and malloc_trim, all tables included, '
          'divided by (slot, block)\npairs; ours holds its budget of 1 GiB by construction '
          '(checked in each mem row).')
    report_stops([row for row in everything if row['mode'] == 'stops'])
    if options.json:
        with open(options.json, 'w') as out:
            json.dump(everything, out, indent=1)


if __name__ == '__main__':
    main()
