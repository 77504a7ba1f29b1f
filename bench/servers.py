"""What the end-to-end benchmarks share: servers to measure, `penstock bench` to load them with, and
what a process has cost so far. Standard library only; every address is on loopback."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tools'))

from server_process import ServerProcess, answers, free_port, listens  # free_port: for who imports

PENSTOCK = os.environ.get('PENSTOCK_BIN') or os.path.join(ROOT, 'build', 'penstock')
MIB = 1024 * 1024
START_S = 120
STOP_S = 20


def say(text):
    print(f'    {text}', file=sys.stderr, flush=True)


class Server(ServerProcess):
    """A process that listens on a port; ends with the block it is used in."""

    def __init__(self, name, command, port, ready='/health'):
        self.name, self.port = name, port
        log = os.path.join(tempfile.gettempdir(), f'penstock-bench-{os.getuid()}-{name}.log')
        if not shutil.which(command[0]):
            raise SystemExit(f'{command[0]}: no such program; make build (or name another in '
                             'PENSTOCK_BIN)')
        started = time.monotonic()
        super().__init__(command, out=open(log, 'ab+'))
        try:
            self.wait_until(lambda: listens(port), f'it listens (see {log})', START_S)
            self.listen_s = time.monotonic() - started
            if ready:
                self.wait_until(lambda: answers(f'http://127.0.0.1:{port}{ready}'),
                                f'it is ready (see {log})', START_S)
        except BaseException:
            self.end(STOP_S)
            raise

    def __exit__(self, *exception):
        self.end(STOP_S)
        self.kill()

    def _pids(self):
        """The process and its children (nginx has workers)."""
        pids, found = [self.process.pid], 0
        while found < len(pids):
            for task in os.listdir(f'/proc/{pids[found]}/task'):
                with open(f'/proc/{pids[found]}/task/{task}/children') as children:
                    pids += [int(pid) for pid in children.read().split()]
            found += 1
        return pids

    def cpu_s(self):
        """CPU time of the threads that there are, seconds (the kernel counts nanoseconds)."""
        total_ns = 0
        for pid in self._pids():
            for task in os.listdir(f'/proc/{pid}/task'):
                with open(f'/proc/{pid}/task/{task}/schedstat') as schedstat:
                    total_ns += int(schedstat.read().split()[0])
        return total_ns / 1e9

    def resident_mib(self):
        total = 0
        for pid in self._pids():
            with open(f'/proc/{pid}/statm') as statm:
                total += int(statm.read().split()[1])
        return total * os.sysconf('SC_PAGE_SIZE') / MIB


def load(server, *arguments):
    """Runs `penstock bench` against the server; its JSON report. Requests that fail end the run."""
    command = [PENSTOCK, 'bench', '--json', '--url', f'http://127.0.0.1:{server.port}',
               *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f'{server.name}: exit status {done.returncode} from {" ".join(command)}\n'
                         f'{done.stdout.decode()[:2000]}')
    return json.loads(done.stdout)


def span(values, digits=0):
    """min–max of several rounds, or the one value."""
    low, high = f'{min(values):.{digits}f}', f'{max(values):.{digits}f}'
    return low if low == high else f'{low}–{high}'


def machine():
    with open('/proc/cpuinfo') as info:
        names = [line.split(':', 1)[1].strip() for line in info if line.startswith('model name')]
    return f'{os.cpu_count()} cores, {names[0] if names else "unknown CPU"}'


def table(header, rows):
    """A Markdown table, columns aligned."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    line = lambda row: '| ' + ' | '.join(str(c).ljust(w) for c, w in zip(row, widths)) + ' |'
    return '\n'.join([line(header), '|' + '|'.join('-' * (w + 2) for w in widths) + '|',
                      *map(line, rows)])
