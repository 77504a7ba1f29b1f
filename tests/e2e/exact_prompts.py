"""Conversations on which answers are compared token by token: short, long, Unicode, multi-turn and
tool use. Deterministic; the long ones are put together from a few sentences."""

import random

SENTENCES = [
    "The river rises in the mountains and reaches the sea after four hundred miles.",
    "A penstock carries water from the reservoir down to the turbines.",
    "In 1869 the first line across the continent was finished after six years of work.",
    "She counted 17 boats, 3 barges and one very old steamer near the pier.",
    "Prices fell by 4.5% in March, then rose again (slowly) until the autumn.",
    "def area(radius): return 3.14159 * radius ** 2  # in square metres",
    '"Why," he asked, "would anyone paint a lighthouse green?"',
    "La montaña más alta de la región no tiene nombre en los mapas antiguos.",
    "Das Wasser fließt langsam, doch über die Jahre gräbt es tiefe Täler.",
    "Keep the lid closed; steam at 120 °C burns at once.",
]

SHORT = [
    "What is the capital of France?",
    "Say hello.",
    "2+2=",
    "Name three colours.",
    "Why is the sky blue?",
    "Write one sentence about rivers.",
    "Translate 'good morning' to Spanish.",
    "List the days of the week.",
    "Who wrote Hamlet?",
    "Give me a synonym of 'fast'.",
    "Is 17 a prime number?",
    "What does HTTP stand for?",
    "Finish: Once upon a time",
    "How many legs has a spider?",
    "Explain gravity to a child.",
    "Tell me a joke.",
]

UNICODE = [
    "日本の首都はどこですか？",
    "Wie heißt die Hauptstadt von Österreich?",
    "¿Cuál es la capital del Perú?",
    "Скажи что-нибудь о море.",
    "What does 🌊 mean? And 👩‍👩‍👧‍👦?",
    "ما هي عاصمة مصر؟",
    "Ünïcödé: naïve café — “quotes” … ok?",
]


def long_text(seed, sentences):
    chooser = random.Random(seed)
    return " ".join(chooser.choice(SENTENCES) for _ in range(sentences))


def forty():
    """Texts by name, of some blocks of 16 tokens each: a few sentences and a question; two long."""
    questions = SHORT + UNICODE
    texts = {
        f"short-{i}": f"{long_text(i, 6)} {questions[i % len(questions)]}" for i in range(38)
    }
    for i in range(2):
        texts[f"long-{i}"] = "Summarise: " + long_text(100 + i, 10 + 10 * i)
    return texts


def summary(seed, sentences):
    return {
        "messages": [{"role": "user", "content": "Summarise: " + long_text(seed, sentences)}]
    }


def conversations():
    """Yields (name, request fields)."""
    for i, text in enumerate(SHORT):
        yield f"short-{i}", {"messages": [{"role": "user", "content": text}]}
    for i, text in enumerate(UNICODE):
        yield f"unicode-{i}", {"messages": [{"role": "user", "content": text}]}
    # Around the sizes at which a prompt's parts change, 64 and 512 rows (src/engine/llama/
    # batch_shape.h): 62, 84, 119, 205, 271, 512, 556 and 588 tokens.
    for seed, sentences in enumerate((2, 3, 5, 8, 13)):
        yield f"long-{seed}", summary(seed, sentences)
    for seed, sentences in ((7, 27), (6, 26), (8, 28)):
        yield f"longer-{seed}", summary(seed, sentences)
    # From 256 tokens on, a row may round otherwise beside others.
    system = {"role": "system", "content": "You answer briefly. Background: " + long_text(99, 15)}
    for i, text in enumerate(
        ("Who counted boats?", "What is a penstock?", "What happened in 1869?", "And prices?")
    ):
        yield f"shared-{i}", {"messages": [system, {"role": "user", "content": text}]}
    turns = [
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Danube."},
        {"role": "user", "content": "Where does it rise?"},
        {"role": "assistant", "content": "In the Black Forest."},
        {"role": "user", "content": "Tell me more: " + long_text(5, 12)},
    ]
    for count in (1, 3, 5):
        yield f"turns-{count}", {"messages": turns[:count]}
    tool = {
        "type": "function",
        "function": {
            "name": "get_level",
            "description": "Water level of a river",
            "parameters": {
                "type": "object",
                "properties": {"river": {"type": "string"}},
                "required": ["river"],
            },
        },
    }
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "get_level", "arguments": '{"river": "Elbe"}'},
            }
        ],
    }
    ask = {"role": "user", "content": "How high is the Elbe?"}
    result = {"role": "tool", "tool_call_id": "c1", "content": '{"metres": 2.4}'}
    yield "tools-ask", {"messages": [ask], "tools": [tool], "tool_choice": "none"}
    yield "tools-answer", {
        "messages": [ask, call, result],
        "tools": [tool],
        "tool_choice": "none",
    }
    yield "tools-long", {
        "messages": [system, ask, call, result],
        "tools": [tool],
        "tool_choice": "none",
    }
