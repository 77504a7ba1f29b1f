"""Stock llama-server, built from the same source, for comparison."""

import json
import os
import socket
import subprocess
import time
import urllib.request


def post(url, body, timeout_s=600):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return json.load(answer)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class LlamaServer:
    """`with LlamaServer("-c", "4096") as server:` serves the demo model at server.url."""

    def __init__(self, *flags):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            os.environ["PENSTOCK_LLAMA_SERVER"],
            "-m",
            os.environ["PENSTOCK_DEMO_MODEL"],
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--log-disable",
            *flags,
        ]

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"llama-server ended with {self.process.returncode}")
            try:
                if urllib.request.urlopen(self.url + "/health", timeout=5).status == 200:
                    return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise RuntimeError("llama-server was not ready within 120 s")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
