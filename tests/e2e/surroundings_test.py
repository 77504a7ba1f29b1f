#!/usr/bin/env python3
"""What lies around the server: full disks, closed streams, folders that cannot be written, a port
whose last owner was killed, clients that ask for much and read nothing, pages in browsers."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

from penstock import (BINARY, START_S, Closed, Connection, Process, Server, completion_body,
                      documents_of, request_bytes, run, wait_until)

COMPLETIONS = '/v1/completions'


def start(arguments, **streams):
    """`penstock ARGUMENTS` with the given standard streams: its process."""
    return subprocess.Popen([BINARY, *arguments],
                            **{'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL,
                               'stderr': subprocess.DEVNULL, **streams})


class StreamsTest(unittest.TestCase):

    def serves(self, port, process):
        """Waits until it is ready, has it answer, and ends it."""
        def ready():
            self.assertIsNone(process.poll())
            try:
                with Connection(port) as connection:
                    connection.request('GET', '/ready')
                    return connection.read_response().status == 200
            except (OSError, Closed):
                return False
        try:
            wait_until(ready, 'it serves', START_S)
            with Connection(port) as connection:
                connection.request('POST', COMPLETIONS, completion_body(stream=True))
                self.assertEqual(len(documents_of(connection.read_response())), 9)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(30), 0)
        finally:
            process.kill()
            process.wait()

    def free_port(self):
        with Server() as server:
            return server.port

    def test_a_log_on_a_full_disk_stops_nothing(self):
        port = self.free_port()
        with open('/dev/full', 'wb') as full:
            self.serves(port, start(['serve', '--model', 'simulated', '--speedup', 'max', '--port',
                                     str(port), '--log-level', 'debug'], stdout=full, stderr=full))

    def test_standard_streams_that_are_closed_stop_nothing(self):
        # What is opened next must not get their numbers: the log would go into a socket.
        port = self.free_port()
        closing = ['sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh', BINARY]
        process = subprocess.Popen([*closing, 'serve', '--model', 'simulated', '--speedup', 'max',
                                    '--port', str(port), '--log-level', 'debug'])
        self.serves(port, process)

    def test_a_reader_that_left_stops_nothing(self):
        port = self.free_port()
        reading, writing = os.pipe()
        os.close(reading)
        self.serves(port, start(['serve', '--model', 'simulated', '--speedup', 'max', '--port',
                                 str(port), '--log-level', 'debug'],
                                stdout=writing, stderr=writing))
        os.close(writing)

    def test_a_report_that_is_not_written_is_a_failure(self):
        with Server() as server, open('/dev/full', 'wb') as full:
            process = start(['bench', '--url', f'http://127.0.0.1:{server.port}', '--requests', '2',
                             '--json'], stdout=full, stderr=subprocess.PIPE)
            said = process.communicate()[1].decode()
            self.assertEqual(process.returncode, 1, said)
            self.assertIn('standard output', said)


class FilesTest(unittest.TestCase):

    def test_a_cache_that_cannot_be_written_is_named(self):
        with tempfile.NamedTemporaryFile() as file:
            for cache in ('/proc/nowhere', file.name):
                with self.subTest(cache), \
                     Process('serve', '--model', 'demo', '--port', '0',
                             env={'PENSTOCK_CACHE': cache}) as process:
                    self.assertEqual(process.wait(), 1)
                    self.assertIn(cache, process.stderr())

    def test_a_config_that_cannot_be_read_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = os.path.join(folder, 'broken.toml')
            with open(broken, 'wb') as file:
                file.write(b'\xff\xfe\x00model')
            for path in (folder, broken, '/proc/self/mem'):
                with self.subTest(path):
                    status, out, error = run('serve', '--config', path, '--check-config')
                    self.assertEqual((status, out), (2, ''), error)
                    self.assertTrue(error)


class RestartTest(unittest.TestCase):

    def test_a_killed_server_leaves_its_port(self):
        first = Server(speedup=1)
        self.addCleanup(first.kill)
        connections = [first.connect() for _ in range(20)]
        for connection in connections:
            self.addCleanup(connection.close)
            connection.request('POST', COMPLETIONS,
                               completion_body(stream=True, max_tokens=100_000))
            connection.read_head()
        first.signal(signal.SIGKILL)
        first.wait()
        # The clients have not closed their ends: the system still knows of them.
        with Server(port=first.port) as second:
            self.assertEqual(second.port, first.port)
            self.assertEqual(second.complete().status, 200)
            second.stop()


class PipelineTest(unittest.TestCase):

    def test_who_asks_for_much_and_reads_nothing_costs_little(self):
        with Server() as server:
            expected = server.complete(max_tokens=20_000).text()
            before = server.resident_bytes()
            with server.connect(receive_buffer=4096) as connection:
                request = request_bytes('POST', COMPLETIONS,
                                        completion_body(stream=True, max_tokens=20_000))
                connection.send(request * 8)
                wait_until(lambda: any(one['held_tokens'] for one in server.debug_requests()),
                           'the first waits for its reader')
                self.assertEqual(server.complete().status, 200)
                self.assertLess(server.resident_bytes() - before, 64 << 20)
                for _ in range(8):
                    answer = connection.read_response()
                    text = ''.join(document['choices'][0]['text']
                                   for document in documents_of(answer))
                    self.assertEqual(text, expected)
            server.wait_until_idle()
            server.stop()

    def test_what_is_held_for_who_does_not_read_is_bounded_in_bytes(self):
        gone = 'penstock_requests_cancelled_total{reason="client_gone"}'
        with Server() as server:
            before = server.resident_bytes()
            with server.connect(receive_buffer=4096) as connection:
                connection.request('POST', COMPLETIONS,
                                   completion_body(stream=True, n=128, max_tokens=100_000))
                wait_until(lambda: server.metric(gone, 0) == 1, 'it counts as gone')
                self.assertLess(server.resident_bytes() - before, 256 << 20)
            server.wait_until_idle()
            server.stop()


class BrowserTest(unittest.TestCase):

    PREFLIGHT = [('Origin', 'https://chat.example'), ('Access-Control-Request-Method', 'POST'),
                 ('Access-Control-Request-Headers', 'authorization, content-type')]

    def test_pages_may_ask_where_that_is_wanted(self):
        origin = 'https://chat.example'
        with Server('--cors-origin', origin, '--api-key', 'x') as server:
            asked = server.request('OPTIONS', COMPLETIONS, headers=self.PREFLIGHT)
            self.assertEqual(asked.status, 204)
            self.assertIn('POST', asked.headers['access-control-allow-methods'])
            self.assertEqual(asked.headers['access-control-allow-headers'],
                             'authorization, content-type')
            with server.connect() as connection:
                connection.send(b'nonsense\r\n\r\n')
                broken = connection.read_response()
            for answer in (asked, server.complete(), server.get('/health'), broken):
                self.assertEqual(answer.headers['access-control-allow-origin'], origin)
                self.assertEqual(answer.headers['vary'], 'Origin')

    def test_otherwise_they_may_not(self):
        with Server() as server:
            asked = server.request('OPTIONS', COMPLETIONS, headers=self.PREFLIGHT)
            self.assertEqual((asked.status, asked.headers['allow']), (405, 'POST'))
            self.assertNotIn('access-control-allow-origin', server.complete().headers)

    def test_an_origin_is_one_word(self):
        status, _, error = run('serve', '--model', 'simulated', '--cors-origin', 'a b')
        self.assertEqual(status, 2)
        self.assertIn('--cors-origin', error)


class RequestIdTest(unittest.TestCase):

    def test_every_answer_has_one_and_it_is_the_clients_if_it_gave_one(self):
        with Server() as server:
            paths = (('GET', '/v1/models', None), ('GET', '/health', None), ('GET', '/no', None),
                     ('POST', COMPLETIONS, completion_body()), ('POST', COMPLETIONS, {}),
                     ('POST', COMPLETIONS, completion_body(stream=True)),
                     ('POST', '/v1/embeddings', {'model': 'simulated', 'input': 'x'}))
            seen = set()
            for method, path, body in paths:
                given = server.request(method, path, body, [('X-Request-Id', 'mine-7')])
                self.assertEqual(given.headers['x-request-id'], 'mine-7')
                seen.add(server.request(method, path, body).headers['x-request-id'])
            self.assertEqual(len(seen), len(paths))


class AddressTest(unittest.TestCase):

    def test_an_ipv6_address_is_shown_so_that_it_can_be_used(self):
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(('::1', 0))
        except OSError:
            self.skipTest('this machine has no IPv6')
        with Process('serve', '--model', 'simulated', '--host', '::1', '--port', '0') as process:
            process.wait_until(lambda: 'listening on http://[::1]:' in process.stdout(),
                               'it listens', START_S)


if __name__ == '__main__':
    if not os.access(BINARY, os.X_OK):
        sys.exit(f'no server at {BINARY}: build it, or set PENSTOCK_BIN')
    sys.exit(unittest.main())
