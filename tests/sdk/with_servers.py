"""Runs a command while two Penstock servers run, one of them with an API key.

    PENSTOCK_BIN=BINARY with_servers.py MODEL COMMAND [ARGUMENT...]

The command finds PENSTOCK_URL, PENSTOCK_KEYED_URL and PENSTOCK_API_KEY in its environment. The
status is the command's, or 1 if a server did not start, died, or did not end well when asked to.
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

from penstock import Server

STOP_S = 60
API_KEY = "a-key-for-this-test"


def url_of(server):
    return f"http://127.0.0.1:{server.port}"


def main(model, *command):
    with Server(model=model) as plain, Server("--api-key", API_KEY, model=model) as keyed:
        status = subprocess.call(command, env={
            **os.environ,
            "PENSTOCK_URL": url_of(plain),
            "PENSTOCK_KEYED_URL": url_of(keyed),
            "PENSTOCK_API_KEY": API_KEY,
        })
        for server in (plain, keyed):
            ended = server.end(STOP_S)
            if ended != 0:
                status = status or 1
                print(f"error: a server's end was {ended}, not 0", file=sys.stderr)
            if status != 0:
                print(f"--- the server said:\n{server.stderr()[-4000:]}", file=sys.stderr)
    return status


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
