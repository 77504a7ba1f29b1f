#!/usr/bin/env python3
"""A service whose workers hand KV to each other and keep it on disk, under load and under faults.
Every token that it serves, and its log probability, is compared with what one worker says that
keeps nothing.

Rounds by turns: workers in one process over one store, and workers in processes of their own with a
disk each, over shared memory or TCP. Meanwhile workers of either side are killed, stopped and
continued, change their roles; the front end (or the whole service) is killed; bits of what lies on
disk are flipped, files cut short, the disk is full; clients leave. A request may end with an error
that says so. It must not end with another token, without an end, or leave anything behind.

    bench/soak/run.sh [--requests N] [--seconds N] [--seed N] [--kv-type q8_0] [--folder DIR]

Exit status 1: something was wrong, which is printed. A seed repeats what is asked and injected, not
the moment.
"""

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import servers
from random_model import write_model

WORKERS = ('prefill', 'prefill', 'decode', 'decode')
CLIENTS = 6
BLOCK_TOKENS = 16
FLAGS = ['--served-model-name', 'm', '--log-level', 'error']
ENGINE = ['--exact', '--threads', '1', '--sequences', '4', '--context', '1024', '--block-tokens',
          str(BLOCK_TOKENS), '--kv-disk-mib', '128']
TIMEOUT_S = 60
SECRET = 'sixteen-characters-or-more'
COUNTED = ('penstock_requests_split_total', 'penstock_requests_moved_total',
           'penstock_worker_kv_fetched_blocks_total', 'penstock_worker_kv_fetch_missed_total',
           'penstock_worker_kv_leases_lapsed_total', 'penstock_kv_tier_given_total',
           'penstock_kv_tier_missed_total', 'penstock_kv_tier_refused_total',
           'penstock_kv_tier_segments_lost_total')


class Prompts:
    """Prompt and length of answer, by number; forty beginnings are shared."""

    def __init__(self, seed):
        self.seed = seed
        self.answers = {}
        self.lock = threading.Lock()

    def get(self, number):
        begin = random.Random(f'{self.seed} begin {number % 40}')
        end = random.Random(f'{self.seed} end {number}')
        prompt = begin.choices(range(256), k=begin.randrange(40, 500))
        return prompt + end.choices(range(256), k=end.randrange(4, 100)), end.randrange(1, 24)

    def expected(self, number, reference):
        with self.lock:
            if number not in self.answers:
                status, said, ended = ask(reference.port, *self.get(number))
                assert (status, ended) == (200, True), status
                self.answers[number] = said
            return self.answers[number]


def ask(port, prompt, tokens, stream=False, leave_after=None):
    """(status, [(token id, log probability)], whether it says that it is complete). An error's
    status is its code."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=TIMEOUT_S)
    try:
        connection.request('POST', '/v1/completions', json.dumps({
            'model': 'm', 'prompt': prompt, 'max_tokens': tokens, 'temperature': 0, 'logprobs': 1,
            'ignore_eos': True, 'return_token_ids': True, 'stream': stream}))
        response = connection.getresponse()
        if response.status != 200:
            error = json.loads(response.read())['error']
            return f"{response.status} {error['code']}", [], False
        if not stream:
            return 200, said(json.loads(response.read())), True
        got = []
        for line in response:
            text = line.decode().removeprefix('data: ').strip()
            if text == '[DONE]':
                return 200, got, not response.read().strip()
            if not text or text.startswith(':'):
                continue
            document = json.loads(text)
            if 'error' in document:
                return f"cut off: {document['error']['code']}", got, False
            got += said(document)
            if leave_after is not None and len(got) >= leave_after:
                return 'left', got, False
        return 'no end', got, False  # a connection that is cut between two events looks so as well
    finally:
        connection.close()


def said(document):
    choice = document['choices'][0]
    numbers = (choice.get('logprobs') or {}).get('token_logprobs', [])
    return list(zip(choice.get('token_ids', []), numbers, strict=True))


class Service:
    """What is tested, for a round."""

    def __init__(self, model, kv_type, folder, between_processes, chance):
        self.model, self.folder, self.chance = model, folder, chance
        self.engine = ['--kv-type', kv_type, *ENGINE]
        self.between_processes = between_processes
        self.port, self.join_port = servers.free_port(), servers.free_port()
        self.lease_s = chance.choice(['30', '30', '0.02'])
        self.policy = chance.choice(['round-robin', 'round-robin', 'latency'])
        self.transfer = chance.choice(['shm', 'tcp', 'auto'])
        self.counted = collections.Counter()
        self.last = {}
        self.lives = 0  # of the front end
        self.down = False
        self.workers = []
        self.front = self.start_front()
        try:
            if between_processes:
                self.workers = [self.start_worker(i) for i in range(len(WORKERS))]
            self.wait_for_workers()
        except BaseException:
            self.kill()
            raise

    # ---- its processes ----

    def start_front(self):
        shape = (['--workers', '0', '--join-listen', f'127.0.0.1:{self.join_port}', '--join-secret',
                  SECRET, '--worker-heartbeat-s', '0.1', '--worker-lease-s', '1.5']
                 if self.between_processes else
                 ['--prefill', '2', '--decode', '2', '--kv-cache-mib', '24', '--kv-host-mib', '16',
                  '--kv-disk', self.disk(0), *self.engine])
        return servers.Server('soak', [
            servers.PENSTOCK, 'serve', '--model', self.model, '--port', str(self.port),
            '--policy', self.policy, '--kv-lease-s', self.lease_s, *FLAGS, *shape],
            self.port, None)

    def start_worker(self, i):
        log = open(os.path.join(self.folder, f'worker-{i}.log'), 'ab+')
        return servers.ServerProcess([
            servers.PENSTOCK, 'worker', self.model, '--join', f'127.0.0.1:{self.join_port}',
            '--join-secret', SECRET, '--role', WORKERS[i], '--kv-transfer',
            self.transfer, '--kv-cache-mib', '6', '--kv-host-mib', '4', '--kv-disk', self.disk(i),
            '--log-level', 'error', *self.engine], out=log)

    def disk(self, i):
        return os.path.join(self.folder, f'p{i}' if self.between_processes else 'one')

    def wait_for_workers(self):
        def ready():
            states = [w['state'] for w in self.get('/debug/workers').get('workers', [])]
            return states == ['ready'] * len(WORKERS) and self.get('/ready')['status'] == 'ready'
        self.wait_until(ready, 'all workers are ready')

    def wait_until(self, condition, what):
        """Within a time far above what it takes."""
        until = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f'not within {TIMEOUT_S} s: {what}')
            time.sleep(0.05)

    def end(self):
        self.count()
        statuses = [worker.end(30) for worker in self.workers] + [self.front.end(30)]
        self.kill()
        return statuses

    def kill(self):
        for process in [*self.workers, self.front]:
            process.kill()

    # ---- looking inside ----

    def get(self, path):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=TIMEOUT_S)
        try:
            connection.request('GET', path)
            body = connection.getresponse().read().decode()
            return body if path == '/metrics' else json.loads(body)
        finally:
            connection.close()

    def metrics(self):
        return {name: float(value) for name, value in
                (line.rsplit(' ', 1) for line in self.get('/metrics').splitlines()
                 if line[0] != '#')}

    def count(self):
        """Adds what the counters say more than the last time."""
        now = {name: value for name, value in self.metrics().items() if name.startswith(COUNTED)}
        for name, value in now.items():
            more = value - self.last.get(name, 0)
            labels = [label for label in name.partition('{')[2].rstrip('}').split(',')
                      if label and not label.startswith('worker=')]
            plain = name.partition('{')[0].removeprefix('penstock_').removesuffix('_total')
            self.counted[' '.join([plain, *labels])] += int(more if more >= 0 else value)
        self.last = now

    def kept(self):
        """What is held though nobody asks for anything."""
        found = {name: value for name, value in self.metrics().items() if value and
                 name.startswith(('penstock_worker_kv_leases{', 'penstock_requests_in_flight',
                                  'penstock_worker_running', 'penstock_worker_waiting',
                                  'penstock_worker_requests'))}
        return found or self.get('/debug/requests')['requests']

    # ---- faults ----

    def kill_worker(self, role):
        i = self.chance.choice([i for i, r in enumerate(WORKERS) if r == role])
        self.count()
        self.workers[i].kill()
        if self.chance.random() < 0.3:
            self.flip_bits()
        self.workers[i] = self.start_worker(i)

    def kill_prefill(self):
        self.kill_worker('prefill')

    def kill_decode(self):
        self.kill_worker('decode')

    def stop_worker(self):
        worker = self.chance.choice(self.workers)
        worker.signal(signal.SIGSTOP)
        time.sleep(self.chance.choice([0.2, 0.6, 2.5]))
        worker.signal(signal.SIGCONT)

    def kill_front(self):
        """Between processes the front end alone, else the service."""
        self.count()
        self.down = True
        self.lives += 1
        self.front.kill()
        if not self.between_processes and self.chance.random() < 0.5:
            self.flip_bits()
        self.last = {}
        self.front = self.start_front()
        self.wait_for_workers()
        self.down = False

    def change_roles(self):
        workers = self.get('/debug/workers')['workers']
        for worker in self.chance.sample(workers, min(2, len(workers))):
            role = self.chance.choice(['prefill', 'decode', 'both'])
            connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=TIMEOUT_S)
            connection.request('POST', f"/debug/workers/{worker['worker']}/role?to={role}")
            connection.getresponse().read()  # 400 where nobody would be left to answer
            connection.close()

    def segments(self):
        for where, _, names in os.walk(self.folder):
            yield from (os.path.join(where, name) for name in names if name.endswith('.segment'))

    def flip_bits(self):
        """In what is written, of each file; some in its header. One that was dropped is none."""
        for path in self.segments():
            with contextlib.suppress(FileNotFoundError), open(path, 'r+b') as file:
                written = len(file.read().rstrip(b'\0'))
                for _ in range(40 if written else 0):
                    at = self.chance.randrange(written)
                    file.seek(at)
                    byte = file.read(1)[0] ^ (1 << self.chance.randrange(8))
                    file.seek(at)
                    file.write(bytes([byte]))

    def cut_file(self):
        paths = sorted(self.segments())
        if paths:
            path = self.chance.choice(paths)
            with contextlib.suppress(FileNotFoundError):
                os.truncate(path, self.chance.randrange(os.path.getsize(path) + 1))

    def fill_disk(self):
        """For a moment; only where it is a small one (`Disk`)."""
        path = os.path.join(self.folder, 'fill')
        with open(path, 'wb') as file:
            step, at = 64 * servers.MIB, 0
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), at, step)
                    at += step
                except OSError:
                    step //= 2
        time.sleep(1)
        os.remove(path)

    def faults(self, small_disk):
        both = [self.flip_bits, self.cut_file, self.kill_front, self.change_roles]
        if small_disk:
            both.append(self.fill_disk)
        if self.between_processes:
            both += [self.kill_prefill, self.kill_decode, self.stop_worker] * 2
        return both


class Disk:
    """A folder on a small disk of its own, if this user may mount one."""

    def __init__(self, parent):
        self.holder = tempfile.TemporaryDirectory(dir=parent)
        self.path = self.holder.name
        mount = ['mount', '-t', 'tmpfs', '-o', 'size=512m', 'soak', self.path]
        self.small = (parent is None and
                      subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.small:
            subprocess.run(['umount', self.path], check=True)
        self.holder.cleanup()


class Soak:
    def __init__(self, options, model, disk):
        self.options, self.model, self.disk = options, model, disk
        self.prompts = Prompts(options.seed)
        self.chance = random.Random(options.seed)
        self.lock = threading.Lock()
        self.asked = 0
        self.ends_at = time.monotonic() + options.seconds
        self.ends, self.faults, self.counted = (collections.Counter() for _ in range(3))
        self.tokens = 0
        self.wrong = []
        self.failed = False  # whoever injects faults has failed itself

    def over(self):
        return self.failed or time.monotonic() > self.ends_at

    def next_number(self, chance):
        """One of those that were asked lately, or the next one."""
        with self.lock:
            self.asked += 1
            newest = self.asked // 4
        return chance.randrange(max(0, newest - 100), newest + 1)

    def client(self, *arguments):
        try:
            self.ask_on(*arguments)
        except BaseException as error:
            with self.lock:
                self.wrong.append(f'a client ended: {error!r}')
                self.failed = True
            raise

    def ask_on(self, service, reference, chance, until):
        while self.asked < until and not self.over():
            if service.down:
                time.sleep(0.01)
                continue
            number = self.next_number(chance)
            prompt, tokens = self.prompts.get(number)
            stream = chance.random() < 0.6
            leave_after = chance.randrange(1, 8) if stream and chance.random() < 0.05 else None
            life = service.lives
            try:
                status, got, whole = ask(service.port, prompt, tokens, stream, leave_after)
            except TimeoutError:
                status, got, whole = 'hung', [], False
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, got, whole = f'connection lost: {type(error).__name__}', [], False
            broken = str(status).startswith(('connection', 'no end'))
            if broken and (service.lives != life or service.down):
                status = 'lost with the front end'
            expected = self.prompts.expected(number, reference)
            fine = got == (expected if whole else expected[:len(got)])
            honest = whole or not str(status).startswith(('hung', 'no end', 'connection', '500'))
            with self.lock:
                self.ends['whole' if whole else status] += 1
                self.tokens += len(got)
                if not fine or not honest:
                    self.wrong.append(f'prompt {number}, {status}: {got}, not {expected}')

    def round(self, number, reference, until):
        service = Service(self.model, self.options.kv_type, self.disk.path, number % 2 == 0,
                          self.chance)
        clients = [threading.Thread(target=self.client, args=(
            service, reference, random.Random(f'{self.options.seed} {number} {i}'), until))
            for i in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            self.inject(service, until)
            for client in clients:
                client.join()
            self.settle(number, service)
        except BaseException:
            self.failed = True
            raise
        finally:
            service.kill()

    def inject(self, service, until):
        """A fault each `every` requests: all kinds, in any order, again and again."""
        faults = []
        due = self.asked
        while (due := due + self.options.every) < until:
            while self.asked < due and not self.over():
                time.sleep(0.01)
            if self.over():
                return
            if not faults:
                faults = service.faults(self.disk.small)
                self.chance.shuffle(faults)
            fault = faults.pop()
            self.faults[fault.__name__.replace('_', ' ')] += 1
            fault()

    def settle(self, number, service):
        try:
            service.wait_for_workers()
            service.wait_until(lambda: not service.kept(), 'nothing is kept')
        except AssertionError as error:
            self.wrong.append(f'round {number}: {error} {service.kept()}')
        statuses = service.end()
        if any(status != 0 for status in statuses):  # None: it had to be killed
            self.wrong.append(f'round {number}: ended with {statuses}')
        self.counted += service.counted

    def run(self):
        rounds = max(2, self.options.requests // 500)
        alone = [servers.PENSTOCK, 'serve', '--model', self.model, '--port',
                 str(port := servers.free_port()), '--kv-cache-mib', '0', '--exact', '--threads',
                 '1', '--sequences', '4', '--context', '1024', '--kv-type', self.options.kv_type,
                 *FLAGS]
        with servers.Server('soak-reference', alone, port, '/ready') as reference:
            for number in range(rounds):
                if self.over():
                    break
                self.round(number, reference, self.options.requests * (number + 1) // rounds)
                servers.say(f'{self.asked} requests, {self.tokens} tokens, '
                            f'{sum(self.faults.values())} faults, {len(self.wrong)} wrong')


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--requests', type=int, default=20000)
    parser.add_argument('--every', type=int, default=40, help='requests from one fault to the next')
    parser.add_argument('--seconds', type=float, default=600,
                        help='no request begins after so long')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--kv-type', default='f16', help='f16 or q8_0')
    parser.add_argument('--folder', help='on the disk to use (default: a temporary one, a small '
                                         'disk in memory where that may be mounted)')
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Disk(options.folder) as disk:
        model = os.path.join(folder, 'm.gguf')
        write_model(model, context=1024, quantized=True)
        soak = Soak(options, model, disk)
        soak.run()
    print(servers.machine())
    rows = [('requests', soak.asked), ('tokens compared', soak.tokens),
            *((f'ended: {end}', n) for end, n in soak.ends.most_common()),
            *((f'fault: {fault}', n) for fault, n in sorted(soak.faults.items())),
            *sorted((name, n) for name, n in soak.counted.items() if n),
            ('wrong', len(soak.wrong)), ('seconds', round(time.monotonic() - began))]
    print(servers.table(['what', 'how many'], rows))
    for wrong in soak.wrong[:20]:
        print(wrong, file=sys.stderr)
    return 1 if soak.wrong else 0


if __name__ == '__main__':
    sys.exit(main())
