#!/usr/bin/env python3
"""From the command line to the last byte: flags and files, loading, keys, limits, draining."""

import contextlib
import fcntl
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

from penstock import (BINARY, Closed, Process, Server, chat_body, completion_body, documents_of,
                      events_of, run, wait_until)

CHAT = '/v1/chat/completions'
COMPLETIONS = '/v1/completions'
MODEL_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../tools/model.sh')

FINE = 'these settings are fine\n'
ENDLESS = 100_000  # tokens: minutes, at the speeds here


class CommandLineTest(unittest.TestCase):
    """Wrong usage ends with 2 and says what would be right."""

    def check(self, arguments, *says, status=2, env=None):
        with self.subTest(arguments=arguments, env=env):
            ended, out, error = run(*arguments, env=env)
            self.assertEqual((ended, out), (status, ''), error)
            for text in says:
                self.assertIn(text, error)
            return error

    def serve(self, *arguments):
        return ('serve', '--model', 'simulated', *arguments)

    def test_E23_unknown_words_get_a_suggestion(self):
        self.check(self.serve('--prot', '1'), '--prot', 'did you mean --port?')
        self.check(self.serve('--workers', '1', '--speedup', 'max', '--hots=1'), 'mean --host?')
        self.check(self.serve('--api-keys', 'x'), 'did you mean --api-key?')
        self.check(['srve'], 'srve', 'did you mean serve?')
        self.check(self.serve('--frobnicate'), '--frobnicate')
        self.check(self.serve('stray'), 'stray')
        self.check([], 'subcommand')

    def test_E23_bad_values_name_the_flag_and_its_range(self):
        for flag, value, says in (
                ('--port', '99999', '65535'), ('--port', '-1', '0'), ('--port', 'http', '--port'),
                ('--speedup', 'fast', 'max'), ('--speedup', '0', 'above 0'),
                ('--speedup', 'nan', 'above 0'), ('--workers', '0', '--join-listen'),
                ('--max-in-flight', '0', '1'), ('--heartbeat-s', '0', '0.1'),
                ('--request-timeout-s', 'never', '--request-timeout-s'),
                ('--log-level', 'loud', 'debug'), ('--kv-type', 'f64', 'q8_0'),
                ('--api-key-file', '/nowhere', '/nowhere'),
                ('--chat-template', '/nowhere', '/nowhere')):
            self.check(self.serve(flag, value), says)
        self.check(['serve'], '--model is required')
        self.check(self.serve('--port'), '--port')

    def test_what_cannot_be_used_is_told_before_anything_starts(self):
        with tempfile.NamedTemporaryFile('w') as keys:
            self.check(self.serve('--api-key-file', keys.name), 'holds no key')

    def test_help_and_version_are_no_errors(self):
        for arguments in (['--help'], ['serve', '--help'], ['version'], ['--version']):
            with self.subTest(arguments):
                status, out, error = run(*arguments)
                self.assertEqual((status, error), (0, ''))
                self.assertTrue(out)
        self.assertIn('PENSTOCK_PORT', run('serve', '--help')[1])

    def test_addresses_that_cannot_be_had(self):
        with socket.socket() as taken:
            taken.bind(('127.0.0.1', 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.check(self.serve('--port', port), f'127.0.0.1:{port}', 'taken', status=1)
        with Server() as server:
            self.check(self.serve('--port', str(server.port)), 'taken', status=1)
        self.check(self.serve('--port', '0', '--host', '192.0.2.1'), '192.0.2.1', status=1)
        self.check(self.serve('--port', '0', '--host', 'nowhere'), 'nowhere', '127.0.0.1', status=1)

    def test_a_model_that_cannot_be_loaded_ends_it(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = os.path.join(folder, 'broken.gguf')
            with open(broken, 'wb') as file:
                file.write(b'GGUF' + b'\0' * 100)
            other = os.path.join(folder, 'other.gguf')
            with open(other, 'wb') as file:
                file.write(b'# Notes')
            for model, status in (('/nowhere.gguf', 2), (folder + '/', 2), (other, 2), (broken, 1)):
                with self.subTest(model), \
                     Process('serve', '--model', model, '--port', '0') as process:
                    self.assertEqual(process.wait(), status)
                    self.assertIn(os.path.basename(model), process.stderr())


class ConfigTest(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.file = os.path.join(self.folder.name, 'penstock.toml')

    def write(self, text):
        with open(self.file, 'w', encoding='utf-8') as file:
            file.write(text)

    def check(self, *arguments, env=None):
        return run('serve', '--config', self.file, '--check-config', *arguments, env=env)

    def test_check_config_says_that_all_is_well(self):
        self.write('model = "simulated"\nspeedup = "max"\nport = 0\napi-key = ["a", "b"]\n')
        self.assertEqual(self.check(), (0, FINE, ''))

    def test_E23_what_is_wrong_in_a_file_is_named(self):
        for line, says in (('prot = 0', 'unknown key prot (did you mean port?)'),
                           ('frobnicate = 1', 'frobnicate'), ('port = 99999', '--port'),
                           ('port = "http"', '--port'), ('[engine]\nworkers = 2', '[engine]'),
                           ('speedup = "fast"', 'fast'), ('garbage', 'garbage')):
            with self.subTest(line):
                self.write(f'model = "simulated"\n{line}\n')
                status, out, error = self.check()
                self.assertEqual((status, out), (2, ''))
                self.assertIn(says, error)
        self.assertEqual(run('serve', '--model', 'simulated', '--config', '/nowhere.toml')[0], 2)

    def test_check_config_looks_at_the_template_and_the_address(self):
        self.write('model = "simulated"\n')
        template = os.path.join(self.folder.name, 'chat.jinja')
        for text, says in (('{% for m in messages %}{{ m.content }}{% endfor %}', ''),
                           ('{% for m in messages %}{{ m.content }}', template),
                           ('{{ messages[0].content | }}', template)):
            with self.subTest(text), open(template, 'w', encoding='utf-8') as file:
                file.write(text)
                file.flush()
                status, out, error = self.check('--chat-template', template)
                self.assertEqual((status, out), (2, '') if says else (0, FINE), error)
                self.assertIn(says, error)
        for host, says in (('127.0.0.1', ''), ('0.0.0.0', ''), ('192.0.2.1', '192.0.2.1'),
                           ('nowhere', 'nowhere')):
            with self.subTest(host):
                status, out, error = self.check('--host', host)
                self.assertEqual((status, out), (2, '') if says else (0, FINE), error)
                self.assertIn(says, error)
        with Server() as server:  # a port that is taken is no fault of the configuration
            self.assertEqual(self.check('--port', str(server.port)), (0, FINE, ''))

    def test_check_config_makes_nothing(self):
        status, out, error = run('serve', '--model', 'demo', '--join-listen', '127.0.0.1:0',
                                 '--check-config', env={'XDG_RUNTIME_DIR': self.folder.name})
        self.assertEqual((status, out, error), (0, FINE, ''))
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_environment_alone(self):
        env = {'PENSTOCK_MODEL': 'simulated'}
        self.assertEqual(run('serve', '--check-config', env=env),
                         (0, FINE, ''))
        status, _, error = run('serve', '--check-config', env={**env, 'PENSTOCK_PORT': 'http'})
        self.assertEqual(status, 2)
        self.assertIn('--port', error)

    def test_flag_beats_environment_beats_file(self):
        self.write('[serve]\nmax-tokens-default = 3\nserved-model-name = ["a", "b"]\n')
        with Server('--config', self.file) as server:
            self.assertEqual([model['id'] for model in server.get('/v1/models').json()['data']],
                             ['a', 'b'])
            self.assertEqual(self.tokens_of(server), 3)
        env = {'PENSTOCK_MAX_TOKENS_DEFAULT': '4'}
        with Server('--config', self.file, env=env) as server:
            self.assertEqual(self.tokens_of(server), 4)
        with Server('--config', self.file, '--max-tokens-default', '5', env=env) as server:
            self.assertEqual(self.tokens_of(server), 5)

    def tokens_of(self, server):
        answer = server.complete(model='b', max_tokens=None)
        return answer.json()['usage']['completion_tokens']


class StartTest(unittest.TestCase):

    def test_H7_alive_before_ready(self):
        path = subprocess.run([MODEL_SCRIPT], check=True, capture_output=True, text=True).stdout
        with tempfile.TemporaryDirectory() as cache:
            # The set-up script waits for this lock: the model stays away until it is let go.
            with open(os.path.join(cache, 'model.lock'), 'w', encoding='ascii') as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                server = Server(ready=False, env={'PENSTOCK_CACHE': cache})
                self.addCleanup(server.kill)
                self.check_not_ready(server)
                os.mkdir(os.path.join(cache, 'models'))
                os.symlink(path.strip(),
                           os.path.join(cache, 'models', os.path.basename(path.strip())))
            wait_until(lambda: server.get('/ready').status == 200, 'ready', 120)
            self.assertEqual(server.get('/ready').json(), {'status': 'ready'})
            self.assertEqual(server.metric('penstock_ready'), 1)
            self.assertEqual(server.chat().status, 200)
            server.stop()

    def check_not_ready(self, server):
        self.assertEqual(server.get('/health').json(), {'status': 'ok'})
        ready = server.get('/ready')
        self.assertEqual((ready.status, ready.headers['retry-after']), (503, '1'))
        self.assertEqual(ready.json()['status'], 'not ready')
        self.assertIn('loading', ready.json()['reason'])
        self.assertEqual(server.metric('penstock_ready'), 0)
        self.assertEqual(server.get('/v1/models').json(), {'object': 'list', 'data': []})  # E7
        self.assertEqual(server.get('/version').status, 200)
        for path, body in ((CHAT, chat_body()), (CHAT, chat_body(stream=True)),
                           (COMPLETIONS, completion_body()), ('/v1/embeddings', {'input': 'x'})):
            answer = server.request('POST', path, body)
            self.assertEqual((answer.status, answer.headers['retry-after']), (503, '1'))
            self.assertIn('loading', answer.error()['message'])
        self.assertEqual(server.debug_requests(), [])

    def test_sigterm_while_the_model_is_not_there(self):
        with tempfile.TemporaryDirectory() as cache:
            with open(os.path.join(cache, 'model.lock'), 'w', encoding='ascii') as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with Server(ready=False, env={'PENSTOCK_CACHE': cache}) as server:
                    server.signal()
                    self.assertEqual(server.wait(), 0, server.stderr())


class KeysTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        file = os.path.join(cls.folder.name, 'keys')
        with open(file, 'w', encoding='ascii') as keys:
            keys.write('from-file-1\n\nfrom-file-2\n')
        cls.server = Server('--api-key', 'key-1', '--api-key', 'key-2', '--api-key-file', file,
                            key='key-1')
        cls.addClassCleanup(cls.server.kill)

    def ask(self, authorization, path=CHAT):
        headers = [] if authorization is None else [('Authorization', authorization)]
        with self.server.connect() as connection:
            if path == CHAT:
                connection.request('POST', path, chat_body(), headers)
            else:
                connection.request('GET', path, headers=headers)
            return connection.read_response()

    def test_known_keys(self):
        for key in ('key-1', 'key-2', 'from-file-1', 'from-file-2'):
            for scheme in ('Bearer', 'bearer', 'BEARER'):
                self.assertEqual(self.ask(f'{scheme} {key}').status, 200)

    def test_other_keys_are_401(self):
        for given in (None, '', 'Bearer', 'Bearer ', 'Bearer key', 'Bearer key-1x', 'Bearer xkey-1',
                      'Bearer KEY-1', 'key-1', 'Basic key-1', 'Bearer key-1 key-2',
                      'Bearer from-file-1\\n', f'Bearer {"x" * 10_000}'):
            with self.subTest(given=given):
                answer = self.ask(given)
                self.assertEqual(answer.status, 401, answer)
                self.assertEqual(answer.headers['www-authenticate'], 'Bearer')
                error = answer.error()
                self.assertEqual((error['type'], error['code']),
                                 ('authentication_error', 'invalid_api_key'))
                self.assertIn('not known' if given else 'needed', error['message'])

    def test_what_tells_of_requests_needs_a_key_and_what_watches_does_not(self):
        for path in ('/v1/models', '/v1/models/simulated', '/debug/requests'):
            self.assertEqual(self.ask(None, path).status, 401)
            self.assertEqual(self.ask('Bearer key-2', path).status, 200)
        for path in ('/health', '/ready', '/version', '/metrics'):
            self.assertEqual(self.ask(None, path).status, 200)

    def test_a_key_is_asked_for_before_anything_else(self):
        with self.server.connect() as connection:
            connection.request('POST', CHAT, b'no JSON')
            self.assertEqual(connection.read_response().status, 401)
        self.assertEqual(self.ask(None, '/v1/nope').status, 401)

    def test_E9_keys_are_never_in_the_log(self):
        self.assertNotIn('key-', self.server.stderr())


class LimitsTest(unittest.TestCase):

    def hold(self, server, **fields):
        """A request that stays until its connection is closed."""
        connection = server.connect()
        self.addCleanup(connection.close)
        connection.request('POST', COMPLETIONS, completion_body(max_tokens=ENDLESS, **fields))
        return connection

    def check_refused(self, answer, says):
        self.assertEqual((answer.status, answer.headers['retry-after']), (429, '1'), answer)
        error = answer.error()
        self.assertEqual((error['type'], error['code']), ('rate_limit_error', 'overloaded'))
        self.assertIn(says, error['message'])

    def test_requests_above_max_in_flight_are_429(self):
        with Server('--max-in-flight', '2', speedup=1) as server:
            held = [self.hold(server) for _ in range(2)]
            wait_until(lambda: server.metric('penstock_requests_in_flight') == 2, 'two in flight')
            for fields in ({}, {'stream': True}):
                self.check_refused(server.chat(**fields), '2 requests are in flight')
                self.check_refused(server.complete(**fields), '2 requests are in flight')
            self.assertEqual(server.get('/health').status, 200)
            held[0].close()
            wait_until(lambda: server.chat(max_tokens=1).status == 200, 'there is room again')
            self.assertEqual(server.metric(
                'penstock_requests_total{endpoint="completions",status="429"}'), 2)

    def test_requests_above_the_queue_are_429(self):
        # The simulated worker runs 256 sequences and queues 1024.
        with Server(speedup=1) as server:
            held = self.hold(server, prompt=['x'] * 8, n=128)
            wait_until(lambda: server.metric('penstock_worker_waiting{worker="0"}') == 1024 - 256,
                       'all are at the worker')
            more = self.hold(server, prompt=['y'] * 2, n=128)
            wait_until(lambda: server.metric('penstock_worker_waiting{worker="0"}') == 1024,
                       'the queue is full')
            for fields in ({}, {'stream': True}):
                self.check_refused(server.chat(**fields), 'queue is full')
            # All or nothing: of a request that fits in part, no part stays.
            more.close()
            wait_until(lambda: server.metric('penstock_requests_in_flight') == 1, 'it is gone')
            self.check_refused(server.complete(['z'] * 3, n=128), 'queue is full')
            wait_until(lambda: server.metric('penstock_worker_waiting{worker="0"}') == 1024 - 256,
                       'nothing of it is left')
            held.close()
            wait_until(lambda: server.chat(max_tokens=1).status == 200, 'there is room again')
            server.wait_until_idle()

    def test_connections_above_the_limit_are_503(self):
        with Server('--max-connections', '5', speedup=1) as server:
            with contextlib.ExitStack() as stack:
                kept = [stack.enter_context(self.accepted(server)) for _ in range(5)]
                with server.connect() as connection:
                    answer = connection.read_response()
                    self.assertEqual((answer.status, answer.headers['retry-after']), (503, '1'))
                    self.assertTrue(answer.closes)
                    self.assertTrue(connection.at_end())
                kept[0].request('GET', '/health')
                self.assertEqual(kept[0].read_response().status, 200)
            self.accepted(server).close()

    @staticmethod
    def accepted(server):
        """A connection that is served. A close may take a moment to make room for it."""
        def try_once():
            connection = server.connect()
            try:
                connection.request('GET', '/health')
                if connection.read_response().status == 200:
                    return connection
            except (Closed, ConnectionError):
                pass
            connection.close()
            return None
        return wait_until(try_once, 'there is room')


class DrainTest(unittest.TestCase):

    def setUp(self):
        self.addCleanup(lambda: self.server.kill())

    def start(self, *flags, **options):
        self.server = Server(*flags, **options)

    def open(self, **fields):
        """A stream under way: its connection, and its head, to be read on."""
        connection = self.server.connect()
        self.addCleanup(connection.close)
        connection.request('POST', CHAT, chat_body(stream=True, **fields))
        head = connection.read_head()
        self.assertEqual(head.status, 200)
        return connection, head

    def refuses(self, connection):
        """Whether a new request is turned away with 503; it closes its connection."""
        connection.request('POST', CHAT, chat_body())
        answer = connection.read_response()
        if answer.status == 200:
            return False
        self.assertEqual((answer.status, answer.headers['retry-after']), (503, '1'), answer)
        self.assertIn('shutting down', answer.error()['message'])
        self.assertTrue(answer.closes)
        self.assertTrue(connection.at_end())
        return True

    def ready_status(self):
        """None where the connection was closed: draining begins with those that have no request."""
        try:
            return self.server.get('/ready').status
        except (Closed, ConnectionError):
            return None

    def signal_and_wait_for_draining(self, number=signal.SIGTERM):
        self.server.signal(number)
        wait_until(lambda: self.ready_status() == 503, 'it drains')

    def test_H15_sigterm_lets_running_answers_finish_and_refuses_new_ones(self):
        self.start('--drain-timeout-s', '1000', speedup=1)
        expected = self.server.chat(max_tokens=400).text()
        idle = self.server.connect()
        self.addCleanup(idle.close)
        longest, _ = self.open(max_tokens=ENDLESS)  # so that there is time to be refused
        whole = self.server.connect()
        self.addCleanup(whole.close)
        whole.request('POST', CHAT, chat_body(max_tokens=400))
        streams = [self.open(max_tokens=400) for _ in range(3)]
        wait_until(lambda: whole.readable(0) or not all(
            request['stream'] for request in self.server.debug_requests()), 'all have begun')

        self.signal_and_wait_for_draining()
        with self.server.connect() as late:
            self.assertTrue(self.refuses(late))
        health = self.server.get('/health')
        self.assertEqual((health.status, health.closes), (200, True))
        self.assertIn('shutting down', self.server.get('/ready').json()['reason'])
        self.assertTrue(idle.at_end())
        for connection, head in streams:
            connection.read_body(head)
            text = ''.join(document['choices'][0]['delta'].get('content', '')
                           for document in documents_of(head))
            self.assertEqual(text, expected)
            self.assertTrue(connection.at_end())
        answer = whole.read_response()
        self.assertEqual((answer.text(), answer.closes), (expected, True))
        longest.close()
        self.assertEqual(self.server.wait(), 0)
        self.server.check_log()

    def test_sigint_is_the_same(self):
        self.start(speedup=1)
        connection, head = self.open(max_tokens=50)
        self.server.signal(signal.SIGINT)
        connection.read_body(head)
        self.assertEqual(len(documents_of(head)), 52)
        self.assertEqual(self.server.wait(), 0)

    def test_idle_server_ends_at_once(self):
        self.start()
        with self.server.connect() as idle:
            idle.request('GET', '/health')
            idle.read_response()
            self.server.stop()
            self.assertTrue(idle.at_end())
        with self.assertRaises(ConnectionRefusedError):
            self.server.connect()

    def test_who_reads_slowly_gets_the_whole_answer(self):
        self.start()
        connection = self.server.connect(receive_buffer=4096)
        self.addCleanup(connection.close)
        connection.request('POST', CHAT, chat_body(stream=True, max_tokens=60_000))
        head = connection.read_head()
        # Reads until the worker and the service have done all of theirs: the end of the answer is
        # then in the server's buffers, and more than the system takes from them is unread.
        wait_until(lambda: self.server.debug_requests()[0]['held_tokens'] > 0, 'it is held back')
        while self.server.debug_requests():
            head.pieces.append(connection.read_chunk())
        self.server.signal()
        wait_until(lambda: self.ready_status() != 200, 'it drains, or has ended')
        connection.read_body(head)
        self.assertEqual(len(documents_of(head)), 60_002)
        self.assertEqual(self.server.wait(), 0)

    def check_ended(self, connection, head):
        """The stream says itself why it ends early."""
        connection.read_body(head)
        error = json.loads([text for name, text in events_of(head) if name == 'data'][-1])['error']
        self.assertEqual((error['code'], error['message']),
                         ('unavailable', 'the server is shutting down'))
        self.assertNotIn(b'[DONE]', head.body)

    def test_second_signal_ends_at_once(self):
        kinds = (signal.SIGTERM, signal.SIGINT)
        for first, second in itertools.product(kinds, kinds):
            with self.subTest(first=first, second=second):
                self.start('--drain-timeout-s', '1000', speedup=1)
                stream = self.open(max_tokens=ENDLESS)
                whole = self.server.connect()
                self.addCleanup(whole.close)
                whole.request('POST', CHAT, chat_body(max_tokens=ENDLESS))
                wait_until(lambda: self.server.metric('penstock_requests_in_flight') == 2,
                           'two run')
                self.signal_and_wait_for_draining(first)
                self.server.signal(second)
                self.check_ended(*stream)
                answer = whole.read_response()
                self.assertEqual((answer.status, answer.headers['retry-after']), (503, '1'))
                self.assertIn('shutting down', answer.error()['message'])
                self.assertEqual(self.server.wait(), 0)
                self.server.check_log()
                self.server.kill()

    def test_drain_timeout_ends_what_takes_longer(self):
        self.start('--drain-timeout-s', '0.5', speedup=1)
        stream = self.open(max_tokens=ENDLESS)
        self.server.signal()
        self.check_ended(*stream)
        self.assertEqual(self.server.wait(), 0)
        self.server.check_log()

    def test_sigkill_cuts_a_stream_visibly(self):
        self.start(speedup=1)
        stream = self.open(max_tokens=ENDLESS)
        self.server.signal(signal.SIGKILL)
        with self.assertRaises(Closed):
            stream[0].read_body(stream[1])
        self.assertNotIn(b'[DONE]', stream[1].body)


if __name__ == '__main__':
    if not os.access(BINARY, os.X_OK):
        sys.exit(f'no server at {BINARY}: build it, or set PENSTOCK_BIN')
    sys.exit(unittest.main())
