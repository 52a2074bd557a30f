"""Every way to ask and to be answered: the tokens stay LED's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import Server
from oracle import Oracle

from .checks import (
    ALWAYS,
    GREEDY,
    THINK_END,
    THINK_START,
    assert_led_tokens,
    compare_led_tokens,
    think_flags,
)

CHAT: dict[str, Any] = {
    "model": "default",
    "temperature": 0,
    "ignore_eos": True,
    "return_token_ids": True,
    "return_prompt_token_ids": True,
    "return_meta_info": True,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "pattern": "^[a-h]{6}$"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


def solo(server: Server, prompt: Sequence[int], count: int, **sampling: Any) -> dict[str, Any]:
    body = (prompt, {"led": ALWAYS}, GREEDY | {"max_new_tokens": count} | sampling)
    return server.generate_batch([body])[0]


def events(server: Server, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    response = server.post(path, body, stream=True)
    assert response.status_code == 200, response.text
    for line in response.iter_lines():
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            yield json.loads(line.removeprefix(b"data: "))


def test_radix_cache(server: Server, oracle: Oracle, prompts: list[Sequence[int]]) -> None:
    """A prompt out of the cache, delimiters included, gives the same tokens and statistics."""
    prompt = [*prompts[4], 65, 66]
    first, second = (solo(server, prompt, 24) for _ in range(2))
    assert second["meta_info"]["cached_tokens"] > len(prompts[4])
    assert second["output_ids"] == first["output_ids"]
    for key, value in first["meta_info"]["led"].items():
        # The order of a matrix product's sums differs between a whole and a cached prompt.
        assert second["meta_info"]["led"][key] == (
            pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
        )
    assert_led_tokens(oracle, prompt, first["output_ids"])


@pytest.mark.usefixtures("graph_mode")
def test_retraction_and_mixed_chunks(
    server: Server, oracle: Oracle, prompts: list[Sequence[int]]
) -> None:
    """More than the pool holds: chunks share batches with decodes, and rows are thrown out."""
    # Not by `ignore_eos`: SGLang admits no more of such requests than it is sure to finish.
    sampling = {"temperature": 0, "max_new_tokens": 120, "logit_bias": {"256": -99, "258": -99}}

    def adjust(logits: Any, so_far: Sequence[int]) -> Any:
        logits = logits.clone()
        logits[[256, 258]] -= 99
        return logits

    bodies: list[Any] = [(prompt, {"led": ALWAYS}, sampling) for prompt in prompts[:12]]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda b: server.generate(b[0], b[1], **b[2]), bodies))
    assert sum(answer["meta_info"]["num_retractions"] for answer in answers) > 0
    told_apart = 0
    for prompt, answer in zip(prompts, answers, strict=False):
        assert len(answer["output_ids"]) == 120
        told_apart += compare_led_tokens(oracle, prompt, answer["output_ids"], adjust)
        thinks = think_flags(prompt, answer["output_ids"])
        assert answer["meta_info"]["led"]["think_tokens"] == sum(thinks)
    assert told_apart > 0


def test_streaming(server: Server, oracle: Oracle, prompts: list[Sequence[int]]) -> None:
    expected = solo(server, prompts[5], 24)
    assert_led_tokens(oracle, prompts[5], expected["output_ids"])
    body = {
        "input_ids": list(prompts[5]),
        "stream": True,
        "sampling_params": GREEDY | {"max_new_tokens": 24, "custom_params": {"led": ALWAYS}},
    }
    chunks = list(events(server, "/generate", body))
    assert len(chunks) > 4
    assert chunks[-1]["output_ids"] == expected["output_ids"]
    streamed, whole = chunks[-1]["meta_info"]["led"], expected["meta_info"]["led"]
    # A cached prompt is prefilled in another shape: p1 differs in its last bits.
    assert streamed.pop("mean_p1") == pytest.approx(whole.pop("mean_p1"), rel=1e-4)
    assert streamed == whole
    seen = [chunk["meta_info"]["led"]["explored_tokens"] for chunk in chunks]
    assert seen == sorted(seen)


def test_stop_strings(server: Server, oracle: Oracle, prompts: list[Sequence[int]]) -> None:
    whole = solo(server, prompts[6], 40)
    stop = whole["text"][9:12]
    stopped = solo(server, prompts[6], 40, stop=[stop])
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    count = len(stopped["output_ids"])
    assert count < 40
    assert stopped["output_ids"] == whole["output_ids"][:count]
    assert_led_tokens(oracle, prompts[6], stopped["output_ids"])


def test_abort_spares_the_others(
    server: Server, oracle: Oracle, prompts: list[Sequence[int]], graph_mode: str
) -> None:
    """Half of a running batch is aborted: partial answers are prefixes, the rest is whole."""
    seen_before_abort = 60

    def answer(i: int) -> dict[str, Any]:
        aborted = i % 2 == 0
        # Two seconds after a streamed answer SGLang aborts its id: not to be used again.
        rid = f"{graph_mode}-{i}"
        body = {
            "rid": rid,
            "input_ids": list(prompts[i]),
            "stream": True,
            # Long enough that no machine ends it before the abort arrives.
            "sampling_params": GREEDY
            | {"max_new_tokens": 400 if aborted else 150, "custom_params": {"led": ALWAYS}},
        }
        for event in events(server, "/generate", body):
            if aborted and len(event["output_ids"]) >= seen_before_abort:
                assert server.post("/abort_request", {"rid": rid}).status_code == 200
                aborted = False
        return event

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(answer, range(6)))
    told_apart = [0, 0]  # aborted, whole: summed, as one aborted answer may be too short
    for i, last in enumerate(answers):
        tokens = last["output_ids"]
        if i % 2:
            assert len(tokens) == 150
        else:
            assert last["meta_info"]["finish_reason"]["type"] == "abort"
            assert seen_before_abort <= len(tokens) < 400
        told_apart[i % 2] += compare_led_tokens(oracle, prompts[i], tokens)
    assert min(told_apart) > 0


def test_session(server: Server, oracle: Oracle, prompts: list[Sequence[int]]) -> None:
    """The second turn goes on from the first one's tokens: in the think phase it left open."""
    session = server.post("/open_session", {"capacity_of_str_len": 4096}).json()
    history: list[int] = []
    rid = None
    for turn in (prompts[7][:150], [THINK_START, *prompts[8][-60:]]):
        body = {
            "input_ids": list(turn),
            "session_params": {"id": session, "rid": rid},
            "sampling_params": GREEDY | {"max_new_tokens": 20, "custom_params": {"led": ALWAYS}},
        }
        answer = server.post("/generate", body).json()
        history += turn
        if turn[0] == THINK_START:
            assert_led_tokens(oracle, history, answer["output_ids"])
        history += answer["output_ids"]
        rid = answer["meta_info"]["id"]
    server.post("/close_session", {"session_id": session})


def chat(server: Server, **body: Any) -> dict[str, Any]:
    response = server.post("/v1/chat/completions", CHAT | body)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def test_chat_with_reasoning_parser(server: Server, oracle: Oracle) -> None:
    """Reasoning and content are told apart; LED samples the first part alone."""
    choice = chat(
        server,
        messages=[{"role": "user", "content": "Name three primes."}],
        max_tokens=60,
        logit_bias={str(THINK_END): 2.0},
        custom_params={"led": ALWAYS},
    )
    tokens, prompt = choice["response_token_ids"], choice["prompt_token_ids"]
    assert THINK_END in tokens
    end = tokens.index(THINK_END)
    assert choice["message"]["reasoning_content"]
    assert len(choice["message"]["content"]) > 0
    assert "</think>" not in choice["message"]["reasoning_content"]
    assert choice["meta_info"]["led"]["think_tokens"] == sum(think_flags(prompt, tokens)) > end

    def adjust(logits: Any, so_far: Sequence[int]) -> Any:
        logits = logits.clone()
        logits[THINK_END] += 2.0
        return logits

    assert_led_tokens(oracle, prompt, tokens, adjust)


def test_structured_output_after_thinking(server: Server) -> None:
    """SGLang's grammar starts behind `</think>`: LED explores before it and leaves it alone."""
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
    schema["additionalProperties"] = False
    choice = chat(
        server,
        messages=[{"role": "user", "content": "Answer in JSON."}],
        max_tokens=160,
        ignore_eos=False,
        logit_bias={str(THINK_END): 5.0, "258": -9.0, "256": -9.0},
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
        custom_params={"led": ALWAYS},
    )
    assert isinstance(json.loads(choice["message"]["content"])["n"], bool)
    led = choice["meta_info"]["led"]
    assert led["explored_tokens"] == led["think_tokens"] > 0


@pytest.mark.parametrize("think_only", [True, False])
def test_tool_call(server: Server, tokenizer: Any, think_only: bool) -> None:
    """A forced tool call parses; LED samples it where `think_only` is off, and only there."""
    # The random model would write blanks for ever where the grammar lets it.
    blanks = tokenizer.encode(" \n\t\r", add_special_tokens=False)
    choice = chat(
        server,
        messages=[{"role": "user", "content": "Add."}],
        max_tokens=120,
        ignore_eos=False,
        logit_bias={str(token): -30.0 for token in blanks},
        tools=[TOOL],
        tool_choice="required",
        chat_template_kwargs={"enable_thinking": False},
        custom_params={"led": ALWAYS | {"think_only": think_only}},
    )
    call = choice["message"]["tool_calls"][0]["function"]
    assert call["name"] == "add"
    assert len(json.loads(call["arguments"])["a"]) == 6
    led = choice["meta_info"]["led"]
    assert (led["explored_tokens"] > 6) != think_only


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_openai_streams(server: Server, path: str, prompts: list[Sequence[int]]) -> None:
    """A streamed answer is the unstreamed one."""
    body = {
        "model": "default",
        "prompt": list(prompts[9]),
        "messages": [{"role": "user", "content": "Stream."}],
        "temperature": 0,
        "ignore_eos": True,
        "max_tokens": 24,
        "custom_params": {"led": ALWAYS},
    }
    choice = server.post(path, body).json()["choices"][0]
    whole = choice.get("text") or choice["message"]["reasoning_content"]
    pieces = []
    for event in events(server, path, body | {"stream": True}):
        for part in event["choices"]:
            delta = part.get("delta", part)
            pieces.append(delta.get("text") or delta.get("reasoning_content") or "")
    assert "".join(pieces) == whole
    plain = body | {"custom_params": {"sampler": "regular"}}
    choice = server.post(path, plain).json()["choices"][0]
    assert (choice.get("text") or choice["message"]["reasoning_content"]) != whole


REFUSED: list[tuple[dict[str, Any], dict[str, Any], tuple[str, str]]] = [
    ({}, {"beam_width": 4}, ("beam_width", 'sampler = \\"regular')),
    ({"return_hidden_states": True}, {}, ("return_hidden_states", "exceeds")),
    ({"return_sampling_mask": True}, {}, ("return_sampling_mask", "top_k")),
    # Only the scheduler knows that no custom logit processor wants this key.
    ({}, {"custom_params": {"led": {}, "budget": 1}}, ("custom_params.budget", "led")),
]


@pytest.mark.parametrize(("extra", "sampling", "named"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_refused_requests(
    server: Server,
    prompts: list[Sequence[int]],
    extra: dict[str, Any],
    sampling: dict[str, Any],
    named: tuple[str, str],
    stream: bool,
) -> None:
    body = {
        "input_ids": list(prompts[0]),
        "stream": stream,
        "sampling_params": {"max_new_tokens": 4, "custom_params": {"led": {}}} | sampling,
    }
    response = server.post("/generate", body | extra)
    # SGLang opens a stream before it checks the request: the refusal is inside.
    assert response.status_code == (200 if stream else 400), response.text
    assert not stream or re.search(r'"(status_)?code":400', response.text), response.text
    assert all(word in response.text for word in named), response.text
