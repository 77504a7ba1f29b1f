"""Random models with a byte-level vocabulary, written as GGUF files: real code paths without a
download, for tests and benchmarks in Python. Answers are noise, the same for the same model."""

import random
import struct

VOCABULARY = 259  # 256 bytes, <|im_start|>, <|im_end|>, <|endoftext|>
U32, I32, F32, BOOL, STRING, LIST = 4, 5, 6, 7, 8, 9


def text(string):
    return struct.pack('<Q', len(string.encode())) + string.encode()


def spelled():
    """GPT-2's spelling of each byte as a printable character."""
    printable = {b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174}
    others = iter(range(256, 512))
    return [chr(b if b in printable else next(others)) for b in range(256)]


def vocabulary():
    tokens = spelled() + ['<|im_start|>', '<|im_end|>', '<|endoftext|>']
    kinds = [1] * 256 + [3] * 3
    return {
        'tokenizer.ggml.model': (STRING, text('gpt2')),
        'tokenizer.ggml.pre': (STRING, text('gpt-2')),
        'tokenizer.ggml.tokens': (LIST, struct.pack('<IQ', STRING, len(tokens)) +
                                  b''.join(map(text, tokens))),
        'tokenizer.ggml.token_type': (LIST, struct.pack(f'<IQ{len(kinds)}i', I32, len(kinds),
                                                        *kinds)),
        'tokenizer.ggml.merges': (LIST, struct.pack('<IQ', STRING, 0)),
        'tokenizer.ggml.bos_token_id': (U32, struct.pack('<I', 256)),
        'tokenizer.ggml.eos_token_id': (U32, struct.pack('<I', 257)),
        'tokenizer.ggml.add_bos_token': (BOOL, b'\0'),
        'tokenizer.chat_template': (
            STRING, text("{% for m in messages %}{{ m['content'] }}{% endfor %}")),
    }


def attention(at, width, feed, bias):
    """The tensors of a layer: name, columns, rows (0: a vector)."""
    yield from ((f'{at}{part}_norm.weight', width, 0) for part in ('attn', 'ffn'))
    yield from ((f'{at}attn_{part}.weight', width, width) for part in ('q', 'k', 'v', 'output'))
    if bias:
        yield from ((f'{at}attn_{part}.bias', width, 0) for part in ('q', 'k', 'v'))
    yield from ((f'{at}ffn_{part}.weight', width, feed) for part in ('gate', 'up'))
    yield f'{at}ffn_down.weight', feed, width


def recurrent(at, width):
    """The same of a mamba: no KV, a state of fixed size."""
    inner, state, rank = 2 * width, 16, 8
    yield f'{at}attn_norm.weight', width, 0
    yield f'{at}ssm_in.weight', width, 2 * inner
    yield f'{at}ssm_conv1d.weight', 4, inner
    yield f'{at}ssm_conv1d.bias', inner, 0
    yield f'{at}ssm_x.weight', inner, rank + 2 * state
    yield f'{at}ssm_dt.weight', rank, inner
    yield f'{at}ssm_dt.bias', inner, 0
    yield f'{at}ssm_a', state, inner
    yield f'{at}ssm_d', inner, 0
    yield f'{at}ssm_out.weight', inner, width


def noise(chance, count):
    """`count` numbers of either sign from 1/16 to 1/8."""
    bits = int.from_bytes(chance.randbytes(4 * count), 'little')
    signs_and_fractions = int.from_bytes(struct.pack('<I', 0x807FFFFF) * count, 'little')
    exponents = int.from_bytes(struct.pack('<f', 1 / 16) * count, 'little')
    return ((bits & signs_and_fractions) | exponents).to_bytes(4 * count, 'little')


def quantized_noise(chance, count):
    """As many in Q4_K: in blocks of 256 two factors, 12 bytes of scales, 4 bits a number."""
    factors = struct.pack('<ee', 5e-4, 4e-3)  # so that they are of either sign
    return b''.join(factors + chance.randbytes(12 + 128) for _ in range(count // 256))


def write_model(path, architecture='llama', width=256, layers=4, heads=4, context=2048, seed=1,
                quantized=False):
    """`architecture`: llama, qwen2, or mamba. Weights are F32 or, of a width of 256, Q4_K."""
    feed = 2 * width
    number = lambda value: (U32, struct.pack('<I', value))
    real = lambda value: (F32, struct.pack('<f', value))
    own = {'context_length': number(context), 'embedding_length': number(width),
           'block_count': number(layers), 'attention.layer_norm_rms_epsilon': real(1e-5)}
    if architecture == 'mamba':
        own |= {'ssm.conv_kernel': number(4), 'ssm.inner_size': number(2 * width),
                'ssm.state_size': number(16), 'ssm.time_step_rank': number(8)}
        layer = lambda at: recurrent(at, width)
    else:
        own |= {'feed_forward_length': number(feed), 'attention.head_count': number(heads),
                'attention.head_count_kv': number(heads),
                'rope.dimension_count': number(width // heads)}
        layer = lambda at: attention(at, width, feed, bias=architecture == 'qwen2')
    values = {'general.architecture': (STRING, text(architecture))}
    values |= {f'{architecture}.{name}': value for name, value in own.items()}
    values |= vocabulary()
    tensors = [('token_embd.weight', width, VOCABULARY), ('output_norm.weight', width, 0),
               ('output.weight', width, VOCABULARY)]
    for i in range(layers):
        tensors += layer(f'blk.{i}.')
    chance = random.Random(seed)
    with open(path, 'wb') as file:
        file.write(b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(values)))
        for name, (kind, value) in values.items():
            file.write(text(name) + struct.pack('<I', kind) + value)
        offset = 0
        for name, columns, rows in tensors:
            sizes = [columns, rows] if rows else [columns]
            q4_k = quantized and rows > 0
            count = columns * max(rows, 1)
            kind, size = (12, count * 144 // 256) if q4_k else (0, 4 * count)
            file.write(text(name))
            file.write(struct.pack(f'<I{len(sizes)}QIQ', len(sizes), *sizes, kind, offset))
            offset += size + -size % 32
        for name, columns, rows in tensors:
            file.write(b'\0' * (-file.tell() % 32))
            count = columns * max(rows, 1)
            if name.endswith('norm.weight'):
                file.write(struct.pack('<f', 1) * count)
            elif name.endswith('ssm_a'):
                file.write(struct.pack('<f', -1) * count)
            else:
                file.write((quantized_noise if quantized and rows else noise)(chance, count))
