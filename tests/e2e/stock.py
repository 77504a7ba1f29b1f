"""Stock llama-server, built from the same source, for comparison."""

import json
import os
import urllib.request

from penstock import START_S, ServerProcess
from server_process import answers, free_port


def post(url, body, timeout_s=600):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return json.load(answer)


class LlamaServer(ServerProcess):
    """`with LlamaServer("-c", "4096") as server:` serves the demo model at server.url."""

    def __init__(self, *flags):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        super().__init__([
            os.environ["PENSTOCK_LLAMA_SERVER"],
            "-m",
            os.environ["PENSTOCK_DEMO_MODEL"],
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--log-disable",
            *flags,
        ])

    def __enter__(self):
        try:
            self.wait_until(lambda: answers(self.url + "/health"), "it answers", START_S)
        except BaseException:
            self.kill()
            raise
        return self
