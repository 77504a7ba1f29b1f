#!/usr/bin/env python3
"""kill -9 of `penstock serve --kv-disk` in the middle of writing, again and again over one folder.

Each round starts the service, asks prompts of earlier rounds again, keeps it computing and writing
new ones, and kills it. Checked: every KV block that was on disk when it was killed is found by the
next start; a prompt never has less of it cached than it had before; every answer is, token by
token, the one that was computed first; nothing read from disk failed to verify. The model is a
random one, made here, so that a round takes a moment; --exact, so that what is restored and what is
computed must agree.

    bench/tiers/crash.py [--rounds N] [--seconds N] [--folder DIR]
"""

import argparse
import http.client
import json
import os
import random
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import servers
from random_model import write_model

CONTEXT = 2048
PROMPT_TOKENS, ANSWER_TOKENS, BLOCK_TOKENS = 320, 4, 16
ASKED_AGAIN = 2
BAD_READS = ('corrupt', 'wrong_record', 'truncated', 'io_error')


class Service(servers.Server):
    def __init__(self, model, folder):
        port = servers.free_port()
        super().__init__('penstock', [
            servers.PENSTOCK, 'serve', '--model', model, '--served-model-name', 'm', '--port',
            str(port), '--exact', '--sequences', '2', '--context', str(CONTEXT),
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


class Asked:
    def __init__(self, prompt, answer):
        self.prompt, self.answer, self.cached = prompt, answer, 0


def write_new(service, chance, known, due):
    """Until it is due to kill the service: then as the blocks of an answer are being written."""
    last = False
    while not last:
        last = due.is_set()
        prompt = [chance.randrange(256) for _ in range(PROMPT_TOKENS)]
        answer, _ = service.ask(prompt)
        if last:
            time.sleep(10 ** chance.uniform(-5, -2.5))  # 10 us to 3 ms, whatever the disk takes
            service.kill()
        known.append(Asked(prompt, answer))


def ask_again(service, chance, known, found):
    for asked in chance.sample(known, min(ASKED_AGAIN, len(known))) + known[-1:]:
        answer, cached = service.ask(asked.prompt)
        found['answers compared'] += 1
        found['from the store'] += cached > 0
        found['wrong answers'] += answer != asked.answer
        found['cached before, not now'] += cached < asked.cached
        asked.cached = cached


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=200)
    parser.add_argument('--seconds', type=float, default=float('inf'),
                        help='no round begins after so long')
    parser.add_argument('--folder', help='on the disk to use (default: a temporary one)')
    flags = parser.parse_args()
    chance = random.Random(7)
    known, committed, answered = [], 0, 0
    found = dict.fromkeys(['kills', 'with blocks on their way to disk', 'committed blocks lost',
                           'answers compared', 'from the store', 'wrong answers',
                           'cached before, not now', 'bad reads'], 0)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        model, store = os.path.join(folder, 'm.gguf'), os.path.join(folder, 'kv')
        write_model(model, context=CONTEXT)
        for _ in range(flags.rounds):
            if time.monotonic() - began > flags.seconds:
                break
            with Service(model, store) as service:
                recovered = service.metrics()['penstock_kv_tier_recovered_blocks']
                found['committed blocks lost'] += max(0, committed - recovered)
                found['with blocks on their way to disk'] += recovered < answered
                if known:
                    ask_again(service, chance, known, found)
                due = threading.Event()
                answers = len(known)
                writer = threading.Thread(target=write_new, args=(service, chance, known, due))
                writer.start()
                while len(known) == answers:
                    time.sleep(0.001)
                now = service.metrics()
                found['bad reads'] += sum(now.get(
                    f'penstock_kv_tier_missed_total{{reason="{reason}"}}', 0)
                    for reason in BAD_READS)
                committed = now['penstock_kv_tier_blocks{tier="disk"}']
                due.set()
                writer.join()
                found['kills'] += 1
                answered = recovered + (len(known) - answers) * (PROMPT_TOKENS // BLOCK_TOKENS)
    print(servers.machine())
    print(servers.table(['what', 'how many'], [[what, int(n)] for what, n in found.items()] + [
        ['blocks on disk at the end', int(committed)],
        ['seconds', round(time.monotonic() - began)]]))
    lost = found['committed blocks lost'] + found['cached before, not now']
    return 1 if lost + found['wrong answers'] + found['bad reads'] > 0 else 0


if __name__ == '__main__':
    sys.exit(main())
