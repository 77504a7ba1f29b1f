"""Greedy answers equal stock llama-server's, token by token.

llama-server is built from the same source, computes one request at a time and reuses nothing
(cache_prompt off). Penstock with --exact must give its tokens cold, warm, half evicted and with
other requests in flight; without --exact, whenever a request runs alone and reuses nothing.

PENSTOCK_BIN, PENSTOCK_LLAMA_SERVER, PENSTOCK_DEMO_MODEL name the programs and the model.
"""

import concurrent.futures
import json
import os
import unittest

import exact_prompts
from penstock import Server
from stock import LlamaServer, post

TOKENS = 24


class ExactTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cases = list(exact_prompts.conversations())
        assert len(cls.cases) >= 40
        # What is sent as token ids to the one is what the other made of the conversation.
        with Server("--sequences", "1", "--kv-cache-mib", "0", model="demo") as alone:
            cls.alone = {name: ask(alone, fields) for name, fields in cls.cases}
        with LlamaServer(
            "-c", "4096", "-np", "1", "-t", "2", "-tb", "2", "--cache-ram", "0"
        ) as stock:
            cls.expected = {
                name: ask_stock(stock, cls.alone[name]["prompt"]) for name, _ in cls.cases
            }
            cls.stock_text = {
                name: chat_stock(stock, fields)
                for name, fields in cls.cases
                if name.startswith(("short", "unicode", "long", "turns"))
            }

    def compare(self, got, what):
        wrong = [
            f"{name}: {got[name]['tokens']} instead of {self.expected[name]}"
            for name, _ in self.cases
            if got[name]["tokens"] != self.expected[name]
        ]
        self.assertFalse(
            wrong, f"{what}: {len(wrong)} of {len(self.cases)} differ:\n" + "\n".join(wrong)
        )

    def test_alone_and_cold_needs_no_setting(self):
        self.compare(self.alone, "alone, cold, without --exact")

    def test_prompts_are_stock_prompts(self):
        for name, text in self.stock_text.items():
            self.assertEqual(self.alone[name]["text"], text, name)

    def test_exact_warm_and_half_evicted_and_crowded(self):
        for cache_mib, what in ((512, "roomy cache"), (24, "cache that evicts")):
            with Server(
                "--exact", "--sequences", "6", "--kv-cache-mib", str(cache_mib), model="demo"
            ) as server:
                self.compare(
                    {n: ask(server, f) for n, f in self.cases}, f"{what}, first round, one by one"
                )
                with concurrent.futures.ThreadPoolExecutor(12) as pool:
                    crowd = dict(
                        zip(
                            (n for n, _ in self.cases),
                            pool.map(lambda c: ask(server, c[1]), self.cases),
                        )
                    )
                self.compare(crowd, f"{what}, second round, all at once")
                self.assertGreater(sum(a["cached"] for a in crowd.values()), 0)


def ask(server, fields):
    body = {
        "model": "demo",
        "temperature": 0,
        "max_tokens": TOKENS,
        "return_token_ids": True,
    } | fields
    answer = post(f"http://127.0.0.1:{server.port}/v1/chat/completions", body)
    return {
        "prompt": answer["prompt_token_ids"],
        "tokens": answer["choices"][0].get("token_ids", []),
        "text": answer["choices"][0]["message"]["content"],
        "cached": answer["usage"]["prompt_tokens_details"]["cached_tokens"],
    }


def ask_stock(server, prompt):
    body = {
        "prompt": prompt,
        "n_predict": TOKENS,
        "temperature": 0,
        "cache_prompt": False,
        "return_tokens": True,
    }
    answer = post(server.url + "/completion", body)
    # llama-server shows the token that ended the answer, Penstock (like OpenAI) does not.
    return answer["tokens"][:-1] if answer["stop_type"] == "eos" else answer["tokens"]


def chat_stock(server, fields):
    body = {"temperature": 0, "max_tokens": TOKENS, "cache_prompt": False} | fields
    return post(server.url + "/v1/chat/completions", body)["choices"][0]["message"]["content"]


if __name__ == "__main__":
    unittest.main()
