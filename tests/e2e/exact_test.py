"""Greedy answers equal stock llama-server's, token by token.

llama-server is built from the same source, computes one request at a time and reuses nothing
(cache_prompt off). Penstock with --exact must give its tokens cold, warm, half evicted and with
other requests in flight; without --exact, whenever a request runs alone and reuses nothing.

PENSTOCK_BIN, PENSTOCK_LLAMA_SERVER, PENSTOCK_DEMO_MODEL name the programs and the model.
"""

import unittest

import exact_prompts
import stock
from penstock import Server

TOKENS = 16
MORE_TOKENS = 64
MORE = [f"short-{i}" for i in range(6)]  # answered at such length: mistakes add up


class ExactTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cases = {
            name: fields | {"max_tokens": MORE_TOKENS if name in MORE else TOKENS}
            for name, fields in exact_prompts.conversations()
        }
        assert len(cls.cases) >= 40
        # Without any flag; a salt of its own finds each prompt a cold cache. What is sent as token
        # ids to the one is what the other made of the conversation.
        salted = {name: fields | {"cache_salt": name} for name, fields in cls.cases.items()}
        with Server(model="demo") as alone:
            cls.alone = ask_all(alone, salted, clients=1)
        with stock.LlamaServer(
            "-c", "4096", "-np", "1", "-t", "2", "-tb", "2", "--cache-ram", "0"
        ) as server:
            cls.expected = {
                name: stock_answer(server, answer.prompt, cls.cases[name]["max_tokens"])
                for name, answer in cls.alone.items()
            }
            cls.stock_prompts = {
                name: stock_prompt(server, fields["messages"])
                for name, fields in cls.cases.items()
                if not fields.get("tools")  # which the model's template does not know
            }

    def of_a_block(self):
        """The cases whose prompts leave something in a cache."""
        return {n: fields for n, fields in self.cases.items() if full_blocks(self.alone[n])}

    def compare(self, got, what):
        wrong = [
            f"{name}: {answer.tokens} instead of {self.expected[name]}"
            for name, answer in got.items()
            if answer.tokens != self.expected[name]
        ]
        self.assertFalse(wrong, f"{what}: {len(wrong)} of {len(got)} differ:\n" + "\n".join(wrong))

    def test_alone_and_cold_needs_no_setting(self):
        self.compare(self.alone, "alone, cold, without a flag")
        self.assertEqual({answer.cached for answer in self.alone.values()}, {0})

    def test_prompts_are_stock_prompts(self):
        self.assertEqual(len(self.stock_prompts), len(self.cases) - 3)
        for name, prompt in self.stock_prompts.items():
            self.assertEqual(self.alone[name].prompt, prompt, name)

    def test_exact_crowded_and_cold_then_warm(self):
        with Server("--exact", "--sequences", "6", "--kv-cache-mib", "512", model="demo") as server:
            self.compare(ask_all(server, self.cases), "roomy cache, first round")
            warm = ask_all(server, self.cases)
            self.compare(warm, "roomy cache, second round")
            for name, answer in warm.items():
                # What is cached of the last tokens is computed anew; see engine/README.md.
                self.assertGreaterEqual(answer.cached, full_blocks(answer) - 128, name)

    def test_exact_while_the_cache_evicts(self):
        # The cache holds a third of these prompts.
        several = self.of_a_block()
        del several["longer-7"], several["longer-8"]
        self.assertGreater(len(several), 10)
        with Server("--exact", "--sequences", "6", "--kv-cache-mib", "24", model="demo") as server:
            self.compare(ask_all(server, several), "cache that evicts, first round")
            again = ask_all(server, dict(reversed(several.items())), clients=1)
            self.compare(again, "cache that evicts, second round, backwards")
            half = [a for a in again.values() if 0 < a.cached < full_blocks(a) - 128]
            self.assertTrue(half, {name: a.cached for name, a in again.items()})


def ask_all(server, cases, clients=12):
    return stock.at_once(clients, lambda fields: stock.ask(server, **fields), cases)


def full_blocks(answer):
    """The tokens of a prompt that may be cached."""
    return len(answer.prompt) // 64 * 64


def stock_answer(server, prompt, tokens):
    body = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0,
        "cache_prompt": False,
        "return_tokens": True,
    }
    answer = stock.post(server.url + "/completion", body)
    # llama-server shows the token that ended the answer, Penstock (like OpenAI) does not.
    return answer["tokens"][:-1] if answer["stop_type"] == "eos" else answer["tokens"]


def stock_prompt(server, messages):
    text = stock.post(server.url + "/apply-template", {"messages": messages})["prompt"]
    tokens = stock.post(server.url + "/tokenize", {"content": text, "parse_special": True})
    return tokens["tokens"]


if __name__ == "__main__":
    unittest.main()
