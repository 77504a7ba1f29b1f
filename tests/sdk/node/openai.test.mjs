// Gate: what users do with the official openai package for Node works against a running Penstock.
//
// The servers' addresses come in the environment (see ../with_servers.py), the SDK from the folder
// that ../run.sh installed it into. Cases state properties that hold for any model: a small model's
// answers may be silly, but they must have the right shape, and the same question must get the same
// answer whichever way it is asked.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { before, describe, test } from "node:test";

const require = createRequire(path.join(process.env.PENSTOCK_SDK_NODE, "package.json"));
const OpenAI = require("openai");
const { zodResponseFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const url = process.env.PENSTOCK_URL;
const keyedUrl = process.env.PENSTOCK_KEYED_URL;
const apiKey = process.env.PENSTOCK_API_KEY;
const connect = (options = {}) =>
  new OpenAI({
    baseURL: `${url}/v1`, apiKey: "not needed", maxRetries: 0, timeout: 300_000, ...options,
  });

const client = connect();
let model;
before(async () => {
  model = (await client.models.list()).data[0].id;
});

const question = [
  { role: "system", content: "You answer in one short sentence." },
  { role: "user", content: "What is the capital of France?" },
];
// Long enough to be cut off in the middle on any machine.
const endless = { max_tokens: 1500, ignore_eos: true };

const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Current weather in a city",
    parameters: {
      type: "object",
      properties: {
        city: { type: "string", enum: ["Paris", "Rome", "Oslo"] },
        unit: { type: "string", enum: ["celsius", "fahrenheit"] },
      },
      required: ["city", "unit"],
      additionalProperties: false,
    },
  },
};
const time = {
  type: "function",
  function: {
    name: "get_time",
    description: "Current time in a zone",
    parameters: {
      type: "object",
      properties: { hours_from_utc: { type: "integer", enum: [0, 1, 2] } },
      required: ["hours_from_utc"],
      additionalProperties: false,
    },
  },
};
const askWeather = {
  messages: [{ role: "user", content: "What is the weather in Oslo, in celsius?" }],
  tools: [weather],
  parallel_tool_calls: false,
  max_tokens: 200,
};

const chatBody = (overrides) => ({
  model, messages: question, temperature: 0, max_tokens: 24, ...overrides,
});
const chat = (overrides, options) => client.chat.completions.create(chatBody(overrides), options);
const complete = (prompt, overrides) =>
  client.completions.create({ model, prompt, temperature: 0, max_tokens: 16, ...overrides });

async function collect(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

const contentOf = (chunks) =>
  chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.delta.content ?? "").join("");

/** The answer with the prompt's prefix in the cache, as every later one has it. */
async function settled(ask) {
  await ask();
  return ask();
}

function assertWeatherCall(call) {
  assert.equal(call.type, "function");
  assert.ok(call.id);
  assert.equal(call.function.name, "get_weather");
  const { city, unit, ...others } = JSON.parse(call.function.arguments);
  assert.ok(["Paris", "Rome", "Oslo"].includes(city));
  assert.ok(["celsius", "fahrenheit"].includes(unit));
  assert.deepEqual(others, {});
}

function assertUsage(usage) {
  assert.ok(usage.prompt_tokens > 0);
  assert.ok(usage.completion_tokens > 0);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  assert.ok(usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens);
}

async function assertHealthy() {
  assert.ok((await chat({ max_tokens: 4 })).choices[0].message.content);
}

describe("chat", () => {
  test("answer", async () => {
    const answer = await chat();
    assert.equal(answer.object, "chat.completion");
    assert.equal(answer.model, model);
    assert.match(answer.id, /^chatcmpl-/);
    assert.equal(answer.choices.length, 1);
    assert.equal(answer.choices[0].message.role, "assistant");
    assert.ok(answer.choices[0].message.content.trim());
    assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
    assertUsage(answer.usage);
  });

  test("length", async () => {
    for (const field of ["max_tokens", "max_completion_tokens"]) {
      const answer = await client.chat.completions.create({
        model, messages: question, temperature: 0, ignore_eos: true, [field]: 3,
      });
      assert.equal(answer.choices[0].finish_reason, "length");
      assert.equal(answer.usage.completion_tokens, 3);
    }
  });

  test("stream equals answer", async () => {
    const whole = (await settled(chat)).choices[0];
    const chunks = await collect(chat({ stream: true }));
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
    for (const chunk of chunks) {
      assert.equal(chunk.object, "chat.completion.chunk");
      assert.equal(chunk.choices.length, 1);
    }
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    assert.equal(contentOf(chunks), whole.message.content);
    const reasons = chunks.map((chunk) => chunk.choices[0].finish_reason);
    assert.equal(reasons.pop(), whole.finish_reason);
    assert.ok(reasons.every((reason) => reason === null));
  });

  test("stream with usage", async () => {
    const whole = await settled(chat);
    const chunks = await collect(chat({ stream: true, stream_options: { include_usage: true } }));
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assertUsage(last.usage);
    assert.equal(last.usage.prompt_tokens, whole.usage.prompt_tokens);
    assert.equal(last.usage.completion_tokens, whole.usage.completion_tokens);
    for (const chunk of chunks) {
      assert.equal(chunk.usage, null);
      assert.equal(chunk.choices.length, 1);
    }
  });

  test("stream helper", async () => {
    const whole = (await settled(chat)).choices[0].message.content;
    let text = "";
    const runner = client.chat.completions.stream(chatBody()).on("content", (delta) => {
      text += delta;
    });
    const final = await runner.finalChatCompletion();
    assert.equal(text, whole);
    assert.equal(final.choices[0].message.content, whole);
  });

  test("several choices", async () => {
    const answer = await chat({ n: 2, temperature: 1, seed: 7, max_tokens: 8 });
    assert.deepEqual(answer.choices.map((choice) => choice.index).sort(), [0, 1]);
    assert.ok(answer.choices.every((choice) => choice.finish_reason));
  });

  test("stop", async () => {
    const whole = (await settled(chat)).choices[0].message.content;
    const start = Math.floor(whole.length / 3);
    const stop = whole.slice(start, start + 4);
    const expected = whole.slice(0, whole.indexOf(stop));
    const [cut] = (await chat({ stop: ["never said", stop] })).choices;
    assert.equal(cut.message.content, expected);
    assert.equal(cut.finish_reason, "stop");
    assert.equal(contentOf(await collect(chat({ stop, stream: true }))), expected);
  });

  test("logprobs", async () => {
    const [choice] = (await chat({ logprobs: true, top_logprobs: 3 })).choices;
    const bytes = [];
    for (const entry of choice.logprobs.content) {
      assert.ok(entry.logprob <= 0);
      assert.equal(entry.top_logprobs.length, 3);
      assert.deepEqual(entry.bytes, entry.top_logprobs[0].bytes); // greedy
      bytes.push(...entry.bytes);
    }
    assert.equal(Buffer.from(bytes).toString(), choice.message.content);
  });
});

describe("tools", () => {
  test("required", async () => {
    const [choice] = (await chat({ ...askWeather, tool_choice: "required" })).choices;
    assert.equal(choice.finish_reason, "tool_calls");
    assert.equal(choice.message.tool_calls.length, 1);
    assertWeatherCall(choice.message.tool_calls[0]);
  });

  test("named", async () => {
    const tool_choice = { type: "function", function: { name: "get_weather" } };
    const answer = await chat({ ...askWeather, tools: [time, weather], tool_choice });
    assert.equal(answer.choices[0].message.tool_calls.length, 1);
    assertWeatherCall(answer.choices[0].message.tool_calls[0]);
  });

  test("streamed", async () => {
    const ask = { ...askWeather, tool_choice: "required" };
    const whole = (await settled(() => chat(ask))).choices[0].message.tool_calls[0];
    const chunks = await collect(chat({ ...ask, stream: true }));
    const pieces = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "tool_calls");
    assert.ok(pieces[0].id);
    assert.equal(pieces[0].function.name, "get_weather");
    assert.ok(pieces.slice(1).every((piece) => !piece.id && !piece.function.name));
    assert.equal(pieces.map((piece) => piece.function.arguments ?? "").join(""),
      whole.function.arguments);
  });

  test("stream helper", async () => {
    const runner = client.chat.completions.stream(
      chatBody({ ...askWeather, tool_choice: "required" }));
    const final = await runner.finalChatCompletion();
    assertWeatherCall(final.choices[0].message.tool_calls[0]);
  });

  test("runner", async () => {
    let asked;
    const getWeather = {
      ...weather.function,
      parse: JSON.parse,
      function: (place) => {
        asked = place;
        return "-3, snow";
      },
    };
    const runner = client.chat.completions.runTools(
      chatBody({ ...askWeather, tools: [{ type: "function", function: getWeather }],
        tool_choice: { type: "function", function: { name: "get_weather" } } }));
    await runner.done();
    assert.ok(["Paris", "Rome", "Oslo"].includes(asked.city));
  });
});

describe("response_format", () => {
  const Country = z.object({
    capital: z.enum(["Paris", "Rome", "Oslo"]),
    continent: z.enum(["Europe", "Asia"]),
    in_union: z.boolean(),
  });
  const format = { response_format: zodResponseFormat(Country, "country"), max_tokens: 100 };

  test("json_schema strict", async () => {
    const [choice] = (await client.chat.completions.parse(chatBody(format))).choices;
    assert.equal(choice.finish_reason, "stop");
    assert.ok(Country.safeParse(choice.message.parsed).success);
  });

  test("json_schema streamed", async () => {
    const final = await client.chat.completions.stream(chatBody(format)).finalChatCompletion();
    assert.ok(Country.safeParse(final.choices[0].message.parsed).success);
  });

  test("json_object", async () => {
    const [choice] = (await chat({
      messages: [{ role: "user", content: 'Answer with this JSON: {"ok": true}' }],
      response_format: { type: "json_object" }, max_tokens: 100,
    })).choices;
    if (choice.finish_reason === "stop") {
      assert.equal(typeof JSON.parse(choice.message.content), "object");
    } else { // the model did not come to an end; what it wrote is the start of an object
      assert.match(choice.message.content, /^\s*\{/);
    }
  });
});

describe("completions", () => {
  test("text and token ids", async () => {
    const [choice] = (await settled(() =>
      complete("The capital of France is", { return_token_ids: true }))).choices;
    assert.ok(choice.text);
    const [same] = (await complete(choice.prompt_token_ids)).choices;
    assert.equal(same.text, choice.text);
  });

  test("streamed", async () => {
    const [whole] = (await settled(() => complete("Once upon a time"))).choices;
    const chunks = await collect(complete("Once upon a time", { stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.text);
    assert.equal(chunks.at(-1).choices[0].finish_reason, whole.finish_reason);
  });
});

test("embeddings", async () => {
  let answer;
  try {
    answer = await client.embeddings.create({ model, input: ["north", "south"] });
  } catch (error) { // this model cannot, and the server says so
    assert.ok(error instanceof OpenAI.UnprocessableEntityError);
    assert.match(error.message, /embed/);
    return;
  }
  assert.deepEqual(answer.data.map((item) => item.index), [0, 1]);
  for (const item of answer.data) {
    const length = item.embedding.reduce((sum, x) => sum + x * x, 0);
    assert.ok(Math.abs(length - 1) < 1e-3);
  }
});

test("models", async () => {
  const ids = [];
  for await (const item of client.models.list()) ids.push(item.id);
  assert.ok(ids.includes(model));
});

describe("errors", () => {
  test("unknown model", async () => {
    await assert.rejects(chat({ model: "no-such-model" }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, "model_not_found");
      return true;
    });
  });

  test("wrong type", async () => {
    for (const [field, value] of [["temperature", "hot"], ["messages", "hello"], ["n", 0]]) {
      await assert.rejects(chat({ [field]: value }), (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError);
        assert.equal(error.param, field);
        return true;
      });
    }
  });

  test("API key", async () => {
    const wrong = connect({ baseURL: `${keyedUrl}/v1`, apiKey: "wrong" });
    await assert.rejects(wrong.models.list(), OpenAI.AuthenticationError);
    const right = connect({ baseURL: `${keyedUrl}/v1`, apiKey });
    assert.ok((await right.models.list()).data.some((item) => item.id === model));
  });
});

describe("leaving", () => {
  test("break out of a stream", async () => {
    for (let round = 0; round < 8; ++round) {
      let seen = 0;
      for await (const _ of await chat({ ...endless, stream: true })) {
        if (++seen === 3) break;
      }
      assert.equal(seen, 3);
    }
    await assertHealthy();
  });

  test("abort before the answer", async () => {
    const controller = new AbortController();
    const asked = chat(endless, { signal: controller.signal });
    setTimeout(() => controller.abort(), 50);
    await assert.rejects(asked, OpenAI.APIUserAbortError);
    await assertHealthy();
  });

  test("timeout", async () => {
    await assert.rejects(chat(endless, { timeout: 200 }), OpenAI.APIConnectionTimeoutError);
    await assertHealthy();
  });
});
