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
            cls.stock_prompts = {
                name: stock_prompt(stock, fields["messages"])
                for name, fields in cls.cases
                if not fields.get("tools")  # which the model's template does not know
            }

    def compare(self, got, what):
        wrong = [
            f"{name}: {answer['tokens']} instead of {self.expected[name]}"
            for name, answer in got.items()
            if answer["tokens"] != self.expected[name]
        ]
        self.assertFalse(wrong, f"{what}: {len(wrong)} of {len(got)} differ:\n" + "\n".join(wrong))

    def test_alone_and_cold_needs_no_setting(self):
        self.compare(self.alone, "alone, cold, without --exact")

    def test_prompts_are_stock_prompts(self):
        self.assertGreater(len(self.stock_prompts), 40)
        for name, prompt in self.stock_prompts.items():
            self.assertEqual(self.alone[name]["prompt"], prompt, name)

    def test_exact_crowded_and_cold_then_warm(self):
        with Server("--exact", "--sequences", "6", "--kv-cache-mib", "512", model="demo") as server:
            self.compare(crowd(server, self.cases), "roomy cache, first round, all at once")
            warm = {name: ask(server, fields) for name, fields in self.cases}
            self.compare(warm, "roomy cache, second round, one by one")
            for name, answer in warm.items():
                full_blocks = len(answer["prompt"]) // 64 * 64
                # What is cached of the last tokens is computed anew; see engine/README.md.
                self.assertGreaterEqual(answer["cached"], full_blocks - 128, name)

    def test_exact_while_the_cache_evicts(self):
        # The cache holds about a thousand tokens, the prompts of a block or more have some 8,000.
        longer = [(n, f) for n, f in self.cases if len(self.alone[n]["prompt"]) >= 64]
        self.assertGreater(len(longer), 15)
        with Server("--exact", "--sequences", "6", "--kv-cache-mib", "24", model="demo") as server:
            self.compare(crowd(server, longer), "cache that evicts, first round")
            again = crowd(server, longer[::-1])
            self.compare(again, "cache that evicts, second round, backwards")
            self.assertGreater(sum(answer["cached"] for answer in again.values()), 0)


def crowd(server, cases):
    """Answers by name, the cases asked twelve at a time."""
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        return dict(
            zip((name for name, _ in cases), pool.map(lambda case: ask(server, case[1]), cases))
        )


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


def stock_prompt(server, messages):
    text = post(server.url + "/apply-template", {"messages": messages})["prompt"]
    tokens = post(server.url + "/tokenize", {"content": text, "parse_special": True})
    return tokens["tokens"]


if __name__ == "__main__":
    unittest.main()
