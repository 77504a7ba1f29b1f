"""The demo model's greedy answers: Penstock's, and those of stock llama-server, built from the same
source, to compare with."""

import concurrent.futures
import json
import os
import typing
import urllib.request

from penstock import START_S, ServerProcess
from server_process import answers, free_port


def post(url, body, timeout_s=600, headers=None):
    headers = {"Content-Type": "application/json"} | (headers or {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return json.load(answer)


class Answer(typing.NamedTuple):
    prompt: list  # token ids
    tokens: list  # token ids
    text: str
    cached: int  # tokens of the prompt


def ask(server, messages, max_tokens, headers=None, **fields):
    """Penstock's answer to a conversation, or to a text from a user."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = {
        "model": "demo",
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "return_token_ids": True,
    } | fields
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    answer = post(url, body, headers=headers)
    choice = answer["choices"][0]
    return Answer(
        answer["prompt_token_ids"],
        choice.get("token_ids", []),
        choice["message"]["content"],
        answer["usage"]["prompt_tokens_details"]["cached_tokens"],
    )


def at_once(count, function, cases):
    """{name: function(case)}, `count` of them at a time, begun in order."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return dict(zip(cases, pool.map(function, cases.values())))


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
