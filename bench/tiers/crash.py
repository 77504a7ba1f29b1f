#!/usr/bin/env python3
"""kill -9 of `penstock serve --kv-disk` in the middle of writing, again and again over one folder.

Each round starts the service, asks prompts of earlier rounds again, waits until all KV blocks that
were ever asked for are on disk, keeps it computing and writing new ones, and kills it. Checked:

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
import http.client
import json
import os
import random
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import servers
from random_model import write_model

CONTEXT = 2048
PROMPT_TOKENS, ANSWER_TOKENS, BLOCK_TOKENS = 320, 4, 16
MORE_TOKENS = 64  # as many --exact computes anew, whatever is cached
ASKED_AGAIN = 2
SETTLED_S = 20
FAILURES = ('committed blocks lost', 'wrong answers', 'bad reads')
BAD_READS = ('corrupt', 'wrong_record', 'truncated', 'io_error')


class Service(servers.Server):
    def __init__(self, model, folder):
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

    def ask(self, prompt):
        """(token ids of the answer, prompt tokens cached)"""
        answer = json.loads(self.request('POST', '/v1/completions', json.dumps({
            'model': 'm', 'prompt': prompt, 'temperature': 0, 'max_tokens': ANSWER_TOKENS,
            'ignore_eos': True, 'return_token_ids': True})))
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


class Asked:
    """A prompt, and what it was answered first."""

    def __init__(self, chance, service):
        self.prompt = [chance.randrange(256) for _ in range(PROMPT_TOKENS)]
        self.more = self.prompt + [chance.randrange(256) for _ in range(MORE_TOKENS)]
        self.answer, _ = service.ask(self.prompt)


class Checks:
    def __init__(self):
        self.known = []     # on disk in full since they were waited for
        self.open = []      # asked after that: a kill may have cut them off
        self.blocks = 0     # of all that was asked for
        self.extended = set()
        self.found = dict.fromkeys([
            'kills', 'with blocks on their way to disk', 'committed blocks lost',
            'prompts on disk asked again', 'not loaded, being slow', 'answers compared',
            'wrong answers', 'bad reads'], 0)

    def compare(self, service, asked):
        answer, _ = service.ask(asked.prompt)
        self.found['answers compared'] += 1
        self.found['wrong answers'] += answer != asked.answer

    def ask_known(self, service, asked):
        missed = service.missed()
        _, cached = service.ask(asked.more)
        if asked not in self.extended:
            self.extended.add(asked)
            self.blocks += MORE_TOKENS // BLOCK_TOKENS
        self.found['prompts on disk asked again'] += 1
        if cached < PROMPT_TOKENS:
            slow = service.missed() > missed  # it was found
            self.found['not loaded, being slow'] += slow
            if not slow:
                self.found['committed blocks lost'] += (PROMPT_TOKENS - cached) // BLOCK_TOKENS
        self.compare(service, asked)

    def ask_new(self, service, chance):
        self.open.append(Asked(chance, service))
        self.blocks += PROMPT_TOKENS // BLOCK_TOKENS

    def settle(self, service):
        """Waits until all that was asked for is on disk."""
        until = time.monotonic() + SETTLED_S
        while service.on_disk() != self.blocks and time.monotonic() < until:
            time.sleep(0.001)
        self.found['committed blocks lost'] += abs(self.blocks - service.on_disk())
        self.blocks = service.on_disk()
        self.known += self.open
        self.open = []

    def begin_round(self, service, chance):
        on_disk = service.metrics()['penstock_kv_tier_recovered_blocks']
        self.found['with blocks on their way to disk'] += on_disk < self.blocks
        for asked in self.known[-1:] + chance.sample(self.known, min(ASKED_AGAIN, len(self.known))):
            self.ask_known(service, asked)
        for asked in self.open:
            self.compare(service, asked)
        self.ask_new(service, chance)
        self.settle(service)

    def write_until_killed(self, service, chance, prompts):
        """The last time as the blocks of an answer are being written."""
        for _ in range(prompts):
            self.ask_new(service, chance)
        time.sleep(10 ** chance.uniform(-5, -2.5))  # 10 us to 3 ms, whatever the disk takes
        service.kill()
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
                checks.write_until_killed(service, chance, chance.randint(1, 3))
    print(servers.machine())
    print(servers.table(['what', 'how many'], [[what, n] for what, n in checks.found.items()] + [
        ['blocks asked for in all', checks.blocks],
        ['seconds', round(time.monotonic() - began)]]))
    return 1 if sum(checks.found[what] for what in FAILURES) > 0 else 0


if __name__ == '__main__':
    sys.exit(main())
