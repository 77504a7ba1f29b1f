#!/usr/bin/env python3
"""kill -9 of `penstock serve --kv-disk` in the middle of writing, again and again over one folder.

Each round starts the service, asks prompts of earlier rounds again, waits until all KV blocks that
were ever asked for are on disk, has clients ask new ones without a pause, and kills it right after
one write or another. Checked:

- all of a prompt that was on disk before a kill is cached when it is asked again, with more behind
  it so that its last block counts too; those written last are asked after each kill;
- when what was on its way at the kill has been asked again, the disk holds exactly the blocks that
  were ever asked for: an older one that is lost would be missing;
- every answer is, token by token, the one that was computed first;
- nothing read from disk failed to verify.

The model is a random one, made here, so that a round takes a moment; --exact, so that what is
restored and what is computed must agree.

    bench/tiers/crash.py [--rounds N] [--seconds N] [--folder DIR]
"""

import argparse
import ctypes
import http.client
import json
import os
import random
import select
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import servers
from random_model import write_model

CONTEXT = 2048
PROMPT_TOKENS, ANSWER_TOKENS, BLOCK_TOKENS = 320, 4, 16
MORE_TOKENS = 64  # as many --exact computes anew, whatever is cached
ASKED_AGAIN = 2
CLIENTS = 2
WRITES_MAX = 40  # seen before a kill
SETTLED_S = 20
FAILURES = ('committed blocks lost', 'wrong answers', 'bad reads')
BAD_READS = ('corrupt', 'wrong_record', 'truncated', 'io_error')


class Service(servers.Server):
    def __init__(self, model, folder):
        self.store = folder
        port = servers.free_port()
        super().__init__('penstock', [
            servers.PENSTOCK, 'serve', '--model', model, '--served-model-name', 'm', '--port',
            str(port), '--exact', '--sequences', '2', '--threads', '1', '--context', str(CONTEXT),
            '--block-tokens', str(BLOCK_TOKENS), '--kv-disk', folder, '--kv-disk-mib', '16384',
            '--log-level', 'warn'], port, '/ready')

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        try:
            connection.request(method, path, body, {'Content-Type': 'application/json'})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def ask(self, prompt, **more):
        """(token ids of the answer, prompt tokens cached)"""
        answer = json.loads(self.request('POST', '/v1/completions', json.dumps({
            'model': 'm', 'prompt': prompt, 'temperature': 0, 'max_tokens': ANSWER_TOKENS,
            'ignore_eos': True, 'return_token_ids': True, **more})))
        if 'choices' not in answer:
            raise RuntimeError(f'refused: {answer}')
        return (answer['choices'][0]['token_ids'],
                answer['usage']['prompt_tokens_details']['cached_tokens'])

    def metrics(self):
        return {line.rsplit(' ', 1)[0]: float(line.rsplit(' ', 1)[1])
                for line in self.request('GET', '/metrics').splitlines() if line[0] != '#'}

    def on_disk(self):
        return int(self.metrics()['penstock_kv_tier_blocks{tier="disk"}'])

    def missed(self, reasons=None):
        return sum(value for name, value in self.metrics().items()
                   if name.startswith('penstock_kv_tier_missed_total{') and
                   (reasons is None or any(f'"{reason}"' in name for reason in reasons)))


class Writes:
    """Of files in a folder, as they end."""

    IN_MODIFY, IN_NONBLOCK = 2, os.O_NONBLOCK

    def __init__(self, folder):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(self.IN_NONBLOCK)
        if self.fd < 0 or libc.inotify_add_watch(self.fd, folder.encode(), self.IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), f'{folder}: cannot be watched')

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        os.close(self.fd)

    def wait(self):
        """For one at least since the last time."""
        if not select.select([self.fd], [], [], SETTLED_S)[0]:
            raise SystemExit('nothing is written')
        os.read(self.fd, 1 << 16)


class Asked:
    """A prompt, and what it was answered when all of it was computed: nothing yet if a kill was
    quicker."""

    def __init__(self, chance):
        self.prompt = [chance.randrange(256) for _ in range(PROMPT_TOKENS)]
        self.more = self.prompt + [chance.randrange(256) for _ in range(MORE_TOKENS)]
        self.answer = None


class Checks:
    def __init__(self):
        self.known = []     # on disk in full since they were waited for
        self.open = []      # asked after that: a kill may have cut them off
        self.extended = set()  # with what stands behind them
        self.computed_apart = 0  # prompts, once more under a salt
        self.lost = 0       # blocks
        self.found = dict.fromkeys([
            'kills', 'with a prompt half on disk', 'committed blocks lost',
            'prompts on disk asked again', 'not loaded, being slow', 'answers compared',
            'wrong answers', 'bad reads'], 0)

    def blocks(self):
        """Of all that was asked for."""
        prompts = len(self.known + self.open) + self.computed_apart
        tokens = prompts * PROMPT_TOKENS + len(self.extended) * MORE_TOKENS
        return tokens // BLOCK_TOKENS - self.lost

    def compare(self, service, asked):
        answer, _ = service.ask(asked.prompt)
        if asked.answer is None:  # with nothing restored
            asked.answer, _ = service.ask(asked.prompt, cache_salt='apart')
            self.computed_apart += 1
        self.found['answers compared'] += 1
        self.found['wrong answers'] += answer != asked.answer

    def cached(self, service, asked):
        """Tokens of a prompt that were not computed again, and whether any were passed by."""
        missed = service.missed()
        _, cached = service.ask(asked.more)
        self.extended.add(asked)
        return min(cached, PROMPT_TOKENS), service.missed() > missed

    def ask_known(self, service, asked):
        cached, slow = self.cached(service, asked)
        self.found['prompts on disk asked again'] += 1
        if cached < PROMPT_TOKENS:
            self.found['not loaded, being slow'] += slow
            if not slow:
                self.found['committed blocks lost'] += (PROMPT_TOKENS - cached) // BLOCK_TOKENS
        self.compare(service, asked)

    def ask_cut(self, service, asked):
        """Whether the kill came between the first and the last of its blocks."""
        cached, slow = self.cached(service, asked)
        self.compare(service, asked)
        return not slow and 0 < cached < PROMPT_TOKENS

    def settle(self, service):
        """Waits until all that was asked for is on disk."""
        until = time.monotonic() + SETTLED_S
        while service.on_disk() != self.blocks() and time.monotonic() < until:
            time.sleep(0.001)
        self.found['committed blocks lost'] += abs(self.blocks() - service.on_disk())
        self.lost = self.blocks() + self.lost - service.on_disk()
        self.known += self.open
        self.open = []

    def begin_round(self, service, chance):
        for asked in self.known[-1:] + chance.sample(self.known, min(ASKED_AGAIN, len(self.known))):
            self.ask_known(service, asked)
        cut = [self.ask_cut(service, asked) for asked in self.open]
        self.found['with a prompt half on disk'] += any(cut)
        self.settle(service)

    def write_until_killed(self, service, chance):
        """Under clients that ask without a pause."""
        def client(own):
            try:
                while True:
                    asked = Asked(own)
                    self.open.append(asked)
                    asked.answer, _ = service.ask(asked.prompt)
            except (OSError, ValueError, http.client.HTTPException):
                pass  # killed

        clients = [threading.Thread(target=client, args=[random.Random(chance.random())])
                   for _ in range(CLIENTS)]
        with Writes(service.store) as writes:
            for each in clients:
                each.start()
            for _ in range(chance.randint(1, WRITES_MAX)):
                writes.wait()
            time.sleep(chance.uniform(0, 0.001))
            service.kill()
        for each in clients:
            each.join()
        self.found['kills'] += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=200)
    parser.add_argument('--seconds', type=float, default=float('inf'),
                        help='no round begins after so long')
    parser.add_argument('--folder', help='on the disk to use (default: a temporary one)')
    flags = parser.parse_args()
    chance, checks = random.Random(7), Checks()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        model, store = os.path.join(folder, 'm.gguf'), os.path.join(folder, 'kv')
        write_model(model, context=CONTEXT)
        for _ in range(flags.rounds):
            if time.monotonic() - began > flags.seconds:
                break
            with Service(model, store) as service:
                checks.begin_round(service, chance)
                checks.found['bad reads'] += int(service.missed(BAD_READS))
                checks.write_until_killed(service, chance)
    print(servers.machine())
    print(servers.table(['what', 'how many'], [[what, n] for what, n in checks.found.items()] + [
        ['blocks asked for in all', checks.blocks()],
        ['seconds', round(time.monotonic() - began)]]))
    return 1 if sum(checks.found[what] for what in FAILURES) > 0 else 0


if __name__ == '__main__':
    sys.exit(main())
