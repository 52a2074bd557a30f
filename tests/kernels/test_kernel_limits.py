"""What no row of a batch asks for is left out, and the rest of the step does not notice."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from kernel_cases import (
    RESULT_TENSORS,
    Case,
    Request,
    limits_of,
    random_case,
    random_request,
    rms_norm,
    rows_of,
    step_for,
)

from led_sglang.kernels import Gate, LedLimits, LedResult
from led_sglang.methods.led.params import LedParams
from led_sglang.methods.led.rows import LedBatch
from led_sglang.methods.registry import METHODS
from led_sglang.methods.rows import Layout, Row, RowTable

pytestmark = pytest.mark.usefixtures("each_path")

# What needs no computation in a row, and how the limits say that all rows are like that.
PLAIN = {
    "greedy": ({"greedy": False}, {"greedy": False}),
    "nucleus": ({"candidate_top_p": 1.0}, {"nucleus": False}),
    "floor": ({"floor": 0.0}, {"floor": False}),
    "normalize": ({"normalize_layers": False}, {"normalize_layers": False}),
    "confidence": (
        {"gate": Gate.CONFIDENCE, "gate_value": 0.0},
        {"gates": frozenset({Gate.CONFIDENCE})},
    ),
    "rate": ({"gate": Gate.RATE, "gate_value": 0.4}, {"gates": frozenset({Gate.RATE})}),
}


def whole_step(case: Case, limits: LedLimits) -> LedResult:
    rows = rows_of(case.requests)
    step = step_for(case, final_norm=rms_norm)
    final = step.final_posterior(case.logits, rows, limits)
    return step.led_step(final, case.latents, rows, limits, case.noise(final))


def assert_equal(ours: LedResult, theirs: LedResult, *but: str) -> None:
    for name in set(RESULT_TENSORS) - set(but):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.projected_rows == theirs.projected_rows


@pytest.mark.parametrize("name", [*PLAIN, "all"])
def test_tight_limits_change_nothing(name: str) -> None:
    rng = random.Random(5)
    requests = [random_request(rng) for _ in range(24)]
    names = [key for key in PLAIN if key != "rate"] if name == "all" else [name]
    chosen = [PLAIN[key] for key in names]
    tight: dict[str, object] = {}
    for fields, limits in chosen:
        requests = [replace(request, **fields) for request in requests]
        tight |= limits
    case = random_case(5, vocab=501, hidden=32, requests=requests)
    loose = limits_of(requests)
    assert_equal(whole_step(case, replace(loose, **tight)), whole_step(case, loose))


def test_the_behaviour_nobody_asks_for_is_unknown() -> None:
    case = random_case(3, vocab=501, hidden=32)
    loose = limits_of(case.requests)
    full = whole_step(case, loose)
    found = whole_step(case, replace(loose, behaviour=False))
    assert_equal(found, full, "behaviour_probs", "behaviour_logprob")
    assert (full.behaviour_probs > 0).any()
    assert (found.behaviour_probs == 0).all()
    assert (found.behaviour_logprob == -torch.inf).all()


def test_a_step_that_projects_nothing_equals_one_among_others() -> None:
    """The short way round of a batch that nowhere explores."""
    never = [Request(gate=Gate.NEVER, depth=d) for d in (1, 4, 8)]
    case = random_case(4, vocab=501, hidden=32, requests=[*never, Request(gate=Gate.ALWAYS)])
    together = whole_step(case, limits_of(case.requests))
    alone = replace(
        case,
        requests=never,
        logits=case.logits[:3],
        latents=case.latents[:3],
        seeds=case.seeds[:3],
    )
    found = whole_step(alone, limits_of(case.requests))
    assert found.projected_rows == 0
    assert together.projected_rows > 0
    for name in RESULT_TENSORS:
        assert torch.equal(getattr(found, name), getattr(together, name)[:3]), name


@pytest.mark.parametrize(
    ("changed", "greedy", "expected"),
    [
        ({}, False, {}),
        ({}, True, {"greedy": True}),
        ({"candidate_top_p": 0.9}, False, {"nucleus": True}),
        ({"floor": 1e-6}, False, {"floor": True}),
        ({"normalize_layers": True}, False, {"normalize_layers": True}),
        ({"behaviour_logprobs": True}, False, {"behaviour": True}),
        ({"trace": True}, False, {"behaviour": True, "entropy": True}),
        (
            {"gate": "rate", "gate_rate": 0.5},
            False,
            {"gates": frozenset({Gate.CONFIDENCE, Gate.RATE})},
        ),
    ],
)
def test_limits_name_what_a_batch_holds(
    changed: dict[str, object], greedy: bool, expected: dict[str, object]
) -> None:
    plain = LedParams(depth=4, candidates=6)
    rows = [Row("led", plain), Row("led", replace(plain, **changed), greedy=greedy), Row()]
    table = RowTable.build(rows, Layout.of(METHODS), "cpu", pin=False)
    nothing = LedLimits(
        candidates=6,
        depth=4,
        final_norm=False,
        entropy=False,
        behaviour=False,
        greedy=False,
        nucleus=False,
        floor=False,
        normalize_layers=False,
        gates=frozenset({Gate.CONFIDENCE}),
    )
    assert LedBatch.of(table).limits == replace(nothing, **expected)
