"""Runs a command while two Penstock servers run, one of them with an API key.

    with_servers.py BINARY MODEL COMMAND [ARGUMENT...]

The command finds PENSTOCK_URL, PENSTOCK_KEYED_URL and PENSTOCK_API_KEY in its environment. The
status is the command's, or 1 if a server did not start, died, or did not end well when asked to.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

START_S = 300  # generous: a busy machine is no failure
STOP_S = 60
API_KEY = "a-key-for-this-test"


class Server:
    def __init__(self, binary, model, *flags):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [binary, "serve", "--model", model, "--port", "0", *flags],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        self.url = None

    def said(self):
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def ready(self):
        """True once /ready answers 200. Fails if the process has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with status {self.process.returncode}")
        if self.url is None:
            match = re.search(r"listening on (http://127\.0\.0\.1:\d+)", self.said())
            if match is None:
                return False
            self.url = match.group(1)
        try:
            return urllib.request.urlopen(self.url + "/ready", timeout=5).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_ready(self):
        deadline = time.monotonic() + START_S
        while not self.ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server was not ready after {START_S} s")
            time.sleep(0.05)

    def stop(self):
        """Asks the server to end, and returns its status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"killed: still running {STOP_S} s after SIGTERM"


def main(binary, model, *command):
    plain = Server(binary, model)
    keyed = Server(binary, model, "--api-key", API_KEY)
    servers = [plain, keyed]
    status = 1
    try:
        for server in servers:
            server.wait_until_ready()
        status = subprocess.call(command, env={
            **os.environ,
            "PENSTOCK_URL": plain.url,
            "PENSTOCK_KEYED_URL": keyed.url,
            "PENSTOCK_API_KEY": API_KEY,
        })
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
    finally:
        ends = [server.stop() for server in servers]
    for server, end in zip(servers, ends):
        if end != 0:
            status = status or 1
            print(f"error: a server's end was {end}, not 0", file=sys.stderr)
        if status != 0:
            print(f"--- the server said:\n{server.said()[-4000:]}", file=sys.stderr)
    return status


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
