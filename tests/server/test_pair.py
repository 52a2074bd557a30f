"""A prefill/decode pair over a real transfer engine answers as a single server does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import failing_transfer_plugin
import pytest
from close_answers import assert_close, sampling_sets
from extra_plugin import plugin_environment
from harness import Body, Server, kill, recorded_tokens, serve
from pair import Pair, serve_pair

from led_sglang.common.answers import SAMPLER_HEADER

FLAGS = ("--dtype", "float32", "--enable-samplers", "led,dola")
LED: list[dict[str, Any]] = [
    {"trace": True},
    {"gate": "always", "trace": True},
    {"candidates": 20, "depth": 4, "behaviour_logprobs": True},
    {"preset": "release"},
    {"gate": "rate", "gate_rate": 0.5, "trace": True, "behaviour_logprobs": True},
    {"think_only": False, "logprobs": "behaviour"},
]
DOLA: list[dict[str, Any]] = [{}, {"layers": "high"}]
REGULAR = {"sampler": "regular"}
SAMPLED: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
    {"temperature": 0.8, "min_p": 0.05},
    {"temperature": 0},
]
LISTS = ("led_trace", "led_behaviour_logprobs")
# Seconds: that a decode server waits for an aborted request's cache; and after a transfer that
# failed, that it keeps the memory, and until the prefill server asks whether it is alive.
SOON = {
    "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": "12",
    "SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE_TIMEOUT": "2",
    "SGLANG_FAILED_SESSION_PROBE_INTERVAL_S": "2",
}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that, once made, has the prefill server's next transfer fail."""
    return tmp_path_factory.mktemp("failing") / "next"


@pytest.fixture(scope="module")
def pair(model_path: Path, prompts: list[Sequence[int]], failing: Path) -> Iterator[Pair]:
    plugin = Path(failing_transfer_plugin.__file__)
    fails = plugin_environment(failing.parent, plugin)
    fails[failing_transfer_plugin.FLAG] = str(failing)
    with serve_pair(model_path, *FLAGS, env=[fails | SOON, SOON]) as running:
        running.first_answers = regular_tokens(running, prompts)  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="module")
def mixed(prompts: list[Sequence[int]], think_ids: tuple[int, int]) -> list[Body]:
    """60 seeded requests of LED and DoLa, 12 of `regular` among them; answers of 1 to 47 tokens, in
    which the phase changes on the way, and longer ones."""
    start, end = map(str, think_ids)
    bodies: list[Body] = []
    for index in range(72):
        sampling: dict[str, Any] = {"max_new_tokens": 1 + 7 * index % 47, "ignore_eos": True}
        sampling |= {"temperature": 0.8, "sampling_seed": 1000 + index}
        if index % 9 == 2:
            sampling["max_new_tokens"] = 120
        custom: dict[str, Any] = {"led": LED[index // 2 % len(LED)]}
        if index % 6 == 5:
            custom = REGULAR
            sampling["temperature"] = 0
        elif index % 6 == 3:
            # Without a penalty: after a retraction SGLang counts other tokens.
            custom = {"sampler": "dola", "dola": DOLA[index // 6 % 2]}
        elif index % 4:
            # Not of all: an answer that does not change its phase shows a wrong one best.
            sampling["logit_bias"] = {end: 3.5, start: 2.5}
        if index % 6 in (0, 4):
            sampling["top_k"] = 12  # `ask` wants their sampling masks
        prompt = prompts[index % len(prompts)][-80:]
        # In a slot that a thinking request has left there may come one that does not think.
        bodies.append((prompt if index % 5 else prompt[:-3], custom, sampling))
    return bodies


def ask(server: Server, bodies: Sequence[Body]) -> list[dict[str, Any]]:
    """With log-probabilities, and with the sampling masks of those with a `top_k`."""
    with_mask = ["top_k" in sampling for _, _, sampling in bodies]
    return server.generate_batch(
        bodies,
        return_logprob=True,
        return_sampling_mask=with_mask,
        sampling_logprobs_mode=["support" if asked else None for asked in with_mask],
    )


@pytest.fixture(scope="module")
def expected(model_path: Path, mixed: list[Body]) -> list[dict[str, Any]]:
    with serve(model_path, *FLAGS) as server:
        return ask(server, mixed)


def assert_same(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Tokens, statistics, lists, log-probabilities, sampling masks; float32 rounds by the shapes of
    batches."""
    for index, (ours, theirs) in enumerate(zip(answers, expected, strict=True)):
        assert ours["output_ids"] == theirs["output_ids"], f"request {index}"
        mine, other = ours["meta_info"], theirs["meta_info"]
        reported, wanted = (meta["output_token_logprobs"] for meta in (mine, other))
        assert_close(reported, wanted, absolute=1e-5)
        for key in ("led", *LISTS):
            assert (key in mine) == (key in other), f"request {index}: {key}"
            assert_close(mine.get(key), other.get(key), absolute=1e-5)
        assert_close(sampling_sets(ours), sampling_sets(theirs), absolute=1e-5)
        for key in LISTS:
            assert len(mine.get(key, ours["output_ids"])) == len(ours["output_ids"])


def test_mixed_requests_are_answered_as_by_a_single_server(
    pair: Pair, mixed: list[Body], expected: list[dict[str, Any]]
) -> None:
    before = counted(pair)
    answers = ask(pair, mixed)
    assert_same(answers, expected)
    # Kinds of requests that must be among them for this to say anything.
    phases = [[e["phase"] for e in a["meta_info"].get("led_trace", ())] for a in answers]
    assert any({"think", "response"} <= set(p) for p in phases)
    assert any(p[0] == "think" for p in phases if p)
    assert any(p[0] != "think" for p in phases if p)
    firsts = [a["meta_info"]["led"]["first_explored"] for a in answers if "led" in a["meta_info"]]
    assert 0 in firsts
    assert all(sampling_sets(answer) for answer in answers[0::6])
    # Each token is counted once: the first one where it was sampled, the others where they were.
    sums = [now - then for now, then in zip(counted(pair), before, strict=True)]
    reported = [a["meta_info"]["led"]["think_tokens"] for a in answers if "led" in a["meta_info"]]
    assert sum(sums) == sum(reported)
    assert 0 < sums[0] <= len(reported)


def counted(pair: Pair) -> list[int]:
    """Think tokens that the prefill and the decode server have counted."""
    return [led_state(server)["totals"]["think_tokens"] for server in (pair.prefill, pair.decode)]


def led_state(server: Server) -> dict[str, Any]:
    state: dict[str, Any] = server.get("/server_info").json()["internal_states"][0]["led"]
    return state


def test_after_the_decode_server_asks_for_the_cache_again(
    pair: Pair, mixed: list[Body], expected: list[dict[str, Any]]
) -> None:
    """All its requests go back to the prefill server, four times, while they decode."""
    before = counted(pair)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, pair, mixed[:24])
        for _ in range(4):
            time.sleep(0.4)
            paused = pair.decode.post("/pause_generation", {"mode": "retract"})
            assert paused.status_code == 200
            assert pair.decode.post("/continue_generation", {}).status_code == 200
        answers = running.result()
    assert sum(a["meta_info"]["num_retractions"] > 0 for a in answers) > 5
    assert_same(answers, expected[:24])
    # The prefill server draws a token for each cache, which is thrown away and counted nowhere.
    firsts = sum(a["meta_info"].get("led", {}).get("think_tokens", 0) > 0 for a in answers)
    assert counted(pair)[0] - before[0] <= firsts


def regular_tokens(
    server: Server, prompts: list[Sequence[int]], custom: Any = REGULAR
) -> list[list[int]]:
    """Sampled one at a time by a pair that has just started, so that both servers draw in the same
    order each time. Recorded of a plain pair, with `custom` None."""
    answers = [
        server.generate(prompt[-80:], custom, max_new_tokens=12, ignore_eos=True, **sampling)
        for prompt, sampling in zip(prompts, SAMPLED, strict=False)
    ]
    return [answer["output_ids"] for answer in answers]


def test_regular_requests_are_those_of_a_plain_pair(pair: Pair) -> None:
    assert pair.first_answers == recorded_tokens("plain_pair")  # type: ignore[attr-defined]


def test_samples_streams_and_chats(pair: Pair, prompts: list[Sequence[int]]) -> None:
    sampling = {"max_new_tokens": 6, "ignore_eos": True, "temperature": 0.9, "sampling_seed": 40}
    custom = {"led": {"gate": "always", "behaviour_logprobs": True}}
    prompt = list(prompts[0][-80:])
    body = {"input_ids": prompt, "sampling_params": sampling | {"custom_params": custom, "n": 3}}
    samples = pair.post("/generate", body).json()
    alone = [pair.generate(prompt, custom, **sampling | {"sampling_seed": 40 + i}) for i in (0, 1)]
    assert len({tuple(sample["output_ids"]) for sample in samples}) == 3
    for sample, one in zip(samples, alone, strict=False):
        assert sample["output_ids"] == one["output_ids"]
        assert sample["meta_info"]["led"]["think_tokens"] == 6

    body["sampling_params"]["n"] = 1
    with pair.post("/generate", body | {"stream": True}, stream=True) as response:
        assert response.headers[SAMPLER_HEADER] == "led"
        lines = [line.removeprefix(b"data: ") for line in response.iter_lines() if line]
    last = json.loads(lines[-2])
    assert last["output_ids"] == alone[0]["output_ids"]
    assert last["meta_info"]["led"]["think_tokens"] == 6
    assert len(last["meta_info"]["led_behaviour_logprobs"]) == 6

    chat = {
        "model": "default:led",
        "messages": [{"role": "user", "content": "2 + 3?"}],
        "max_tokens": 1,
        "return_meta_info": True,
    }
    answer = pair.post("/v1/chat/completions", chat).json()
    assert answer["model"] == "default:led"
    assert answer["choices"][0]["meta_info"]["led"]["think_tokens"] == 1
    refused = pair.post("/generate", {"text": "a", "sampling_params": {"custom_params": {"k": 1}}})
    assert refused.status_code == 400
    assert "custom_params.k" in refused.text


def test_aborts_at_either_server_spare_the_others(
    pair: Pair, mixed: list[Body], expected: list[dict[str, Any]]
) -> None:
    long = {"max_new_tokens": 400, "ignore_eos": True, "custom_params": {"led": {}}}
    body = {"input_ids": list(mixed[0][0]), "sampling_params": long}
    with ThreadPoolExecutor(8) as pool:
        others = pool.submit(ask, pair, mixed[3:11])
        doomed = []
        # The prefill server has a request for a moment, the decode server for long.
        for role, delay in (("prefill", 0.0), ("prefill", 0.03), ("decode", 1.0)):
            pair.gateway.abort_at = (role,)
            rid = f"abort-{role}-{delay}"
            doomed.append((role, pool.submit(pair.post, "/generate", body | {"rid": rid})))
            time.sleep(delay)
            assert pair.post("/abort_request", {"rid": rid}).status_code == 200
        # A client hangs up.
        with pair.post("/generate", body | {"stream": True}, stream=True) as response:
            assert next(response.iter_lines()).startswith(b"data: ")
        assert_same(others.result(), expected[3:11])
        for role, answering in doomed:
            answer = answering.result()
            ended = answer.json().get("meta_info", {}).get("finish_reason", {}).get("type")
            assert answer.status_code in (400, 499, 500, 503) or ended in ("abort", "length")
            assert role == "prefill" or ended != "length"
    assert_idle(pair.prefill, pair.decode)


def test_a_transfer_that_fails_half_way_spares_the_others(
    pair: Pair, mixed: list[Body], expected: list[dict[str, Any]], failing: Path
) -> None:
    """Its client is told, and so are others until the prefill server knows better of its partner; a
    request that decodes goes on."""

    def body(index: int) -> dict[str, Any]:
        ids, custom, sampling = mixed[index]
        return {"input_ids": list(ids), "sampling_params": sampling | {"custom_params": custom}}

    with pair.post("/generate", body(2) | {"stream": True}, stream=True) as other:
        lines = (line.removeprefix(b"data: ") for line in other.iter_lines() if line)
        next(lines)  # it decodes
        failing.touch()
        failed = pair.post("/generate", body(0))
        assert not failing.exists()
        assert failed.status_code == 500, failed.text
        assert "transfer" in failed.text.lower(), failed.text
        last = json.loads([*lines][-2])
    assert last["output_ids"] == expected[2]["output_ids"]
    deadline = time.monotonic() + 60
    while (answer := pair.post("/generate", body(0))).status_code != 200:
        assert answer.status_code == 500, answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)
    assert_same(ask(pair, mixed[:12]), expected[:12])
    assert_idle(pair.prefill, pair.decode)


def assert_idle(*servers: Server) -> None:
    """Nothing runs, waits, or holds a part of the pool."""
    deadline = time.monotonic() + 60
    for server in servers:
        while (left := server.post("/flush_cache", {})).status_code != 200:
            assert time.monotonic() < deadline, left.text
            time.sleep(0.5)


def test_a_decode_server_that_restarts(
    pair: Pair, model_path: Path, mixed: list[Body], expected: list[dict[str, Any]]
) -> None:
    """The last test of the file: the decode server is killed in mid-answer. One in its place that
    has another --led-depth is refused, request by request."""
    long = {"max_new_tokens": 400, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(pair.generate, mixed[0][0], {"led": {}}, **long)
        time.sleep(1.0)
        kill(pair.decode.process)
        assert lost.exception() is not None, "the client waits for ever, or is answered"
    with pair.another_decode_server(model_path, *FLAGS, "--led-depth", "4") as stranger:
        ids, custom, sampling = mixed[0]
        body = {"input_ids": ids, "sampling_params": sampling | {"custom_params": custom}}
        for _ in range(2):
            refused = stranger.post("/generate", body)
            assert refused.status_code == 500
            assert "--led-depth (8 on the prefill server, 4 on the decode server)" in refused.text
    assert_idle(pair.prefill)
    with pair.another_decode_server(model_path, *FLAGS) as successor:
        assert_same(ask(successor, mixed[3:11]), expected[3:11])
