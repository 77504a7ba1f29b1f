"""A server's process, from its start to its end: what tests and benchmarks in Python start."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class ServerProcess:
    """Ends with the block it is used in. Both of its outputs are kept, in `err` and `out`, which
    may be the same file."""

    def __init__(self, command, env=None, out=None, err=None):
        self.out = out or tempfile.TemporaryFile()
        self.err = err or self.out
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.out,
                                        stderr=self.err, env=env)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()

    def stdout(self):
        return os.pread(self.out.fileno(), 1 << 24, 0).decode(errors='replace')

    def stderr(self):
        return os.pread(self.err.fileno(), 1 << 24, 0).decode(errors='replace')

    def wait_until(self, condition, what, seconds):
        """Polls until `condition()` is true, and returns what it returned."""
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            if self.process.poll() is not None:
                raise AssertionError(f'the server ended with status {self.process.returncode}, '
                                     f'before {what}: {self.stderr()[-4000:]}')
            if time.monotonic() > deadline:
                raise AssertionError(f'not within {seconds} s: {what}: {self.stderr()[-4000:]}')
            time.sleep(0.001)
        return result

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def end(self, seconds):
        """Asks it to end; its status, or None if it had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close()
        self.err.close()


def listens(port):
    try:
        socket.create_connection(('127.0.0.1', port), 1).close()
        return True
    except OSError:
        return False


def answers(url):
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:  # also every status that is an error
        return False
