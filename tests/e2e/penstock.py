"""Drives a real Penstock server over real sockets: starts it, talks to it, looks inside, ends it.

Standard library only. What a test waits for is a condition with a deadline, never a time.
"""

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', '..', 'tools'))

from server_process import ServerProcess

BINARY = os.environ.get('PENSTOCK_BIN') or os.path.join(HERE, '..', '..', 'build', 'penstock')

START_S = 120  # the demo model's tokenizer may have to be fetched first
WAIT_S = 30    # for anything else: far above what any of it takes, on a loaded machine too

MODEL = 'simulated'


def wait_until(condition, what, seconds=WAIT_S):
    """Polls until `condition()` is true, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f'not within {seconds} s: {what}')
        time.sleep(0.01)


class Response:
    """An answer as it was on the wire. `complete` says that its framing reached its end."""

    def __init__(self, version, status, headers):
        self.version = version
        self.status = status
        self.headers = {}
        for name, value in headers:
            assert name.lower() not in self.headers, f'header {name} is sent twice'
            self.headers[name.lower()] = value
        self.pieces = []  # of the body: its chunks, or all of it
        self.complete = False

    @property
    def body(self):
        return b''.join(self.pieces)

    @property
    def closes(self):
        """Whether the server says that it will close the connection."""
        return self.headers.get('connection') == 'close'

    def json(self):
        return json.loads(self.body)

    def error(self):
        """The error object, which must have OpenAI's shape."""
        assert self.headers['content-type'] == 'application/json', self.headers
        document = self.json()
        assert list(document) == ['error'], document
        error = document['error']
        assert sorted(error) == ['code', 'message', 'param', 'type'], error
        assert error['message'] and error['type'] and error['code'], error
        assert error['param'] is None or error['param'], error
        return error

    def text(self):
        """The text of the first choice."""
        choice = self.json()['choices'][0]
        return choice['message']['content'] if 'message' in choice else choice['text']

    def __repr__(self):
        return f'{self.status} {self.headers} {self.body[:300]!r}'


class Closed(Exception):
    """The server closed the connection (or reset it) where more was expected."""


class Connection:
    """One connection, read as HTTP/1.1. Every wait on it ends after `timeout` seconds."""

    def __init__(self, port, timeout=WAIT_S, receive_buffer=None):
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        if receive_buffer is not None:  # before connecting: the window is agreed on then
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect(('127.0.0.1', port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    # ---- ends ----

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes with an RST instead of a FIN."""
        linger = struct.pack('ii', 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    # ---- sending ----

    def send(self, data):
        self.socket.sendall(data)

    def send_while_welcome(self, pieces):
        """Sends until the server answers or refuses more; returns the bytes sent."""
        sent = 0
        try:
            for piece in pieces:
                if self.readable(0):
                    break
                self.socket.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return sent

    def request(self, method, path, body=None, headers=()):
        self.send(request_bytes(method, path, body, headers))

    # ---- receiving ----

    def readable(self, seconds):
        return bool(self.buffer) or bool(select.select([self.socket], [], [], seconds)[0])

    def fill(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError as error:
            raise Closed('reset') from error
        if not data:
            raise Closed(f'closed after {bytes(self.buffer[:200])!r}')
        self.buffer += data

    def take(self, size):
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def read_until(self, mark):
        while (size := self.buffer.find(mark)) < 0:
            self.fill()
        return self.take(size + len(mark))[:size]

    def read_exactly(self, size):
        while len(self.buffer) < size:
            self.fill()
        return self.take(size)

    def at_end(self):
        """Waits for the server to close; true if it sends nothing before that."""
        try:
            self.fill()
        except Closed:
            return not self.buffer
        return False

    def read_head(self):
        lines = self.read_until(b'\r\n\r\n').decode('latin-1').split('\r\n')
        version, status, _ = lines[0].split(' ', 2)
        assert version == 'HTTP/1.1', lines[0]
        headers = [tuple(line.split(': ', 1)) for line in lines[1:]]
        return Response(version, int(status), headers)

    def read_chunk(self):
        """The next chunk's bytes; empty at the end of the body."""
        size = int(self.read_until(b'\r\n'), 16)
        data = self.read_exactly(size)
        assert self.read_exactly(2) == b'\r\n'
        return data

    def read_response(self, bodiless=False):
        """The next answer as a whole, skipping 100 Continue."""
        response = self.read_head()
        while response.status == 100:
            response = self.read_head()
        self.read_body(response, bodiless)
        return response

    def read_body(self, response, bodiless=False):
        """The rest of an answer whose head has been read. Raises Closed if it is cut."""
        if bodiless:
            pass
        elif response.headers.get('transfer-encoding') == 'chunked':
            assert 'content-length' not in response.headers
            while chunk := self.read_chunk():
                response.pieces.append(chunk)
        elif 'content-length' in response.headers:
            response.pieces = [self.read_exactly(int(response.headers['content-length']))]
        else:
            assert response.closes, response
            try:
                while True:
                    self.fill()
            except Closed:
                response.pieces = [self.take(len(self.buffer))]
        response.complete = True

    def events(self):
        """The events of a stream whose head has been read, as they come: (field, text)."""
        rest = b''
        while chunk := self.read_chunk():
            rest += chunk
            while b'\n\n' in rest:
                event, rest = rest.split(b'\n\n', 1)
                yield parse_event(event)
        assert not rest, f'the stream ended inside an event: {rest[:200]!r}'


def parse_event(event):
    """('data', text) or ('comment', text); nothing else is ever sent."""
    text = event.decode()
    assert '\n' not in text, f'an event of several lines: {text!r}'
    if text.startswith('data: '):
        return 'data', text[len('data: '):]
    assert text.startswith(':'), f'neither data nor a comment: {text!r}'
    return 'comment', text[1:].strip()


def events_of(response):
    """All events of a streamed answer that was read as a whole."""
    assert response.body.endswith(b'\n\n'), response.body[-200:]
    return [parse_event(event) for event in response.body[:-2].split(b'\n\n')]


def documents_of(response):
    """The JSON documents of a streamed answer; it must end in [DONE]."""
    data = [text for field, text in events_of(response) if field == 'data']
    assert data[-1] == '[DONE]', data[-1]
    return [json.loads(text) for text in data[:-1]]


def request_bytes(method, path, body=None, headers=()):
    """A well-formed request. A body that is not bytes is sent as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f'{method} {path} HTTP/1.1', 'Host: test']
    if body is not None:
        lines += ['Content-Type: application/json', f'Content-Length: {len(body)}']
    lines += [f'{name}: {value}' for name, value in headers]
    return '\r\n'.join([*lines, '', '']).encode('latin-1') + (body or b'')


def chat_body(text='Say something.', **fields):
    """A chat request; fields that are None are left out."""
    body = {'model': MODEL, 'messages': [{'role': 'user', 'content': text}], 'max_tokens': 8,
            **fields}
    return {name: value for name, value in body.items() if value is not None}


def completion_body(prompt='Once upon a time', **fields):
    body = {'model': MODEL, 'prompt': prompt, 'max_tokens': 8, **fields}
    return {name: value for name, value in body.items() if value is not None}


class Process(ServerProcess):
    """`penstock ARGUMENTS`, from its start to its end, which is never later than the test's."""

    def __init__(self, *arguments, env=None):
        # Settings of whoever runs the tests must not reach the server.
        inherited = {name: value for name, value in os.environ.items()
                     if not name.startswith('PENSTOCK_') or name == 'PENSTOCK_CACHE'}
        super().__init__([BINARY, *arguments], {**inherited, **(env or {})},
                         err=tempfile.TemporaryFile())

    def wait(self, seconds=WAIT_S):
        """The exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'still running after {seconds} s: {self.stderr()}') from None


def run(*arguments, env=None, seconds=WAIT_S):
    """Runs `penstock ARGUMENTS` to its end: (status, stdout, stderr)."""
    with Process(*arguments, env=env) as process:
        status = process.wait(seconds)
        return status, process.stdout(), process.stderr()


def model_flags(model, speedup):
    """`speedup`: of the simulated engine; None: there is no engine."""
    paced = model == MODEL and speedup is not None
    return ['--model', model, *(['--speedup', str(speedup)] if paced else [])]


class Server(Process):
    """`penstock serve` on a free port, by default with the simulated engine, at `speedup`."""

    def __init__(self, *flags, model=MODEL, speedup='max', port=0, ready=True, env=None, key=None):
        """`ready`: wait until it serves its model, not only until it listens."""
        super().__init__('serve', *model_flags(model, speedup), '--port', str(port), *flags,
                         env=env)
        self.key = key
        try:
            self.port = self.wait_until(self.listening_port, 'it listens', START_S)
            if ready:
                self.wait_until(lambda: self.get('/ready').status == 200, 'it is ready', START_S)
        except BaseException:
            self.kill()
            raise

    def listening_port(self):
        match = re.search(r'^listening on http://127\.0\.0\.1:(\d+)$', self.stdout(), re.MULTILINE)
        return match and int(match.group(1))

    # ---- talking ----

    def connect(self, **options):
        return Connection(self.port, **options)

    def request(self, method, path, body=None, headers=()):
        """One request on a connection of its own."""
        if self.key is not None:
            headers = [('Authorization', f'Bearer {self.key}'), *headers]
        with self.connect() as connection:
            connection.request(method, path, body, [*headers, ('Connection', 'close')])
            return connection.read_response(bodiless=method == 'HEAD')

    def get(self, path, headers=()):
        return self.request('GET', path, headers=headers)

    def chat(self, text='Say something.', **fields):
        return self.request('POST', '/v1/chat/completions', chat_body(text, **fields))

    def complete(self, prompt='Once upon a time', **fields):
        return self.request('POST', '/v1/completions', completion_body(prompt, **fields))

    # ---- looking inside ----

    def metrics(self):
        """{'name' or 'name{label="value"}': number}."""
        response = self.get('/metrics')
        assert response.status == 200, response
        values = {}
        for line in response.body.decode().splitlines():
            if line and not line.startswith('#'):
                name, value = line.rsplit(' ', 1)
                values[name] = float(value)
        return values

    def metric(self, name, default=None):
        values = self.metrics()
        if default is None and name not in values:
            raise AssertionError(f'/metrics has no {name}')
        return values.get(name, default)

    def debug_requests(self):
        response = self.get('/debug/requests')
        assert response.status == 200, response
        return response.json()['requests']

    def resident_bytes(self):
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as status:
            kib = re.search(r'^VmRSS:\s+(\d+) kB$', status.read(), re.MULTILINE).group(1)
        return int(kib) * 1024

    def is_idle(self):
        """Nothing is held for anybody; the connection that asks is the only one."""
        metrics = self.metrics()
        waiting = [value for name, value in metrics.items()
                   if name.startswith(('penstock_worker_running', 'penstock_worker_waiting',
                                       'penstock_worker_requests'))]
        return (metrics['penstock_requests_in_flight'] == 0 and not any(waiting) and
                metrics['penstock_http_connections'] == 1)

    def wait_until_idle(self):
        wait_until(self.is_idle, 'no request, sequence or connection is left')
        assert self.debug_requests() == []

    def check_log(self):
        """No failed CHECK, no sanitizer's report, no failed assertion: the log is clean."""
        said = self.stderr()
        for word in ('CHECK', 'abort', 'assert', 'Sanitizer', 'terminate', 'Segmentation'):
            assert word not in said, said

    def stop(self):
        """Asks it to end, which it must do with status 0."""
        self.signal()
        status = self.wait()
        assert status == 0, f'ended with {status}: {self.stderr()}'
        self.check_log()
