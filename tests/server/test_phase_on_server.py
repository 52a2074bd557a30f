"""The think phase as a server sees it: explored tokens lie inside think, whatever the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import Server, serve
from safetensors.torch import load_file

pytestmark = pytest.mark.served_models("tied", "trained")

START, END = "<think>", "</think>"
ALWAYS = {"led": {"gate": "always", "trace": True}}
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"

# Prompt, and the phase of the first generated token.
PROMPTS = {
    "template opens thinking": (TURN.format("Hi") + "<think>\n", "think"),
    "template opens and closes it": (TURN.format("Hi") + "<think>\n\n</think>\n\n", "response"),
    "template opens nothing": (TURN.format("Hi"), "before"),
    "an earlier turn thought": (
        TURN.format("Hi") + "<think>\nhm\n</think>\n\nHello.<|im_end|>\n" + TURN.format("Go on"),
        "before",
    ),
    "an earlier thought, now thinking": (
        TURN.format("Hi")
        + "<think>\nhm\n</think>\n\nHello.<|im_end|>\n"
        + TURN.format("x")
        + "<think>\n",
        "think",
    ),
    "the user writes the opening tag": (TURN.format("What does <think> mean?"), "before"),
    "the user writes the closing tag": (TURN.format("Use </think>!") + "<think>\n", "think"),
    "the user writes both": (TURN.format("<think>x</think>") + "<think>\n", "think"),
    "a tool call interrupts the thought": (
        TURN.format("Hi") + '<think>\nhm <tool_call>\n{"name": "',
        "response",
    ),
    "an earlier turn's tool call, now thinking": (
        TURN.format("Hi")
        + "<think>\nhm <tool_call>\n{}<|im_end|>\n"
        + TURN.format("x")
        + "<think>\n",
        "think",
    ),
    "the user writes the start of a tool call": (TURN.format("<tool_call>") + "<think>\n", "think"),
    "no turns at all": ("once upon <think> a </think> time <think> there", "think"),
}


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    # What prompts of embeddings need of SGLang: no cache, which goes by ids, and bfloat16.
    flags = ("--disable-radix-cache", "--dtype", "bfloat16")
    with serve(model_path, *flags, "--enable-samplers", "dola,soft-thinking") as running:
        yield running


@pytest.fixture(scope="module")
def tagged(think_ids: tuple[int, int], trained: bool) -> dict[str, Any]:
    """Both delimiters come every few tokens."""
    bias = {str(token): 12.0 if trained else 4.0 for token in think_ids}
    return {"temperature": 1.0, "max_new_tokens": 48, "ignore_eos": True, "logit_bias": bias}


def expected_phases(first: str, tokens: Sequence[int], think_ids: tuple[int, int]) -> list[str]:
    """Phase in which each token was sampled."""
    start, end = think_ids
    phases, phase = [], first
    for token in tokens:
        phases.append(phase)
        phase = {start: "think", end: "response"}.get(token, phase)
    return phases


def check(answer: dict[str, Any], expected: list[str]) -> None:
    trace = answer["meta_info"]["led_trace"]
    assert [entry["phase"] for entry in trace] == expected
    # With gate `always` exactly the think tokens explore.
    assert [entry.get("explored", False) for entry in trace] == [p == "think" for p in expected]
    led = answer["meta_info"]["led"]
    assert led["think_tokens"] == led["explored_tokens"] == expected.count("think")


@pytest.mark.parametrize(("text", "first"), PROMPTS.values(), ids=PROMPTS)
def test_prompts(
    server: Server,
    tokenizer: Any,
    think_ids: tuple[int, int],
    tagged: dict[str, Any],
    text: str,
    first: str,
) -> None:
    prompt = tokenizer.encode(text, add_special_tokens=False)
    seen = set()
    for seed in range(4):
        answer = server.generate(prompt, ALWAYS, **tagged, sampling_seed=seed)
        phases = expected_phases(first, answer["output_ids"], think_ids)
        check(answer, phases)
        seen |= set(phases)
    assert {"think", "response"} <= seen, "no completion changed its phase"


def test_mixed_batch_of_phases(
    server: Server, tokenizer: Any, think_ids: tuple[int, int], tagged: dict[str, Any]
) -> None:
    texts = list(PROMPTS.values()) * 2
    answers = server.generate_batch(
        [(tokenizer.encode(text, add_special_tokens=False), ALWAYS, tagged) for text, _ in texts]
    )
    for (_, first), answer in zip(texts, answers, strict=True):
        check(answer, expected_phases(first, answer["output_ids"], think_ids))


def test_chunked_prefill(
    model_path: Path, tokenizer: Any, think_ids: tuple[int, int], tagged: dict[str, Any]
) -> None:
    """The opening tag and the prompt's end lie in different chunks; tool calls do not count."""
    flags = ("--chunked-prefill-size", "64", "--enable-mixed-chunk", "--led-tool-start", "")
    with serve(model_path, *flags) as server:
        texts = [
            TURN.format("long " * (10 + 17 * i)) + "<think>\n<tool_call>" + "hm " * 40
            for i in range(6)
        ]
        answers = server.generate_all(
            [(tokenizer.encode(text, add_special_tokens=False), ALWAYS, tagged) for text in texts]
        )
    for answer in answers:
        check(answer, expected_phases("think", answer["output_ids"], think_ids))


def test_think_only_off(server: Server, tokenizer: Any, tagged: dict[str, Any]) -> None:
    prompt = tokenizer.encode(TURN.format("Hi"), add_special_tokens=False)
    custom = {"led": {"gate": "always", "trace": True, "think_only": False}}
    answer = server.generate(prompt, custom, **tagged)
    assert all(entry["explored"] for entry in answer["meta_info"]["led_trace"])


@pytest.fixture(scope="module")
def asked(model_path: Path, tokenizer: Any) -> tuple[list[int], list[list[float]]]:
    """One prompt twice: as token ids, and as the embeddings of those ids."""
    ids = tokenizer.encode(TURN.format("Hi") + "<think>\n", add_special_tokens=False)
    weights = load_file(model_path / "model.safetensors")
    rows = weights["model.embed_tokens.weight"].bfloat16()[ids]
    return ids, rows.float().tolist()


@pytest.mark.parametrize(
    "custom",
    [
        {"led": {"think_only": False, "gate": "always", "trace": True}},
        {"led": {"preset": "release", "gate": "always", "trace": True}},
        {"sampler": "dola"},
        {"sampler": "regular"},
    ],
)
def test_a_prompt_of_embeddings_gives_the_tokens_of_its_ids(
    server: Server, asked: tuple[list[int], list[list[float]]], custom: dict[str, Any]
) -> None:
    """Where the phase does not hang on the prompt's ids; SGLang makes those of embeddings up."""
    ids, embeddings = asked
    sampling = {"max_new_tokens": 24, "ignore_eos": True, "custom_params": custom}
    sampling |= {"temperature": 0} if "led" not in custom else {"sampling_seed": 5}
    expected, answer = (
        server.post("/generate", prompt | {"sampling_params": sampling}).json()
        for prompt in ({"input_ids": ids}, {"input_embeds": embeddings})
    )
    assert answer["output_ids"] == expected["output_ids"]
    ours, theirs = (a["meta_info"].get("led_trace", []) for a in (answer, expected))
    # All but the phase, which is not known here and not asked for.
    assert [e | {"phase": ""} for e in ours] == [e | {"phase": ""} for e in theirs]
    if "led" in custom:
        assert answer["meta_info"]["led"]["explored_tokens"] > 0


@pytest.mark.parametrize(
    ("custom", "named"),
    [
        (None, ("think_only = false", 'sampler = "regular"')),
        ({"led": {"think_only": True}}, ("think_only = false", 'sampler = "regular"')),
        ({"sampler": "soft-thinking"}, ('"soft-thinking"', 'sampler = "regular"')),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_a_prompt_of_embeddings_is_refused_where_its_phase_must_be_read(
    server: Server,
    asked: tuple[list[int], list[list[float]]],
    custom: Any,
    named: tuple[str, str],
    many: bool,
) -> None:
    _, embeddings = asked
    body = {
        "input_embeds": [embeddings] * 2 if many else embeddings,
        "sampling_params": {"max_new_tokens": 4, "custom_params": custom},
    }
    response = server.post("/generate", body)
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    assert all(words in message for words in ("input_embeds", "input_ids", *named)), message


def test_a_prompt_of_embeddings_that_the_model_cannot_read_is_refused(
    server: Server, asked: tuple[list[int], list[list[float]]]
) -> None:
    """The first matrix product would end the scheduler."""
    _, (first, *rest) = asked
    sampling = {"max_new_tokens": 4, "custom_params": {"sampler": "regular"}}
    for embeddings in ([first[:-1]], [first, *rest, [1.0]], [[first], [[*first, 0.0]]]):
        body = {"input_embeds": embeddings, "sampling_params": sampling}
        response = server.post("/generate", body)
        assert response.status_code == 400, response.text
        assert f"must have {len(first)} numbers a token" in response.json()["error"]["message"]
    assert server.post("/generate", body | {"input_embeds": [first, *rest]}).status_code == 200


@pytest.fixture(scope="module")
def many(model_path: Path) -> Iterator[Server]:
    """`<r>`, `</r>` and `[T]` are three and four tokens; a grammar makes the model write them."""
    flags = ("--led-think-start", "<r>", "--led-think-end", "</r>", "--led-tool-start", "[T]")
    flags += ("--grammar-backend", "xgrammar", "--enable-samplers", "soft-thinking")
    with serve(model_path, *flags) as running:
        yield running


# What the template opens the answer with, and what the model must write.
WRITTEN = {
    "delimiters": ("<r>", "[a-z]{5}</r>[a-z]{5}<r>[a-z]{4}</r>[a-z]{3}"),
    "one begun by the prompt": ("<r>a</", "r>[a-z]{4}<<r>[a-z]{4}</</r>[a-z]{3}"),
    "broken off": ("", "[a-z]{3}<r</r<r>[a-z]{4}<</r[a-z]{2}</r>[a-z]{3}"),
    "tool call in a thought": (
        "<r>",
        r"[a-z]{3}\[T\][a-z]{5}</r>[a-z]{3}<r>[a-z]{4}\[\[T\][a-z]{3}",
    ),
    "tool start begun by the prompt": ("<r>a[", r"T\][a-z]{4}\[T\][a-z]{2}<r>[a-z]{4}"),
    "tool start broken off": ("<r>", r"[a-z]{2}\[T[a-z]{2}\][a-z]{2}\[T\][a-z]{4}"),
    "no thought to end": ("", r"[a-z]{3}\[T\][a-z]{2}<r>[a-z]{3}</r>\[T\][a-z]{3}"),
}


def written_phases(opened: str, pieces: Sequence[str]) -> list[str]:
    """Phase in which each piece was written, from the text alone."""
    phases, text = [], opened
    for piece in pieces:
        start, end, tool = (text.rfind(delimiter) for delimiter in ("<r>", "</r>", "[T]"))
        thinks = start > max(end, tool)
        phases.append("think" if thinks else "before" if start == end else "response")
        text += piece
    return phases


@pytest.mark.parametrize("sampler", ["led", "soft-thinking"])
def test_delimiters_of_many_tokens(many: Server, tokenizer: Any, sampler: str) -> None:
    """All of them in one batch; an earlier turn and the user's text hold delimiters as well."""
    custom = {
        "sampler": sampler,
        sampler: {"trace": True} | (ALWAYS["led"] if sampler == "led" else {}),
    }
    turns = TURN.format("</r>[T]") + "<r>[T]{}<|im_end|>\n" + TURN.format("Go on")
    answers = many.generate_batch(
        [
            (
                tokenizer.encode(turns + opened, add_special_tokens=False),
                custom,
                {"temperature": 1.0, "max_new_tokens": 64, "regex": pattern},
            )
            for opened, pattern in WRITTEN.values()
        ]
    )
    for (opened, _), answer in zip(WRITTEN.values(), answers, strict=True):
        pieces = [tokenizer.decode([token]) for token in answer["output_ids"]]
        phases = written_phases(opened, pieces)
        assert {"think", "response"} <= set(phases)
        if sampler == "led":
            check(answer, phases)
        else:
            trace = answer["meta_info"]["soft_thinking_trace"]
            assert [entry["phase"] for entry in trace] == phases
