"""Two pipeline stages, of one rank and of two, answer as one stage does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from close_answers import assert_close, sampling_sets
from harness import PLAIN_COMMAND, PLAIN_ENVIRONMENT, Server, serve
from test_regular_unchanged import (
    LED_ROWS,
    REGULAR,
    Answers,
    batches,
    in_batches,
    one_at_a_time,
)
from test_same_tokens_any_server import think_tokens

from led_sglang.models.random_qwen3 import write_random_qwen3

STAGES = ("--dtype", "float32", "--pp-size", "2")
# The last stage holds just the 8 layers that depth 8 reads: h^4 is what the first one sends.
PARTITION = {"SGLANG_PP_LAYER_PARTITION": "4,8"}
LED_FLAGS = (
    *("--enable-samplers", "led,dola", "--dola-layers", "4,6,8,10", "--led-depth", "8"),
    *("--sampling-mask-max-tokens", "32", "--enable-metrics"),
)
SEEN = {"trace": True, "behaviour_logprobs": True}
CASES: list[tuple[Any, float]] = [
    ({"led": SEEN}, 0.6),
    ({"sampler": "dola", "dola": {"layers": [4, 8]}}, 0.7),
    ({"led": {"gate": "always", "layers": "release", "depth": 8} | SEEN}, 0.8),
    (REGULAR, 0.0),  # the engine keeps no seeds for these
    ({"led": {"candidates": 20, "final_norm": True, "logprobs": "behaviour"}}, 1.0),
    ({"led": {"gate": "rate", "gate_rate": 0.5, "logprobs": "behaviour"} | SEEN}, 0.8),
    ({"sampler": "dola", "dola": {"layers": [6, 10], "divergence": "jensen-shannon"}}, 0.9),
]
COMPARED = ("output_token_logprobs", "led", "led_trace", "led_behaviour_logprobs")


def bodies(
    prompts: list[Sequence[int]], think_ids: tuple[int, int], count: int
) -> list[dict[str, Any]]:
    """Seeded requests of every kind, a third of them with sampling masks; half end their thought
    soon."""
    made = []
    for i in range(count):
        custom, temperature = CASES[i % len(CASES)]
        sampling = {
            "custom_params": custom,
            "temperature": temperature,
            "sampling_seed": 100 + i,
            "max_new_tokens": 8 + 6 * (i % 5),
            "ignore_eos": True,
        }
        if i % 2:
            sampling["logit_bias"] = {str(think_ids[1]): 3.5, str(think_ids[0]): 2.5}
        body = {"input_ids": list(prompts[i % len(prompts)]), "return_logprob": True}
        if i % 3 == 0:
            sampling["top_k"] = 12
            body |= {"return_sampling_mask": True, "sampling_logprobs_mode": "support"}
        made.append(body | {"sampling_params": sampling})
    return made


def ask(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    response = server.post("/generate", body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ask_all(server: Server, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """They come as they come: stages form other batches of them each time."""
    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(lambda body: ask(server, body), asked))


def hang_up(server: Server, body: dict[str, Any]) -> None:
    """A client that reads a little of a long stream and leaves."""
    sampling = body["sampling_params"] | {"max_new_tokens": 400}
    streamed = body | {"sampling_params": sampling, "stream": True}
    with requests.post(server.url + "/generate", json=streamed, stream=True, timeout=60) as reply:
        lines = [line for _, line in zip(range(4), reply.iter_lines(), strict=False)]
    assert lines[0].startswith(b"data: {")


def assert_same(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for index, (ours, theirs) in enumerate(zip(answers, expected, strict=True)):
        assert ours["output_ids"] == theirs["output_ids"], f"request {index}"
        for key in COMPARED:
            assert_close(ours["meta_info"].get(key), theirs["meta_info"].get(key))
        assert_close(sampling_sets(ours), sampling_sets(theirs))


def update(server: Server, model: Path) -> None:
    body = {"model_path": str(model)}
    assert server.post("/update_weights_from_disk", body).json()["success"]


@pytest.fixture(scope="module")
def asked(prompts: list[Sequence[int]], think_ids: tuple[int, int]) -> list[dict[str, Any]]:
    return bodies(prompts, think_ids, 70)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_qwen3(tmp_path_factory.mktemp("models") / "other", seed=9, dtype="float32")


@dataclass(frozen=True)
class Expected:
    """What one stage answers, then with other weights."""

    answers: list[dict[str, Any]]
    with_other_weights: list[dict[str, Any]]


@pytest.fixture(scope="module")
def expected(model_path: Path, asked: list[dict[str, Any]], other_model: Path) -> Expected:
    with serve(model_path, "--dtype", "float32", *LED_FLAGS) as server:
        answers = ask_all(server, asked)
        update(server, other_model)
        return Expected(answers, ask_all(server, asked[:7]))


Regular = tuple[Answers, list[Answers]]


@dataclass(frozen=True)
class Stages:
    """A running server of two stages.

    Attributes:
        ranks: of each.
        regular: its first answers, from the random stream as it starts.
    """

    server: Server
    ranks: int
    regular: Regular


@pytest.fixture(scope="module", params=[1, 2])
def stages(
    request: pytest.FixtureRequest, model_path: Path, prompts: list[Sequence[int]]
) -> Iterator[Stages]:
    ranks = request.param
    with serve(model_path, *STAGES, *LED_FLAGS, "--tp", str(ranks), env=PARTITION) as server:
        alone = one_at_a_time(server, prompts, REGULAR)
        mixed = in_batches(server, batches(prompts, REGULAR, LED_ROWS))
        yield Stages(server, ranks, (alone, mixed))


@pytest.fixture(scope="module")
def plain(stages: Stages, model_path: Path, prompts: list[Sequence[int]]) -> Regular:
    """What as many ranks answer without the plugin, alone and in batches."""
    cores = "|".join(["0|1"] * stages.ranks)
    env = PLAIN_ENVIRONMENT | PARTITION | {"SGLANG_CPU_OMP_THREADS_BIND": cores}
    flags = (*STAGES, "--tp", str(stages.ranks))
    with serve(model_path, *flags, command=PLAIN_COMMAND, env=env) as server:
        return (
            one_at_a_time(server, prompts, None),
            in_batches(server, batches(prompts, None, [None])),
        )


def test_sixty_seeded_and_ten_regular_requests(
    stages: Stages, asked: list[dict[str, Any]], expected: Expected
) -> None:
    """While other clients come and hang up."""
    seeded = [b for b in asked if b["sampling_params"]["custom_params"] != REGULAR]
    assert (len(seeded), len(asked)) == (60, 70)
    before = think_tokens(stages.server.metrics())
    with ThreadPoolExecutor(4) as pool:
        leaving = [pool.submit(hang_up, stages.server, asked[i]) for i in (0, 1, 2, 4)]
        answers = ask_all(stages.server, asked)
        for left in leaving:
            left.result()
    assert_same(answers, expected.answers)
    traces = [a["meta_info"].get("led_trace", []) for a in answers]
    assert sum(bool(entry.get("explored")) for trace in traces for entry in trace) > 100
    assert {entry["phase"] for trace in traces for entry in trace} == {"think", "response"}
    assert sum(len(sampling_sets(answer)) for answer in answers) > 300
    metrics = stages.server.metrics()
    counted = sum(a["meta_info"].get("led", {}).get("think_tokens", 0) for a in answers)
    assert think_tokens(metrics) - before >= counted > 0


def test_the_first_stage_tells_of_the_last(stages: Stages, asked: list[dict[str, Any]]) -> None:
    """Each token is counted once, by the only rank that shows LED's metrics."""
    before = think_tokens(stages.server.metrics())
    totals = stages.server.get("/server_info").json()["internal_states"][0]["led"]["totals"]
    answers = ask_all(stages.server, asked[:7])
    counted = sum(a["meta_info"].get("led", {}).get("think_tokens", 0) for a in answers)
    metrics = stages.server.metrics()
    assert think_tokens(metrics) - before == counted > 0
    ours = [(name, labels) for name, labels, _ in metrics if name.startswith("sglang:led_")]
    assert {(labels["pp_rank"], labels["tp_rank"]) for _, labels in ours} == {("0", "0")}
    info = stages.server.get("/server_info").json()
    assert (info["pp_size"], info["tp_size"]) == (2, stages.ranks)
    led = info["internal_states"][0]["led"]
    assert led["kernels"] == "cpu"
    assert led["self_check"]["finding"] is None
    assert led["self_check"]["seconds"] > 0.0  # the last stage's: the first one checks nothing
    assert led["settings"]["captured_layers"] == [11, 10, 9, 8, 7, 6, 5, 4]
    assert led["settings"]["stage_start"] == 4
    proof = led["truncation_check"]
    assert proof["skipped"] is None
    captured = led["settings"]["captured_layers"]
    assert set(proof["layers"]) == {f"h^{layer}" for layer in captured}
    assert all(own <= 1e-3 < other / 3 for own, other in proof["layers"].values())
    for key in ("think_tokens", "projected_rows", "steps"):
        assert led["totals"][key] > totals[key]
    log = stages.server.ready_log()
    assert "of 12 layers, on the last pipeline stage, which begins at layer 4\n" in log
    assert "kernels  cpu" in log


def test_regular_requests_are_a_plain_servers(stages: Stages, plain: Regular) -> None:
    """Tokens, and log-probabilities to the bit, beside rows of LED too."""
    (alone, mixed), (plain_alone, plain_batches) = stages.regular, plain
    assert alone == plain_alone
    for ours, theirs in zip(mixed, plain_batches, strict=True):
        assert ours[0::2] == theirs[0::2]
        assert ours[1::2] != theirs[1::2], "LED rows were sampled plainly"


def test_weights_replaced(
    stages: Stages, asked: list[dict[str, Any]], expected: Expected, other_model: Path
) -> None:
    """Runs last."""
    update(stages.server, other_model)
    assert_same(ask_all(stages.server, asked[:7]), expected.with_other_weights)
