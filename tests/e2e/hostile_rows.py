"""What a hostile, broken or unusual client sends in one piece, and what it must get: one row each.

A row's `status`, `param` (of the error; None: null) and `says` (a piece of its message) are the
statement. Rows about JSON are answered by the API and leave the connection usable; rows about HTTP
itself are answered by the server below it, which then closes, since it cannot know where the next
request would begin (`closes`).
"""

import dataclasses
import json

from penstock import MODEL, request_bytes

CHAT = '/v1/chat/completions'
COMPLETIONS = '/v1/completions'
EMBEDDINGS = '/v1/embeddings'

# Stands in every prompt here: no error and no log line may repeat it (E9).
CANARY = 'xyzzy-the-prompt'

CONTEXT_TOKENS = 131072  # of the simulated engine


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    sent: bytes
    status: int
    param: str | None = None
    says: str = ''
    closes: bool = False
    answers: int = 1        # how many: the stated one is the last, those before it are 200
    head: bool = False      # answered without a body
    answer: tuple = ()      # headers that it must have: (name, value)


def literal(fields):
    """A JSON object of JSON texts: what json.dumps() would refuse to write can be written here."""
    return '{' + ','.join(f'{json.dumps(name)}:{text}' for name, text in fields.items()) + '}'


PATHS = {
    CHAT: {'model': json.dumps(MODEL), 'max_tokens': '4',
           'messages': json.dumps([{'role': 'user', 'content': CANARY}])},
    COMPLETIONS: {'model': json.dumps(MODEL), 'max_tokens': '4', 'prompt': json.dumps(CANARY)},
    EMBEDDINGS: {'model': json.dumps(MODEL), 'input': json.dumps(CANARY)},
}


def body_of(path, **texts):
    """The usual body with these fields as JSON texts; None leaves a field out."""
    return literal({name: text for name, text in {**PATHS[path], **texts}.items()
                    if text is not None}).encode()


def post(name, body, status, param=None, says='', path=CHAT, **rest):
    if isinstance(body, str):
        body = body.encode()
    return Row(name, request_bytes('POST', path, body), status, param, says, **rest)


def field(name, text, status=400, param='', says='', path=CHAT, **more):
    """One field of the usual body has another value. The error names it, unless said otherwise."""
    short = text if len(text) < 160 else f'{text[:20]}... of {len(text)}'
    where = path.removeprefix('/v1/')
    with_more = ''.join(f' {other}={value}' for other, value in more.items())
    if param == '':
        param = None if status == 200 else name
    return post(f'{where}: {name} = {short}{with_more}', body_of(path, **{name: text}, **more),
                status, param, says or (param if isinstance(param, str) else ''), path=path)


# ---- the wrong type in every documented field ----

TYPES = {'a boolean': 'true', 'a number': '7', 'a string': '"x"', 'an array': '[]',
         'an object': '{}'}

# field: the types it takes. What is 422 whatever it holds is in BEYOND.
COMMON = {
    'model': ['a string'],
    'stream': ['a boolean'],
    'stream_options': ['an object'],
    'n': ['a number'],
    'max_tokens': ['a number'],
    'min_tokens': ['a number'],
    'temperature': ['a number'],
    'top_p': ['a number'],
    'min_p': ['a number'],
    'top_k': ['a number'],
    'frequency_penalty': ['a number'],
    'presence_penalty': ['a number'],
    'repetition_penalty': ['a number'],
    'repeat_penalty': ['a number'],
    'seed': ['a number'],
    'stop': ['a string', 'an array'],
    'stop_token_ids': ['an array'],
    'ignore_eos': ['a boolean'],
    'logit_bias': ['an object'],
    'grammar': ['a string'],
    'cache_salt': ['a string'],
    'priority': ['a number'],
    'user': ['a string'],
    'return_token_ids': ['a boolean'],
}
FIELDS = {
    CHAT: {
        **COMMON,
        'messages': ['an array'],
        'max_completion_tokens': ['a number'],
        'tools': ['an array'],
        'tool_choice': ['a string', 'an object'],
        'parallel_tool_calls': ['a boolean'],
        'response_format': ['an object'],
        'json_schema': ['an object'],
        'guided_json': ['an object'],
        'logprobs': ['a boolean'],
        'top_logprobs': ['a number'],
        'chat_template_kwargs': ['an object'],
        'reasoning_effort': ['a string'],
        'add_generation_prompt': ['a boolean'],
        'continue_final_message': ['a boolean'],
        'modalities': ['an array'],
    },
    COMPLETIONS: {
        **COMMON,
        'prompt': ['a string', 'an array'],
        'logprobs': ['a number'],
        'echo': ['a boolean'],
        'best_of': ['a number'],
        'suffix': ['a string'],
    },
    EMBEDDINGS: {
        'model': ['a string'],
        'input': ['a string', 'an array'],
        'encoding_format': ['a string'],
        'dimensions': ['a number'],
    },
}
MESSAGE_FIELDS = {
    'role': ['a string'],
    'content': ['a string', 'an array'],
    'name': ['a string'],
    'reasoning_content': ['a string'],
    'tool_calls': ['an array'],
    'tool_call_id': ['a string'],
}


def wrong_types():
    for path, fields in FIELDS.items():
        for name, taken in fields.items():
            for type_name, text in TYPES.items():
                if type_name not in taken:
                    yield field(name, text, path=path)
    for name, taken in MESSAGE_FIELDS.items():
        for type_name, text in TYPES.items():
            if type_name not in taken:
                message = {'role': '"user"', 'content': f'"{CANARY}"', name: text}
                yield field('messages', f'[{literal(message)}]', param=f'messages[0].{name}')


# ---- numbers ----

INTEGERS = {  # field: least and greatest
    'n': (1, 128),
    'max_tokens': (1, 2**31 - 1),
    'min_tokens': (0, 2**31 - 1),
    'top_k': (-1, 2**31 - 1),
    'priority': (-2**31, 2**31 - 1),
}
FLOATS = {
    'temperature': (0, 2),
    'top_p': (0, 1),
    'min_p': (0, 1),
    'frequency_penalty': (-2, 2),
    'presence_penalty': (-2, 2),
    'repetition_penalty': (0, 2),
}
ABOVE_ZERO = ('top_p', 'repetition_penalty')


def numbers():
    for name, (least, greatest) in INTEGERS.items():
        for text in (least - 1, greatest + 1, '1.5', '1e400', '-1e400', 2**63, 2**64, '"1"'):
            yield field(name, str(text), says='expected an integer')
    for name, (least, greatest) in FLOATS.items():
        for text in (least - 0.001, greatest + 0.001, '1e400', '-1e400', 2**64, '"1"'):
            yield field(name, str(text), says='expected a number')
        if name in ABOVE_ZERO:
            yield field(name, '0', says='above 0')
            yield field(name, '1e-400', says='above 0')
    for text in (2**64, -2**63 - 1, '1.5', '1e400', '1e20', '"1"'):
        yield field('seed', str(text), says='64 bits')
    for text in (2**63, 2**64 - 1, -2**63, 0, '1e3'):
        yield field('seed', str(text), 200)
    yield field('max_tokens', '4.0', 200)
    yield field('max_tokens', '4e0', 200)
    yield field('max_tokens', '4.5')
    yield field('max_completion_tokens', '0', says='expected an integer')
    yield field('top_logprobs', '21', logprobs='true', says='between 0 and 20')
    yield field('top_logprobs', '-1', logprobs='true')
    yield field('top_logprobs', '2', says='only allowed when logprobs is true')
    yield field('logprobs', '6', path=COMPLETIONS, says='between 0 and 5')
    yield field('dimensions', '0', path=EMBEDDINGS)
    # What JSON has no word for is no JSON.
    for text in ('NaN', 'nan', 'Infinity', '-Infinity', '+1', '01', '.5', '1.', '0x10', '1e', '-',
                 '1_000', 'True', 'nul', 'undefined'):
        for name in ('temperature', 'max_tokens', 'unknown'):
            yield field(name, text, says='the body is not valid JSON')


# ---- combinations and limits of fields ----

def fields():
    yield field('model', 'null', says='missing')
    yield post('chat: no model', body_of(CHAT, model=None), 400, 'model', 'missing')
    yield field('model', '""', says='must not be empty')
    yield field('model', '"gpt-5"', 404, 'model', 'the model "gpt-5" is not served here')
    yield field('model', json.dumps('a"b\r\nX: y\0' * 3), 404, 'model', 'not served here')
    yield field('model', '"gpt-5"', 404, 'model', 'is not served here', path=COMPLETIONS)
    yield field('model', '"gpt-5"', 404, 'model', 'is not served here', path=EMBEDDINGS)
    yield field('model', json.dumps('x' * 1_000_000), 404, 'model', 'is not served here')
    yield field('stream_options', '{"include_usage":true}', says='only allowed when stream is true')
    yield field('stream_options', '{"include_usage":1}', stream='true',
                param='stream_options.include_usage')
    yield field('n', '2', 200, temperature='0')  # the same answer twice
    yield field('min_tokens', '5', says='max_tokens')
    yield field('stop', json.dumps(['x'] * 33), param='stop[32]', says='more than 32')
    yield field('stop', '""', says='must not be empty')
    yield field('stop', '["x",""]', param='stop[1]', says='must not be empty')
    yield field('stop', '["x",{}]', param='stop[1]')
    yield field('stop', '[-1]', param='stop[0]')
    yield field('stop_token_ids', json.dumps([0] * 33), param='stop_token_ids[32]')
    yield field('stop_token_ids', '[2147483647]', says='not in the vocabulary')
    yield field('stop_token_ids', '[2147483648]', param='stop_token_ids[0]')
    yield field('stop_token_ids', '["x"]', param='stop_token_ids[0]')
    for key in ('x', '-1', '1.5', '', ' 1', '1 ', '99999999999', '0x1', '1e3'):
        place = f'logit_bias.{key}' if key else 'logit_bias'
        yield field('logit_bias', literal({key: '1'}), param=place,
                    says='the name must be a token id')
    yield field('logit_bias', '{"1":101}', param='logit_bias.1', says='between -100 and 100')
    yield field('logit_bias', '{"1":"a"}', param='logit_bias.1')
    yield field('logit_bias', '{"1":1,"01":2}', says='more than once')
    yield field('logit_bias', literal({str(i): '0' for i in range(4097)}), param='logit_bias.4096',
                says='more than 4096')
    yield field('logit_bias', '{"2147483647":1}', says='not in the vocabulary')
    yield field('cache_salt', '""', says='must not be empty')
    yield field('best_of', '2', path=COMPLETIONS, says='the same as n')
    yield field('suffix', '"x"', 422, path=COMPLETIONS)
    yield field('prompt', '""', path=COMPLETIONS, says='must not be empty')
    yield field('prompt', '[]', path=COMPLETIONS, says='must not be empty')
    yield field('prompt', '[[]]', path=COMPLETIONS, param='prompt[0]', says='must not be empty')
    yield field('prompt', '["x",1]', path=COMPLETIONS, param='prompt[1]')
    yield field('prompt', '[1,"x"]', path=COMPLETIONS, param='prompt[1]')
    yield field('prompt', '[1,-1]', path=COMPLETIONS, param='prompt[1]')
    yield field('prompt', '[1,2147483648]', path=COMPLETIONS, param='prompt[1]')
    yield field('prompt', '[2147483647]', path=COMPLETIONS, says='not in the vocabulary')
    yield field('prompt', json.dumps(['x'] * 257), path=COMPLETIONS, param='prompt[256]')
    yield field('n', '128', path=COMPLETIONS, prompt=json.dumps(['x'] * 9), says='1024')
    # What 127 more choices would repeat of the prompt.
    for repeating, path in (('return_token_ids', COMPLETIONS), ('return_token_ids', CHAT)):
        long = {COMPLETIONS: {'prompt': json.dumps([7] * 20_000)},
                CHAT: {'messages': json.dumps([{'role': 'user', 'content': 'a b ' * 10_000}])}}
        yield field('n', '128', path=path, **long[path], **{repeating: 'true'}, stream='true',
                    says='repeat the prompt')
    yield field('n', '128', path=COMPLETIONS, prompt=json.dumps('a b ' * 40_000), echo='true',
                says='repeat the prompt')
    yield field('prompt', json.dumps([1] * CONTEXT_TOKENS), path=COMPLETIONS,
                says=f'the prompt has {CONTEXT_TOKENS} tokens')
    yield field('messages', json.dumps([{'role': 'user', 'content': 'word ' * CONTEXT_TOKENS}]),
                says='shorten it')
    yield field('encoding_format', '"int8"', path=EMBEDDINGS)
    yield field('input', json.dumps(['x'] * 2049), path=EMBEDDINGS, param='input[2048]')
    yield field('input', '""', path=EMBEDDINGS)
    yield field('input', '"x"', 422, 'model', 'does not make embeddings', path=EMBEDDINGS)
    yield field('reasoning_effort', '"enormous"', says='expected "none"')
    yield field('modalities', '["text","audio"]', 422, 'modalities[1]')
    yield field('audio', '{}', 422)
    yield field('web_search_options', '{}', 422)
    yield field('functions', '[]', says='use tools')
    yield field('function_call', '"auto"', says='use tool_choice')
    yield field('chat_template_kwargs', literal({f'k{i}': '0' for i in range(65)}),
                param='chat_template_kwargs.k64')
    yield field('continue_final_message', 'true', says="must be an assistant's")
    yield field('continue_final_message', 'true', add_generation_prompt='true',
                param='add_generation_prompt')
    yield field('frobnicate', '{"deep":[1,{"x":null}]}', 200)
    yield field('user', json.dumps('"model":"evil","stream":true'), 200)  # E8
    yield field('temperature', 'null', 200)


def messages():
    def one(says, status=400, param='', **message):
        where = 'messages[0]' + param
        return field('messages', f'[{json.dumps(message)}]', status, where, says)

    yield field('messages', '[]', says='at least one message')
    yield post('chat: no messages', body_of(CHAT, messages=None), 400, 'messages', 'missing')
    yield field('messages', '[null]', param='messages[0]', says='expected an object')
    yield field('messages', '["hi"]', param='messages[0]', says='expected an object')
    yield field('messages', json.dumps([{'role': 'user', 'content': 'x'}] * 16385),
                param='messages[16384]', says='more than 16384')
    yield one('missing', param='.role', content=CANARY)
    yield one('expected "system"', param='.role', role='wizard', content=CANARY)
    yield one('deprecated', param='.role', role='function', content=CANARY, name='f')
    yield one('missing', param='.content', role='user')
    yield one('missing', param='.content', role='assistant')
    yield one('at least one part', param='.content', role='user', content=[])
    yield one('missing', param='.content[0].type', role='user', content=[{'text': CANARY}])
    yield one('missing', param='.content[0].text', role='user', content=[{'type': 'text'}])
    for kind in ('image_url', 'input_image', 'input_audio', 'file', 'video_url'):
        part = {'type': kind, kind: {'url': 'data:image/png;base64,AAAA'}}
        yield one('takes text only', 422, '.content[0].type', role='user', content=[part])
    yield one('text', param='.content[0].text', role='user', content=[{'type': 'text', 'text': 1}])
    yield one('only an assistant', param='.tool_calls', role='user', content=CANARY,
              tool_calls=[{'id': 'a', 'type': 'function',
                           'function': {'name': 'f', 'arguments': '{}'}}])
    yield one('missing', param='.tool_call_id', role='tool', content=CANARY)
    yield one('only a tool', param='.tool_call_id', role='user', content=CANARY, tool_call_id='a')
    for missing in ('id', 'type', 'function'):
        call = {'id': 'a', 'type': 'function', 'function': {'name': 'f', 'arguments': '{}'}}
        del call[missing]
        yield one('missing', param=f'.tool_calls[0].{missing}', role='assistant', tool_calls=[call])


# ---- tools and formats ----

def tools():
    def bad(param, *entries, says=''):
        return field('tools', json.dumps(entries), param=param, says=says)

    def named(name='f', **function):
        return {'type': 'function', 'function': {'name': name, **function}}

    yield bad('tools[0]', 'f')
    yield bad('tools[0].type', {})
    yield bad('tools[0].type', {'type': 'retrieval', 'function': {'name': 'f'}})
    yield bad('tools[0].function', {'type': 'function'})
    yield bad('tools[0].function', {'type': 'function', 'function': 'f'})
    yield bad('tools[0].function.name', {'type': 'function', 'function': {}})
    yield bad('tools[0].function.name', named(''))
    yield bad('tools[0].function.name', named('a b'))
    yield bad('tools[0].function.name', named('x' * 97))
    yield bad('tools[0].function.name', named('\u2603'))
    yield bad('tools[0].function.name', {'type': 'function', 'function': {'name': 7}})
    yield bad('tools[0].function.description', named(description=7))
    yield bad('tools[0].function.parameters', named(parameters='{}'))
    yield bad('tools[0].function.strict', named(strict='yes'))
    yield bad('tools[1].function.name', named(), named(), says='already')
    # Together, what would pass one by one: a request must not hold the loop for a minute.
    padded = {'type': 'object', 'description': 'x' * 120_000}
    yield bad('tools', *[named(f'f{i}', parameters=padded) for i in range(5)], says='together')
    wide = [{'type': 'object', 'properties': {f'p{t}_{i}': {'type': 'string'} for i in range(100)}}
            for t in range(64)]
    yield bad('tools', *[named(f'f{t}', parameters=schema) for t, schema in enumerate(wide)],
              says='together')
    yield bad('tools', named(description='a' * 50_000_000), says='cannot fit')
    yield bad('tools[1536]', *[named(f'f{i}') for i in range(1537)], says='more than 1536')

    one = json.dumps([named()])
    yield field('tool_choice', '"required"', says='only allowed together with tools')
    yield field('tool_choice', '"always"', tools=one)
    yield field('tool_choice', '{}', tools=one, param='tool_choice.type')
    yield field('tool_choice', '{"type":"function"}', tools=one, param='tool_choice.function')
    yield field('tool_choice', '{"type":"function","function":{}}', tools=one,
                param='tool_choice.function.name')
    yield field('tool_choice', '{"type":"function","function":{"name":"g"}}', tools=one,
                param='tool_choice.function.name', says='no tool is called "g"')


def formats():
    def schema(text):
        return '{"type":"json_schema","json_schema":{"name":"n","schema":' + text + '}}'

    place = 'response_format'
    yield field(place, '{}', param=f'{place}.type')
    yield field(place, '{"type":"xml"}', param=f'{place}.type')
    yield field(place, '{"type":"json_schema"}', param=f'{place}.json_schema')
    yield field(place, '{"type":"json_schema","json_schema":[]}', param=f'{place}.json_schema')
    yield field(place, '{"type":"json_schema","json_schema":{"schema":{}}}',
                param=f'{place}.json_schema.name')
    yield field(place, '{"type":"json_schema","json_schema":{"name":"n"}}',
                param=f'{place}.json_schema.schema')
    yield field(place, schema('"object"'), param=f'{place}.json_schema.schema')
    yield field(place, '{"type":"text","json_schema":{"name":"n","schema":{}}}',
                param=f'{place}.json_schema')
    yield field(place, '{"type":"text","schema":{}}', param=f'{place}.schema')
    # What no grammar can be made of.
    for text in ('{"$ref":"#/nowhere"}', '{"type":"wizard"}',
                 '{"type":"string","pattern":"^(((($"}'):
        yield field(place, schema(text), param=f'{place}.json_schema.schema',
                    says='cannot be enforced')
    yield field(place, schema('{"items":' * 61 + '{}' + '}' * 61), param=..., says='nested deeper')
    # What llama.cpp would take seconds, days or its whole stack for.
    many = json.dumps({f'p{i}': {'type': 'string'} for i in range(1000)})
    yield field(place, schema(f'{{"type":"object","properties":{many}}}'),
                param=f'{place}.json_schema.schema', says='optional properties')
    yield field('grammar', json.dumps('root ::= ' + '(' * 20000 + '"a"' + ')' * 20000),
                says='groups within each other')
    yield field('grammar', json.dumps('root ::= "' + 'a' * 100_000 + '"{2000}'), says='repeated')
    doubling = 'root ::= r0\n' + ''.join(f'r{i} ::= r{i + 1} | r{i + 1}\n' for i in range(40))
    yield field('grammar', json.dumps(doubling + 'r40 ::= "a"'), says='ways through')
    # Far more text than the context can hold is not even tokenized.
    yield field('messages', json.dumps([{'role': 'user', 'content': 'a' * 50_000_000}]),
                says='cannot fit')
    yield field('prompt', json.dumps('a' * 50_000_000), says='cannot fit', path=COMPLETIONS)
    # The simulated engine follows no grammar, good or bad, and says so.
    follow = 'cannot follow a grammar'
    yield field(place, '{"type":"json_object"}', 422, says=follow)
    yield field('json_schema', '{"type":"object"}', 422, place, follow)
    yield field('guided_json', '{"type":"object"}', 422, place, follow)
    yield field('grammar', '"root ::= [0-9]+"', 422, says=follow)
    yield field('grammar', '"this is no grammar ((("', 422, says=follow)
    yield field('grammar', '"root ::= [0-9]+"', 422, says=follow, path=COMPLETIONS)
    yield field('tools', json.dumps([{'type': 'function', 'function': {'name': 'f'}}]), 422,
                says=follow, tool_choice='"required"')
    # Each choice has a grammar of its own.
    for path in (CHAT, COMPLETIONS):
        yield field('n', '128', path=path, says='4096 KiB together',
                    grammar=json.dumps('root ::= "' + 'a' * 40_000 + '"'))
    # What binds an answer elsewhere must not be passed over.
    for name in ('guided_regex', 'guided_choice', 'guided_grammar', 'structured_outputs', 'regex',
                 'ebnf'):
        for path in (CHAT, COMPLETIONS):
            yield field(name, '"[0-9]+"', path=path, says='use grammar')
            yield field(name, 'null', 200, path=path)
    for name in ('response_format', 'json_schema', 'guided_json'):
        yield field(name, '{"type":"json_object"}', path=COMPLETIONS, says='use grammar')
    yield field('guided_json', '{}', json_schema='{"type":"object"}', param=..., says='one of the')
    yield field('json_schema', '{}', param=place, says='cannot be combined',
                response_format='{"type":"json_object"}')
    yield field('repeat_penalty', '1.1', 200)
    yield field('repeat_penalty', '0')
    yield field('grammar', '""', says='must not be empty')
    yield field('grammar', '"root ::= [0-9]+"', response_format='{"type":"json_object"}',
                says='cannot be combined')


# ---- JSON itself ----

def json_text():
    whole = body_of(CHAT, stop='["x","y"]', temperature='0.5', stream='false').decode()
    for size in range(1, len(whole), 9):
        yield post(f'JSON cut after {size} bytes', whole[:size], 400, ..., 'not valid JSON')
    broken = 'the body is not valid JSON'
    yield post('no body', b'', 400, None, broken)
    yield Row('no body, no length', b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n', 400,
              None, broken)
    yield post('blank body', ' \r\n\t ', 400, None, broken)
    for text in ('[]', '"x"', '7', 'true', 'null', '[{}]'):
        yield post(f'body is {text}', text, 400, None, 'must be a JSON object')
    yield post('body is text', 'hello', 400, None, broken)
    yield post('body is a form', 'model=x&prompt=y', 400, None, broken)
    yield post('body is XML', '<model>x</model>', 400, None, broken)
    yield post('two objects', whole + whole, 400, None, broken)
    yield post('object and more', whole + '}', 400, None, broken)
    yield post('a comma too many', whole[:-1] + ',}', 400, ..., broken)
    yield post('a comment', '/* x */' + whole, 400, ..., broken)
    yield post('single quotes', whole.replace('"', "'"), 400, None, broken)
    yield post('a NUL before', '\0' + whole, 400, None, broken)
    yield post('a NUL behind', whole + '\0', 400, None, broken)
    yield post('a NUL inside', whole.replace('xyzzy', 'xy\0zzy'), 400, ..., broken)
    yield post('a byte-order mark', b'\xef\xbb\xbf' + whole.encode(), 400, None, broken)
    yield post('UTF-16', whole.encode('utf-16'), 400, None, broken)
    for name, data in {'a lone continuation byte': b'\x80', 'a cut character': b'\xe2\x82',
                       'an overlong slash': b'\xc0\xaf', 'a surrogate': b'\xed\xa0\x80',
                       'beyond Unicode': b'\xf4\x90\x80\x80', 'the byte FF': b'\xff'}.items():
        yield post(f'UTF-8: {name}', whole.encode().replace(b'xyzzy', data), 400, None,
                   'invalid UTF-8')
    for name, text in {'a high half': r'\ud800', 'a low half': r'\udc00',
                       'halves in the wrong order': r'\udc00\ud800', 'half and text': r'\ud800x',
                       'an unknown escape': r'\x41', 'a short escape': r'\u12'}.items():
        yield post(f'escape: {name}', whole.replace('xyzzy', text), 400, 'messages[0].content',
                   broken)
    yield post('a raw newline in a string', whole.replace('xyzzy', 'x\ny'), 400, ..., broken)
    yield post('an escaped NUL', whole.replace('xyzzy', r'\u0000'), 200)
    yield post('a surrogate pair', whole.replace('xyzzy', r'\ud83d\ude00'), 200)
    yield post('escaped names', whole.replace('"model"', r'"\u006dodel"'), 200)
    yield post('much white space', whole.replace(',', ',' + ' \n' * 10000), 200)
    yield post('a field twice', whole[:-1] + ',"stream":true}', 400, 'stream', 'more than once')
    yield post('a field twice, escaped', whole[:-1] + r',"\u0073tream":true}', 400, 'stream',
               'more than once')
    for opening, closing in (('[', ']'), ('{"a":', '}')):
        nested = opening * 100_000 + '1' + closing * 100_000
        yield post(f'100,000 times {opening}', nested, 400, ..., '')
        yield field('unknown', nested, param=..., says='nested deeper than 64')
        yield field('messages', nested, param=..., says='')
        yield field('chat_template_kwargs', f'{{"a":{nested}}}', param=..., says='nested deeper')
    yield post('100,000 times [ unclosed', '[' * 100_000, 400, ..., '')
    yield field('unknown', '[' * 60 + ']' * 60, 200)
    yield field('unknown', json.dumps('x' * 4_000_000), 200)
    yield post('1,000,000 unknown fields',
               '{' + ','.join(f'"k{i}":0' for i in range(1_000_000)) + '}', 400, 'model', 'missing')
    yield field('k' * 1_000_000, '1', 200)


def rows():
    """Every row, in order. `param` may be ...: any, for what is cut at an arbitrary place."""
    for group in (wrong_types, numbers, fields, messages, tools, formats, json_text):
        yield from group()
