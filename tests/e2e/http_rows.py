"""Rows about HTTP itself; see hostile_rows.py for what a row says."""

import json

from hostile_rows import CHAT, Row, body_of, post
from penstock import MODEL, chat_body, request_bytes

HEALTH = '/health'
MALFORMED = 'malformed HTTP request'
AMBIGUOUS = 'ambiguous request'


def raw(name, text, status, says='', closes=True, **rest):
    """Bytes as they are; what is wrong with HTTP ends the connection."""
    if isinstance(text, str):
        text = text.encode('latin-1')
    return Row(name, text, status, None, says, closes, **rest)


def get(name, target, status, says='', method='GET', headers=(), **rest):
    return Row(name, request_bytes(method, target, headers=headers), status, None, says, **rest)


def posted(name, headers, body, status, says='', closes=True, **rest):
    """A chat request whose framing is written by hand."""
    text = f'POST {CHAT} HTTP/1.1\r\nHost: x\r\n' + ''.join(f'{line}\r\n' for line in headers)
    return raw(name, text.encode('latin-1') + b'\r\n' + body, status, says, closes, **rest)


def paths():
    usual = body_of(CHAT)
    for path in ('/', '/nope', '/v1', '/v1/', '/v1/nope', '/v2/chat/completions', '//health',
                 '/health/', '/v1/chat/completions/', '/v1/../health', '/%68ealth',
                 '/v1/chat%2Fcompletions', '/V1/models', '/metrics/x', '/debug', '/debug/pprof',
                 '/v1/models/nope', '/v1/models/' + 'x' * 10_000, '*', '/health;x=1', '/health%00',
                 '/../../etc/passwd', '/health%0d%0aX:%20y', '/\u00e4'):
        short = path if len(path) < 40 else path[:20] + '...'
        param = 'model' if path.startswith('/v1/models/') else None
        yield Row(f'GET {short}', request_bytes('GET', path), 404, param)
    yield post('POST /nope', usual, 404, path='/nope')
    for target in (HEALTH, '/ready', '/version', '/metrics', '/v1/models', f'/v1/models/{MODEL}',
                   '/debug/requests', '/health?', '/health?x=1&y=%zz', '/v1/models?limit=100'):
        yield get(f'GET {target}', target, 200)
        yield get(f'HEAD {target}', target, 200, method='HEAD', head=True)
    yield get('a model id with escapes', f'/v1/models/%73{MODEL[1:]}', 200)
    yield get('absolute form', 'http://test/health', 200)
    yield get('absolute form, upper case', 'HTTP://test:80/health?x', 200)
    yield get('absolute form without a path', 'http://test', 404)
    yield get('HEAD of a path that is not', '/nope', 404, method='HEAD', head=True)


def methods():
    for method in ('GET', 'HEAD', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'BREW'):
        yield get(f'{method} {CHAT}', CHAT, 405, '' if method == 'HEAD' else 'POST only',
                  method=method, head=method == 'HEAD', answer=(('allow', 'POST'),))
    for path in (HEALTH, '/ready', '/metrics', '/v1/models', '/debug/requests', '/version'):
        yield post(f'POST {path}', b'{}', 405, None, 'GET only', path=path,
                   answer=(('allow', 'GET, HEAD'),))
    yield get('TRACE /health', HEALTH, 405, method='TRACE')
    yield get('CONNECT', 'example.com:443', 404, method='CONNECT')
    yield get('OPTIONS *', '*', 404, method='OPTIONS')
    yield raw('a lower-case method', 'get /health HTTP/1.1\r\nHost: x\r\n\r\n', 405, closes=False)
    yield raw('a long method', 'G' * 20_000 + ' / HTTP/1.1\r\nHost: x\r\n\r\n', 404, closes=False)


def request_lines():
    host = '\r\nHost: x\r\n\r\n'
    for name, line in {'one word': 'GARBAGE', 'HTTP/0.9': 'GET /health',
                       'no target': 'GET HTTP/1.1', 'two spaces': 'GET  /health HTTP/1.1',
                       'a space before': ' GET /health HTTP/1.1',
                       'a space behind': 'GET /health HTTP/1.1 ',
                       'a space in the target': 'GET /hea lth HTTP/1.1',
                       'a tab': 'GET\t/health HTTP/1.1', 'a NUL': 'GET /hea\0lth HTTP/1.1',
                       'a bell': 'GET /hea\alth HTTP/1.1', 'DEL': 'GET /hea\x7flth HTTP/1.1',
                       'a bare CR': 'GET /health\r HTTP/1.1', 'no slash': 'GET /health HTTP1.1',
                       'lower case': 'GET /health http/1.1', 'three digits': 'GET / HTTP/1.1.1',
                       'a bad method': 'G(T /health HTTP/1.1', 'a quote': 'GET" /health HTTP/1.1',
                       'no method': '/health HTTP/1.1',
                       'another protocol': 'GET / RTSP/1.0'}.items():
        yield raw(f'request line: {name}', line + host, 400, MALFORMED)
    for version in ('0.9', '1.2', '2.0', '3.0', '9.9'):
        yield raw(f'HTTP/{version}', f'GET /health HTTP/{version}{host}', 505, 'HTTP/1.1')
    yield raw('the HTTP/2 preface', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 505, 'HTTP/2 is not spoken')
    hello = bytes.fromhex('16030100a5010000a10303') + b'\0' * 154
    yield raw('a TLS ClientHello', hello, 400, 'TLS')
    yield raw('an SSH client', 'SSH-2.0-OpenSSH_9.2\r\n\r\n', 400, MALFORMED)
    yield raw('Redis', '*1\r\n$4\r\nPING\r\n\r\n', 400, MALFORMED)
    yield raw('zeros', '\0' * 100, 400, MALFORMED)
    yield raw('bytes above 127', b'\xff' * 100 + b'\r\n\r\n', 400, MALFORMED)
    yield raw('bare LF', 'GET /health HTTP/1.1\nHost: x\n\n', 400, 'line ending')
    yield raw('empty lines before', '\r\n\r\nGET /health HTTP/1.1' + host, 200, closes=False)
    yield raw('a long target', 'GET /' + 'x' * 40_000 + ' HTTP/1.1' + host, 431)
    yield raw('an endless line', 'x' * 100_000, 431)
    yield raw('endless empty lines', '\r\n' * 50_000, 431)
    yield raw('HTTP/1.0', 'GET /health HTTP/1.0\r\n\r\n', 200)
    yield raw('HTTP/1.0, kept alive', 'GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n', 200,
              closes=False, answer=(('connection', 'keep-alive'),))
    yield raw('Connection: close', f'GET /health HTTP/1.1\r\nConnection: close{host}', 200)


def headers():
    def lines(name, *fields, status=400, says=MALFORMED, closes=True):
        return raw(f'header: {name}', 'GET /health HTTP/1.1\r\nHost: x\r\n' +
                   ''.join(line + '\r\n' for line in fields) + '\r\n', status, says, closes)

    yield raw('no Host', 'GET /health HTTP/1.1\r\n\r\n', 400, 'Host')
    yield lines('two Hosts', 'Host: y', says='Host')
    yield lines('no colon', 'garbage')
    yield lines('a space before the colon', 'X-Test : y')
    yield lines('a space in the name', 'X Test: y')
    yield lines('no name', ': y')
    yield lines('folded', 'X-Test: a', ' b', says='folded')
    yield lines('folded with a tab', 'X-Test: a', '\tb', says='folded')
    yield lines('a NUL in the value', 'X-Test: a\0b')
    yield lines('a NUL in the name', 'X\0Test: a')
    yield lines('a bare CR in the value', 'X-Test: a\rContent-Length: 5')
    yield lines('a bare LF in the value', 'X-Test: a\nContent-Length: 5', says='line ending')
    yield lines('bytes above 127 in the name', 'X-\xe4: a')
    fine = {'status': 200, 'says': '', 'closes': False}
    yield lines('bytes above 127 in the value', 'X-Test: \xe4\xff', **fine)
    yield lines('an empty value', 'X-Test:', **fine)
    yield lines('an empty Expect', 'Expect:', **fine)
    yield lines('an unknown Expect', 'Expect: the-unexpected', **fine)
    yield lines('one of 40,000 bytes', 'X-Test: ' + 'x' * 40_000, status=431, says='')
    yield lines('a name of 40,000 bytes', 'x' * 40_000 + ': y', status=431, says='')
    yield lines('300 of them', *['x: y'] * 300, status=431, says='more header fields')
    yield lines('10,000 of them', *[f'x{i}: y' for i in range(10_000)], status=431, says='')
    yield lines('Upgrade: h2c', 'Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c',
                'HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA', **fine)
    yield lines('Upgrade: websocket', 'Connection: Upgrade', 'Upgrade: websocket', **fine)
    yield lines('Range', 'Range: bytes=0-0', **fine)


def framing():
    body = json.dumps(chat_body('hi')).encode()
    size = len(body)
    length = f'Content-Length: {size}'
    for value in (f'{size}, {size}', '-1', f'+{size}', hex(size), '1e2', '', 'x', f'{size} {size}',
                  f'{size};', '99999999999999999999', str(2**64), str(2**64 + size),
                  f'0{size}\x0b'):
        yield posted(f'Content-Length: {value!r}', [f'Content-Length: {value}'], body, 400)
    yield posted('Content-Length twice', [length, length], body, 400)
    yield posted('two lengths', [length, f'Content-Length: {size + 1}'], body, 400)
    yield posted('a length with zeros', [f'Content-Length: 000{size}'], body, 200, closes=False)
    yield posted('a length in white space', [f'Content-Length: \t {size} '], body, 200,
                 closes=False)
    for declared in (64 * 2**20 + 1, 100_000_000, 2**63 - 1):
        yield posted(f'Content-Length: {declared}', [f'Content-Length: {declared}'], b'', 413)
        yield posted(f'Content-Length: {declared}, Expect',
                     [f'Content-Length: {declared}', 'Expect: 100-continue'], b'', 413)
    whole = b'%x\r\n%b\r\n0\r\n\r\n' % (size, body)
    coded = 'Transfer-Encoding: chunked'
    yield posted('a length and chunks', [length, coded], whole, 400)
    yield posted('chunks and a length', [coded, length], whole, 400)
    yield posted('chunked twice', [coded, coded], whole, 400)
    for value in ('gzip, chunked', 'chunked, gzip', 'identity', 'xchunked', 'chunked, chunked',
                  'gzip', 'chunked;q=1', '"chunked"', '', '\x0bchunked'):
        yield posted(f'Transfer-Encoding: {value!r}', [f'Transfer-Encoding: {value}'], whole, 400)
    yield raw('chunks in HTTP/1.0', f'POST {CHAT} HTTP/1.0\r\n{coded}\r\n\r\n'.encode() + whole,
              400, AMBIGUOUS)
    yield posted('in one chunk', [coded], whole, 200, closes=False)
    yield posted('CHUNKED', ['transfer-ENCODING: Chunked'], whole, 200, closes=False)
    one_byte = b''.join(b'1\r\n%b\r\n' % body[i:i + 1] for i in range(size)) + b'0\r\n\r\n'
    yield posted('in chunks of one byte', [coded], one_byte, 200, closes=False)
    extended = b'%x;name=value;other="a b"\r\n%b\r\n0;last\r\n\r\n' % (size, body)
    yield posted('with chunk extensions', [coded], extended, 200, closes=False)
    # Trailers are read over, whatever they say.
    for trailer in ('X-Trailer: y', 'Host: y', 'Content-Length: 5', 'Transfer-Encoding: gzip'):
        trailed = whole[:-2] + trailer.encode() + b'\r\n\r\n'
        yield posted(f'with the trailer {trailer}', [coded], trailed, 200, closes=False)
    zeros = b'000000%x\r\n%b\r\n000\r\n\r\n' % (size, body)
    yield posted('with zeros before the sizes', [coded], zeros, 200, closes=False)
    for name, text in {'not a number': b'zz\r\n', 'negative': b'-1\r\n', 'with 0x': b'0x5\r\n',
                       'of 17 digits': b'fffffffffffffffff\r\n', 'empty': b'\r\n',
                       'after a space': b' 5\r\n', 'with a sign': b'+5\r\n',
                       'with a point': b'5.0\r\n'}.items():
        yield posted(f'chunk size {name}', [coded], text + b'hello\r\n0\r\n\r\n', 400, MALFORMED)
    yield posted('a chunk without its CRLF', [coded], b'5\r\nhelloXX0\r\n\r\n', 400, MALFORMED)
    yield posted('a chunk that is longer', [coded], b'2\r\nhello\r\n0\r\n\r\n', 400, MALFORMED)
    yield posted('a chunk size with a bare LF', [coded], b'5\nhello\r\n0\r\n\r\n', 400)
    yield posted('a chunk beyond the limit', [coded], b'fffffff\r\n', 413)
    yield posted('a chunk of 2^63', [coded], b'7fffffffffffffff\r\n', 413)
    yield posted('an endless chunk extension', [coded], b'5;' + b'x' * 100_000, 400)
    yield posted('endless trailers', [coded], whole[:-2] + b'X-Trailer: y\r\n' * 10_000, 400)
    yield get('a GET with an empty body', HEALTH, 200, headers=(('Content-Length', '0'),))
    # Were it answered as well, the next answer on the connection would be the wrong one.
    yield raw('a GET with a request as its body',
              request_bytes('GET', HEALTH, request_bytes('GET', HEALTH)), 200, closes=False)


def pipelines():
    good = request_bytes('GET', HEALTH)
    chat = request_bytes('POST', CHAT, chat_body('hi'))
    yield raw('good, then garbage', good + b'garbage\r\n\r\n', 400, MALFORMED, answers=2)
    yield raw('chat, then garbage', chat + b'\x16\x03\x01garbage', 400, answers=2)
    yield raw('five good ones, then TLS', good * 5 + b'\x16\x03\x01', 400, answers=6)
    yield raw('good, then no Host', good + b'GET / HTTP/1.1\r\n\r\n', 400, 'Host', answers=2)
    yield raw('100 good ones', good * 100, 200, closes=False, answers=100)


def rows():
    for group in (paths, methods, request_lines, headers, framing, pipelines):
        yield from group()
