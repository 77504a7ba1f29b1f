"""Gate: what users do with the official openai Python SDK works against a running Penstock.

The servers' addresses come in the environment (see ../with_servers.py). Cases state properties that
hold for any model: a small model's answers may be silly, but they must have the right shape, and
the same question must get the same answer whichever way it is asked.
"""

import json
import os
import time
import unittest
from typing import Literal

import openai
from pydantic import BaseModel

URL = os.environ["PENSTOCK_URL"]
KEYED_URL = os.environ["PENSTOCK_KEYED_URL"]
API_KEY = os.environ["PENSTOCK_API_KEY"]

client = openai.OpenAI(base_url=URL + "/v1", api_key="not needed", max_retries=0, timeout=300)
MODEL = client.models.list().data[0].id

QUESTION = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]
# Long enough to be cut off in the middle on any machine.
ENDLESS = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Current time in a zone",
        "parameters": {
            "type": "object",
            "properties": {"hours_from_utc": {"type": "integer", "enum": [0, 1, 2]}},
            "required": ["hours_from_utc"],
            "additionalProperties": False,
        },
    },
}
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Oslo, in celsius?"}]


class Country(BaseModel):
    capital: Literal["Paris", "Rome", "Oslo"]
    continent: Literal["Europe", "Asia"]
    in_union: bool


def chat(messages=QUESTION, **overrides):
    arguments = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 24}
    return client.chat.completions.create(**{**arguments, **overrides})


def complete(prompt, **overrides):
    arguments = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 16}
    return client.completions.create(**{**arguments, **overrides})


def settled(ask):
    """The answer with the prompt's prefix in the cache, as every later one has it."""
    ask()
    return ask()


class GateCase(unittest.TestCase):
    def assert_weather_call(self, call):
        self.assertEqual(call.type, "function")
        self.assertTrue(call.id)
        self.assertEqual(call.function.name, "get_weather")
        arguments = json.loads(call.function.arguments)
        self.assertEqual(set(arguments), {"city", "unit"})
        self.assertIn(arguments["city"], ["Paris", "Rome", "Oslo"])
        self.assertIn(arguments["unit"], ["celsius", "fahrenheit"])

    def assert_usage(self, usage):
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertGreater(usage.completion_tokens, 0)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertLessEqual(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens)

    def assert_healthy(self):
        answer = chat(max_tokens=4)
        self.assertTrue(answer.choices[0].message.content)


class Chat(GateCase):
    def test_answer(self):
        answer = chat()
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.model, MODEL)
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertLess(abs(answer.created - time.time()), 3600)
        [choice] = answer.choices
        self.assertEqual(choice.index, 0)
        self.assertEqual(choice.message.role, "assistant")
        self.assertTrue(choice.message.content.strip())
        self.assertIn(choice.finish_reason, ["stop", "length"])
        self.assert_usage(answer.usage)

    def test_length(self):
        for name in ["max_tokens", "max_completion_tokens"]:
            with self.subTest(name):
                answer = client.chat.completions.create(
                    model=MODEL,
                    messages=QUESTION,
                    temperature=0,
                    **{name: 3},
                    extra_body={"ignore_eos": True},
                )
                self.assertEqual(answer.choices[0].finish_reason, "length")
                self.assertEqual(answer.usage.completion_tokens, 3)

    def test_stream_equals_answer(self):
        whole = settled(chat).choices[0]
        chunks = list(chat(stream=True))
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)
        for chunk in chunks:
            self.assertEqual(chunk.object, "chat.completion.chunk")
            self.assertEqual(len(chunk.choices), 1)
            self.assertIsNone(chunk.usage)
        deltas = [chunk.choices[0].delta for chunk in chunks]
        self.assertEqual(deltas[0].role, "assistant")
        self.assertEqual("".join(delta.content or "" for delta in deltas), whole.message.content)
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        self.assertEqual(reasons, [None] * (len(chunks) - 1) + [whole.finish_reason])

    def test_stream_with_usage(self):
        whole = settled(chat)
        chunks = list(chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[-1].choices, [])
        self.assert_usage(chunks[-1].usage)
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(chunks[-1].usage.prompt_tokens, whole.usage.prompt_tokens)
        for chunk in chunks[:-1]:
            self.assertIsNone(chunk.usage)
            self.assertEqual(len(chunk.choices), 1)

    def test_stream_helper(self):
        whole = settled(chat).choices[0].message.content
        with client.chat.completions.stream(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=24
        ) as stream:
            events = list(stream)
            final = stream.get_final_completion()
        text = "".join(event.delta for event in events if event.type == "content.delta")
        self.assertEqual(text, whole)
        self.assertEqual(final.choices[0].message.content, whole)

    def test_multi_turn_and_text_parts(self):
        messages = QUESTION + [
            {"role": "assistant", "content": "Paris."},
            {"role": "user", "content": [{"type": "text", "text": "And of Norway? 🇳🇴 ñ"}]},
        ]
        answer = chat(messages)
        self.assertTrue(answer.choices[0].message.content)
        self.assertGreater(answer.usage.prompt_tokens, chat().usage.prompt_tokens)

    def test_several_choices(self):
        answer = chat(n=2, temperature=1, seed=7, max_tokens=8)
        self.assertEqual(sorted(choice.index for choice in answer.choices), [0, 1])
        for choice in answer.choices:
            self.assertTrue(choice.finish_reason)
        self.assertLessEqual(answer.usage.completion_tokens, 16)
        self.assertGreater(answer.usage.completion_tokens, 0)

    def test_several_choices_streamed(self):
        reasons = {}
        for chunk in chat(n=2, temperature=1, seed=7, max_tokens=8, stream=True):
            for choice in chunk.choices:
                self.assertNotIn(choice.index, reasons, "a chunk after the choice's end")
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
        self.assertEqual(sorted(reasons), [0, 1])

    def test_seed(self):
        def ask():
            return chat(temperature=1, seed=11, max_tokens=12)

        self.assertEqual(
            settled(ask).choices[0].message.content, ask().choices[0].message.content
        )

    def test_stop(self):
        whole = settled(chat).choices[0].message.content
        stop = whole[len(whole) // 3 :][:4]
        expected = whole[: whole.index(stop)]
        cut = chat(stop=["never said", stop]).choices[0]
        self.assertEqual(cut.message.content, expected)
        self.assertEqual(cut.finish_reason, "stop")
        streamed = "".join(
            chunk.choices[0].delta.content or "" for chunk in chat(stop=stop, stream=True)
        )
        self.assertEqual(streamed, expected)

    def test_logprobs(self):
        choice = chat(logprobs=True, top_logprobs=3).choices[0]
        self.assertTrue(choice.logprobs.content)
        for entry in choice.logprobs.content:
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(len(entry.top_logprobs), 3)
            values = [top.logprob for top in entry.top_logprobs]
            self.assertEqual(values, sorted(values, reverse=True))
            self.assertEqual(entry.bytes, entry.top_logprobs[0].bytes)  # greedy
        self.assertEqual(
            b"".join(bytes(entry.bytes) for entry in choice.logprobs.content).decode(),
            choice.message.content,
        )

    def test_logprobs_streamed(self):
        text, spelled = "", b""
        for chunk in chat(logprobs=True, stream=True):
            [choice] = chunk.choices
            text += choice.delta.content or ""
            if choice.logprobs:
                for entry in choice.logprobs.content or []:
                    self.assertEqual(entry.top_logprobs, [])
                    spelled += bytes(entry.bytes)
        self.assertTrue(text)
        self.assertEqual(spelled.decode(), text)

    def test_async_client(self):
        import asyncio

        async def ask_twice():
            async with openai.AsyncOpenAI(
                base_url=URL + "/v1", api_key="not needed", max_retries=0, timeout=300
            ) as asynchronous:

                async def one(city):
                    stream = await asynchronous.chat.completions.create(
                        model=MODEL,
                        temperature=0,
                        max_tokens=12,
                        stream=True,
                        messages=[{"role": "user", "content": f"Where is {city}?"}],
                    )
                    return "".join(
                        [chunk.choices[0].delta.content or "" async for chunk in stream]
                    )

                return await asyncio.gather(one("Rome"), one("Oslo"))

        for answer in asyncio.run(ask_twice()):
            self.assertTrue(answer)


class Tools(GateCase):
    def test_required(self):
        answer = chat(
            ASK_WEATHER,
            tools=[WEATHER],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=200,
        )
        [choice] = answer.choices
        self.assertEqual(choice.finish_reason, "tool_calls")
        [call] = choice.message.tool_calls
        self.assert_weather_call(call)

    def test_named(self):
        answer = chat(
            ASK_WEATHER,
            tools=[TIME, WEATHER],
            parallel_tool_calls=False,
            max_tokens=200,
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
        )
        [call] = answer.choices[0].message.tool_calls
        self.assertIn(answer.choices[0].finish_reason, ["tool_calls", "stop"])
        self.assert_weather_call(call)

    def test_none(self):
        choice = chat(ASK_WEATHER, tools=[WEATHER], tool_choice="none").choices[0]
        self.assertFalse(choice.message.tool_calls)
        self.assertTrue(choice.message.content)

    def test_streamed(self):
        arguments = {
            "tools": [WEATHER],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "max_tokens": 200,
        }
        [whole] = settled(lambda: chat(ASK_WEATHER, **arguments)).choices[0].message.tool_calls
        pieces = []
        reason = None
        for chunk in chat(ASK_WEATHER, stream=True, **arguments):
            reason = chunk.choices[0].finish_reason or reason
            pieces += chunk.choices[0].delta.tool_calls or []
        self.assertEqual(reason, "tool_calls")
        self.assertEqual({piece.index for piece in pieces}, {0})
        self.assertTrue(pieces[0].id)
        self.assertEqual(pieces[0].function.name, "get_weather")
        for piece in pieces[1:]:
            self.assertFalse(piece.id)
            self.assertFalse(piece.function.name)
        self.assertEqual(
            "".join(piece.function.arguments or "" for piece in pieces), whole.function.arguments
        )

    def test_stream_helper(self):
        with client.chat.completions.stream(
            model=MODEL,
            messages=ASK_WEATHER,
            temperature=0,
            max_tokens=200,
            tools=[WEATHER],
            tool_choice="required",
            parallel_tool_calls=False,
        ) as stream:
            for _ in stream:
                pass
            [call] = stream.get_final_completion().choices[0].message.tool_calls
        self.assert_weather_call(call)

    def test_round_trip(self):
        call = (
            chat(
                ASK_WEATHER,
                tools=[WEATHER],
                tool_choice="required",
                parallel_tool_calls=False,
                max_tokens=200,
            )
            .choices[0]
            .message
        )
        answer = chat(
            ASK_WEATHER
            + [
                call.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "-3, snow"},
            ],
            tools=[WEATHER],
            tool_choice="none",
        )
        self.assertTrue(answer.choices[0].message.content)

    def test_pydantic_tool(self):
        class GetCountry(Country):
            """Looks a country up"""

        answer = client.chat.completions.parse(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=200,
            tools=[openai.pydantic_function_tool(GetCountry)],
            tool_choice="required",
            parallel_tool_calls=False,
        )
        [call] = answer.choices[0].message.tool_calls
        self.assertIsInstance(call.function.parsed_arguments, GetCountry)


class ResponseFormat(GateCase):
    def test_json_schema_strict(self):
        answer = client.chat.completions.parse(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=100, response_format=Country
        )
        self.assertIsInstance(answer.choices[0].message.parsed, Country)
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_json_schema_streamed(self):
        with client.chat.completions.stream(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=100, response_format=Country
        ) as stream:
            for _ in stream:
                pass
            self.assertIsInstance(
                stream.get_final_completion().choices[0].message.parsed, Country
            )

    def test_json_object(self):
        messages = [{"role": "user", "content": 'Answer with this JSON: {"ok": true}'}]
        choice = chat(messages, response_format={"type": "json_object"}, max_tokens=100).choices[
            0
        ]
        if choice.finish_reason == "stop":
            self.assertIsInstance(json.loads(choice.message.content), dict)
        else:  # the model did not come to an end; what it wrote is the start of an object
            self.assertTrue(choice.message.content.lstrip().startswith("{"))

    def test_text(self):
        self.assertTrue(chat(response_format={"type": "text"}).choices[0].message.content)


class Completions(GateCase):
    def test_text_and_tokens(self):
        text = settled(
            lambda: complete("The capital of France is", extra_body={"return_token_ids": True})
        )
        self.assertEqual(text.object, "text_completion")
        self.assertTrue(text.id.startswith("cmpl-"))
        [choice] = text.choices
        self.assertTrue(choice.text)
        tokens = choice.model_extra["prompt_token_ids"]
        self.assertEqual(len(tokens), text.usage.prompt_tokens)
        self.assertEqual(complete(tokens).choices[0].text, choice.text)

    def test_streamed(self):
        whole = settled(lambda: complete("Once upon a time")).choices[0]
        chunks = list(complete("Once upon a time", stream=True))
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), whole.text)
        self.assertEqual(chunks[-1].choices[0].finish_reason, whole.finish_reason)

    def test_several_prompts(self):
        answer = complete(["The sky is", "Two plus two is"], max_tokens=4)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        self.assertEqual(
            answer.choices[0].text, complete("The sky is", max_tokens=4).choices[0].text
        )

    def test_logprobs(self):
        choice = complete("One, two, three,", logprobs=2, max_tokens=6).choices[0]
        logprobs = choice.logprobs
        self.assertEqual("".join(logprobs.tokens), choice.text)
        self.assertEqual(len(logprobs.token_logprobs), len(logprobs.tokens))
        self.assertEqual(len(logprobs.text_offset), len(logprobs.tokens))
        for top in logprobs.top_logprobs:
            self.assertGreaterEqual(len(top), 2)

    def test_stop(self):
        choice = complete("One, two, three, four,", stop=["six"], max_tokens=24).choices[0]
        self.assertNotIn("six", choice.text)


class Embeddings(GateCase):
    def test_embeddings(self):
        try:
            answer = client.embeddings.create(model=MODEL, input=["north", "south"])
        except (
            openai.UnprocessableEntityError
        ) as error:  # this model cannot, and the server says so
            self.assertIn("embed", error.message)
            return
        self.assertEqual([item.index for item in answer.data], [0, 1])
        for item in answer.data:
            self.assertAlmostEqual(sum(x * x for x in item.embedding), 1, places=3)
        self.assertNotEqual(answer.data[0].embedding, answer.data[1].embedding)
        plain = client.embeddings.create(model=MODEL, input="north", encoding_format="float")
        for a, b in zip(plain.data[0].embedding, answer.data[0].embedding):
            self.assertAlmostEqual(a, b, places=3)


class Models(GateCase):
    def test_list(self):
        models = list(client.models.list())
        self.assertIn(MODEL, [model.id for model in models])
        for model in models:
            self.assertEqual(model.object, "model")


class Errors(GateCase):
    def test_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            chat(model="no-such-model")
        self.assertEqual(caught.exception.code, "model_not_found")
        self.assertIn("no-such-model", caught.exception.message)

    def test_wrong_type(self):
        for field, value in [
            ("temperature", "hot"),
            ("max_tokens", -1),
            ("messages", "hello"),
            ("n", 0),
            ("top_p", 7),
            ("stop", 5),
        ]:
            with self.subTest(field), self.assertRaises(openai.BadRequestError) as caught:
                chat(**{field: value})
            self.assertEqual(caught.exception.param, field)
            self.assertEqual(caught.exception.type, "invalid_request_error")
            self.assertIn(field, caught.exception.message)

    def test_unknown_path(self):
        with self.assertRaises(openai.NotFoundError):
            client.post("/no/such/path", cast_to=object, body={})

    def test_unknown_fields_are_ignored(self):
        self.assertTrue(chat(extra_body={"no_such_field": {"a": [1]}}).choices)

    def test_api_key(self):
        for key in ["wrong", API_KEY + "x", API_KEY[:-1]]:
            with self.subTest(key), self.assertRaises(openai.AuthenticationError):
                client.with_options(base_url=KEYED_URL + "/v1", api_key=key).models.list()
        keyed = client.with_options(base_url=KEYED_URL + "/v1", api_key=API_KEY)
        self.assertIn(MODEL, [model.id for model in keyed.models.list()])


class Leaving(GateCase):
    def test_close_mid_stream(self):
        for _ in range(8):
            stream = chat(stream=True, **ENDLESS)
            for _ in zip(range(3), stream):
                pass
            stream.close()
        self.assert_healthy()

    def test_timeout(self):
        with self.assertRaises(openai.APITimeoutError):
            client.with_options(timeout=0.2).chat.completions.create(
                model=MODEL, messages=QUESTION, **ENDLESS
            )
        self.assert_healthy()


if __name__ == "__main__":
    unittest.main()
