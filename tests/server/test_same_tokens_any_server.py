"""Overlap scheduling, tensor parallelism and nodes change nothing: tokens, traces and counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from close_answers import assert_close
from harness import Body, Server, assert_led_metrics_join, serve
from nodes import serve_on_two_nodes

pytestmark = pytest.mark.served_models("tied", "trained")

COMMON = {"max_new_tokens": 48, "ignore_eos": True}
CASES: list[tuple[Any, dict[str, Any]]] = [
    ({"led": {"trace": True}}, {"temperature": 0}),
    ({"led": {"gate": "always", "layers": "release", "depth": 4}}, {"temperature": 0}),
    ({"led": {"trace": True}}, {"temperature": 0.6, "sampling_seed": 3}),
    ({"led": {"candidates": 20, "final_norm": True}}, {"temperature": 1.0, "sampling_seed": 4}),
    ({"led": {"behaviour_logprobs": True}}, {"temperature": 0.6}),
    ({"led": {"gate": "rate", "gate_rate": 0.5, "trace": True}}, {"temperature": 0.8}),
    ({"led": {"preset": "release"}}, {"temperature": 0.6, "sampling_seed": 5}),
    ({"sampler": "regular"}, {"temperature": 0.9}),
]


def everything(server: Server, prompts: list[Sequence[int]]) -> list[dict[str, Any]]:
    """Each case alone, then all in one batch; unseeded noise repeats with the order of requests."""
    bodies: list[Body] = [
        (prompt, custom, COMMON | sampling)
        for prompt, (custom, sampling) in zip(prompts, CASES, strict=False)
    ]
    answers = [server.generate_batch([body])[0] for body in bodies]
    return answers + server.generate_batch(bodies)


@pytest.fixture(scope="module")
def expected(model_path: Path, prompts: list[Sequence[int]]) -> list[dict[str, Any]]:
    with serve(model_path, "--dtype", "float32") as server:
        return everything(server, prompts)


@pytest.mark.parametrize("how", ["without overlap", "two ranks"])
def test_same_answers(
    model_path: Path,
    prompts: list[Sequence[int]],
    expected: list[dict[str, Any]],
    trained: bool,
    how: str,
) -> None:
    """Two ranks are on one node for the random model, on two nodes for the trained one."""
    flags = ("--dtype", "float32", "--enable-metrics")
    if how == "without overlap":
        serving = serve(model_path, *flags, "--disable-overlap-schedule")
    elif trained:
        serving = serve_on_two_nodes(model_path, *flags)
    else:
        serving = serve(model_path, *flags, "--tp", "2")
    with serving as server:
        before = think_tokens(server.metrics())
        answers = everything(server, prompts)
        metrics = server.metrics()
        assert server.get("/server_info").json()["nnodes"] == (
            2 if trained and how == "two ranks" else 1
        )
    # Each token is counted once, whatever the number of ranks.
    assert_led_metrics_join(metrics)
    counted = sum(a["meta_info"].get("led", {}).get("think_tokens", 0) for a in answers)
    assert think_tokens(metrics) - before == counted > 0
    for index, (ours, theirs) in enumerate(zip(answers, expected, strict=True)):
        assert ours["output_ids"] == theirs["output_ids"], f"case {index}"
        assert_close(ours["meta_info"].get("led"), theirs["meta_info"].get("led"))
        assert_close(ours["meta_info"].get("led_trace"), theirs["meta_info"].get("led_trace"))
    traces = [a["meta_info"]["led_trace"] for a in expected if "led_trace" in a["meta_info"]]
    assert any(entry.get("explored") for trace in traces for entry in trace)


def think_tokens(metrics: list[tuple[str, dict[str, str], float]]) -> float:
    return sum(value for name, _, value in metrics if name == "sglang:led_think_tokens_total")
