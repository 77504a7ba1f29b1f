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
import array
import http.client
import json
import os
import random
import struct
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import servers

WIDTH, FEED, LAYERS, HEADS, CONTEXT = 256, 512, 4, 4, 2048
PROMPT_TOKENS, ANSWER_TOKENS, BLOCK_TOKENS = 320, 4, 16
ASKED_AGAIN = 2
BAD_READS = ('corrupt', 'wrong_record', 'truncated', 'io_error')


def write_model(path):
    """A random llama with a byte-level vocabulary, as GGUF."""
    string_type, u32, i32, f32, bool_type, list_type = 8, 4, 5, 6, 7, 9
    text = lambda s: struct.pack('<Q', len(s.encode())) + s.encode()
    printable = [b for b in range(256)
                 if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    spelled = {b: chr(b) for b in printable}
    spelled.update((b, chr(256 + i)) for i, b in
                   enumerate(b for b in range(256) if b not in spelled))
    tokens = [spelled[b] for b in range(256)] + ['<|im_start|>', '<|im_end|>', '<|endoftext|>']
    values = [
        ('general.architecture', string_type, text('llama')),
        ('llama.context_length', u32, struct.pack('<I', CONTEXT)),
        ('llama.embedding_length', u32, struct.pack('<I', WIDTH)),
        ('llama.block_count', u32, struct.pack('<I', LAYERS)),
        ('llama.feed_forward_length', u32, struct.pack('<I', FEED)),
        ('llama.attention.head_count', u32, struct.pack('<I', HEADS)),
        ('llama.attention.head_count_kv', u32, struct.pack('<I', HEADS)),
        ('llama.attention.layer_norm_rms_epsilon', f32, struct.pack('<f', 1e-5)),
        ('llama.rope.dimension_count', u32, struct.pack('<I', WIDTH // HEADS)),
        ('tokenizer.ggml.model', string_type, text('gpt2')),
        ('tokenizer.ggml.pre', string_type, text('gpt-2')),
        ('tokenizer.ggml.tokens', list_type,
         struct.pack('<IQ', string_type, len(tokens)) + b''.join(map(text, tokens))),
        ('tokenizer.ggml.token_type', list_type,
         struct.pack('<IQ', i32, len(tokens)) + struct.pack('<259i', *[1] * 256, 3, 3, 3)),
        ('tokenizer.ggml.merges', list_type, struct.pack('<IQ', string_type, 0)),
        ('tokenizer.ggml.bos_token_id', u32, struct.pack('<I', 256)),
        ('tokenizer.ggml.eos_token_id', u32, struct.pack('<I', 257)),
        ('tokenizer.ggml.add_bos_token', bool_type, b'\0'),
        ('tokenizer.chat_template', string_type,
         text("{% for m in messages %}{{ m['content'] }}{% endfor %}")),
    ]
    shapes = [('token_embd.weight', WIDTH, len(tokens))]
    for layer in range(LAYERS):
        at = f'blk.{layer}.'
        shapes += [(at + 'attn_norm.weight', WIDTH, 0), (at + 'ffn_norm.weight', WIDTH, 0)]
        shapes += [(f'{at}attn_{part}.weight', WIDTH, WIDTH) for part in ('q', 'k', 'v', 'output')]
        shapes += [(at + 'ffn_gate.weight', WIDTH, FEED), (at + 'ffn_up.weight', WIDTH, FEED),
                   (at + 'ffn_down.weight', FEED, WIDTH)]
    shapes += [('output_norm.weight', WIDTH, 0), ('output.weight', WIDTH, len(tokens))]
    chance = random.Random(1)
    with open(path, 'wb') as file:
        file.write(b'GGUF' + struct.pack('<IQQ', 3, len(shapes), len(values)))
        for name, kind, value in values:
            file.write(text(name) + struct.pack('<I', kind) + value)
        offset = 0
        for name, columns, rows in shapes:
            sizes = [columns, rows] if rows else [columns]
            file.write(text(name))
            file.write(struct.pack(f'<I{len(sizes)}QIQ', len(sizes), *sizes, 0, offset))
            offset += 4 * columns * max(rows, 1)
        file.write(b'\0' * (-file.tell() % 32))
        for name, columns, rows in shapes:
            numbers = ((chance.random() - 0.5 for _ in range(columns * rows)) if rows
                       else (1.0 for _ in range(columns)))
            array.array('f', numbers).tofile(file)


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
            'return_token_ids': True})))
        return (answer['choices'][0]['token_ids'],
                answer['usage']['prompt_tokens_details']['cached_tokens'])

    def metrics(self):
        return {line.rsplit(' ', 1)[0]: float(line.rsplit(' ', 1)[1])
                for line in self.request('GET', '/metrics').splitlines() if line[0] != '#'}


class Asked:
    def __init__(self, prompt, answer):
        self.prompt, self.answer, self.cached = prompt, answer, 0


def write_new(service, chance, known, ended):
    """Until the service is gone."""
    try:
        while not ended.is_set():
            prompt = [chance.randrange(256) for _ in range(PROMPT_TOKENS)]
            answer, _ = service.ask(prompt)
            known.append(Asked(prompt, answer))
    except (OSError, http.client.HTTPException, ValueError):
        pass


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
        write_model(model)
        for _ in range(flags.rounds):
            if time.monotonic() - began > flags.seconds:
                break
            with Service(model, store) as service:
                recovered = service.metrics()['penstock_kv_tier_recovered_blocks']
                found['committed blocks lost'] += max(0, committed - recovered)
                found['with blocks on their way to disk'] += recovered < answered
                if known:
                    ask_again(service, chance, known, found)
                ended = threading.Event()
                answers = len(known)
                writer = threading.Thread(target=write_new, args=(service, chance, known, ended))
                writer.start()
                while len(known) == answers:
                    time.sleep(0.001)
                now = service.metrics()
                found['bad reads'] += sum(now.get(
                    f'penstock_kv_tier_missed_total{{reason="{reason}"}}', 0)
                    for reason in BAD_READS)
                committed = now['penstock_kv_tier_blocks{tier="disk"}']
                asked = len(known)
                while len(known) == asked:  # blocks of the next answer are being written now
                    time.sleep(0.0005)
                time.sleep(chance.random() * 0.01)
                service.kill()
                ended.set()
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
