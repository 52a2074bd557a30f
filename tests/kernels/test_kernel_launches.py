"""What a step launches and allocates, and that the launch of the server has compiled all of it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from kernel_cases import Case, Request, limits_of, random_case, rows_of, step_for
from launch_recorder import recording
from torch import Tensor

from led_sglang.kernels import (
    Draws,
    Gate,
    LaunchLimits,
    LedLimits,
    LedResult,
    NoiseStream,
    Step,
    ThinkPhase,
    TritonStep,
)
from led_sglang.kernels.triton.workspace import StepWorkspace, workspace_bytes
from led_sglang.methods.led.params import LedParams
from led_sglang.methods.led.rows import LedBatch
from led_sglang.methods.registry import METHODS
from led_sglang.methods.rows import Layout, Row, RowTable
from led_sglang.phase import ThinkAutomaton

STREAM = NoiseStream.start(3, "cpu")
H = 64


def take(step: Step, case: Case, limits: LedLimits | None = None) -> LedResult:
    """A step of the case."""
    limits = limits or limits_of(case.requests)
    rows = rows_of(case.requests)
    return run(step, case, limits, rows, torch.zeros_like(rows.greedy))


def run(step: Step, case: Case, limits: LedLimits, rows: Any, has_seed: Tensor) -> LedResult:
    final = step.final_posterior(case.logits, rows, limits)
    noise = step.draw_noise(STREAM, case.seeds, has_seed, case.seeds, final.ids)
    return step.led_step(final, case.latents, rows, limits, noise)


def case_of(batch: int, vocab: int = 1000, **request: Any) -> Case:
    requests = [Request(gate=Gate.ALWAYS, **request)] * batch
    case = random_case(2, vocab=vocab, hidden=H, dtype=torch.bfloat16, requests=requests)
    return replace(case, logits=case.logits.float())


def ready(case: Case, batch: int, candidates: int, depth: int) -> TritonStep:
    """A prewarmed step for so many rows, candidates and layers."""
    limits = LaunchLimits(
        batch=batch,
        candidates=candidates,
        depth=depth,
        vocab=len(case.weight),
        captured=case.latents.shape[1],
        latents_dtype=torch.bfloat16,
        logits_dtypes=(torch.float32,),
    )
    step = TritonStep(case.head(), limits)
    step.prewarm()
    return step


POSTERIOR = ["split_statistics_kernel", "merge_splits_kernel"]
GATE = ["gate_kernel"]
PROJECTION = ["gather_latents_kernel", "latent_lse_kernel", "latent_partials_kernel"]
COMBINE = ["combine_kernel"]
# A step in its parts draws its noise apart.
PARTS = [*POSTERIOR, "noise_kernel", *GATE, *PROJECTION, *COMBINE]


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_the_parts_of_a_step_are_a_few_launches_and_one_addition(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(batch)
    limits, rows = limits_of(case.requests), rows_of(case.requests)
    has_seed = torch.zeros_like(rows.greedy)
    with recording(monkeypatch) as recorder:
        step = step_for(case, "triton")
        first = run(step, case, limits, rows, has_seed)
        recorder.launches.clear()
        recorder.operations.clear()
        second = run(step, case, limits, rows, has_seed)
    assert recorder.kernels == PARTS
    # The stream of noise moves on. Nothing else, and so nothing is allocated.
    assert recorder.operations == ["aten::add_"]
    for field in fields(LedResult):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, Tensor):
            assert one.data_ptr() == other.data_ptr(), field.name


def test_no_row_to_explore_with_is_no_pass_over_the_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with recording(monkeypatch) as recorder:
        case = case_of(4, depth=1)
        take(step_for(case, "triton"), case)
    assert recorder.kernels == [*POSTERIOR, "noise_kernel", *GATE, *COMBINE]


@pytest.mark.parametrize("captured", [0, 7])
def test_the_servers_step_adds_nothing_to_the_launches(
    captured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters as the server keeps them, seeds, stream: no copy, no conversion."""
    depth = captured + 1
    case = case_of(3, depth=8)
    latents = case.latents[:, :captured] if captured else case.logits.new_empty(3, 0, 1)
    params = LedParams(depth=depth, candidates=8)
    listed = [
        Row("led", params, seed=4),
        Row(),
        Row("led", replace(params, gate="always"), greedy=True),
    ]
    table = RowTable.build(listed, Layout.of(METHODS), "cpu", False)
    batch = LedBatch.of(table)
    rows = batch.rows(table.greedy, torch.full((3,), 0.6))
    draws = Draws(STREAM, table.seeds, table.has_seed, torch.arange(3))
    phase = ThinkPhase(
        ThinkAutomaton([1], [2]).device_tables(1000, "cpu"), *torch.zeros(2, 3).long(), None
    )
    token_ids = torch.zeros(3, dtype=torch.int32)

    def step_of_the_server(step: Step) -> None:
        decided = step.decide(case.logits, latents, rows, batch.limits, draws, phase)
        step.settle(token_ids, decided, phase)

    with recording(monkeypatch) as recorder:
        step = ready(case, 3, 64, depth)
        recorder.launches.clear()
        step_of_the_server(step)
        recorder.operations.clear()
        step_of_the_server(step)
    projection = PROJECTION if captured else []
    one = [*POSTERIOR, *GATE, *projection, *COMBINE, "settle_kernel"]
    assert recorder.kernels == one * 2
    assert len(one) <= 8
    assert recorder.operations == []


def test_updated_weights_keep_the_kernels_and_other_ones_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An update writes into the model's tensor, or gives it other memory."""
    case = case_of(2)
    weight = case.weight
    with recording(monkeypatch) as recorder:
        step = ready(case, 2, 8, 8)
        recorder.launches.clear()
        weight.data = weight.clone()
        take(step, case)
        assert "latent_lse_kernel" in recorder.kernels
        assert step.reason is None
        for other in (weight.half(), torch.cat([weight] * 2, dim=1)[:, :H]):
            recorder.launches.clear()
            weight.data = other
            take(step, case)
            assert "latent_lse_kernel" not in recorder.kernels
    assert "another layout: such steps run in torch" in str(step.reason)


def test_more_rows_than_a_window_take_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(600)
    with recording(monkeypatch) as recorder:
        step = TritonStep(case.head(), case.launch_limits())
        take(step, case)
    assert len(step.workspace.windows(600, 7)) == 3
    assert recorder.kernels == [*POSTERIOR, "noise_kernel", *GATE, *PROJECTION * 3, *COMBINE]


def test_memory_hardly_grows_with_the_batch() -> None:
    """SGLang allows thousands of requests by default: Qwen3-4B's head, depth 8, 64 candidates."""
    weight = torch.empty(151936, 2560, dtype=torch.bfloat16, device="meta")
    usual, largest = (
        workspace_bytes(StepWorkspace(batch, 7, 64, weight, 151936)) for batch in (256, 4096)
    )
    assert usual < 32e6
    assert largest < 64e6


# 1000 columns are no multiple of 16, so their rows are aligned in a padded head only.
@pytest.mark.parametrize("vocab", [1000, 1024])
def test_the_launch_compiles_whatever_a_step_may_ask_for(
    vocab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 40
    case = case_of(batch, vocab)
    with recording(monkeypatch) as recorder:
        step = ready(case, batch, 64, 8)
        compiled = set(recorder.launches)
        recorder.launches.clear()
        for used in (1, 2, 5, 9, 40):
            for candidates, depth in ((1, 1), (8, 8), (9, 2), (20, 5), (33, 7), (64, 8)):
                for entropy in (False, True):
                    part = replace(case_of(used, vocab, candidates=candidates, depth=depth))
                    part = replace(part, latents=case.latents[:used])
                    take(step, part, LedLimits(candidates, depth, False, entropy))
        padded = torch.zeros(batch, 1024)[:, :vocab]
        take(step, replace(case, logits=padded))
        # Columns of a larger table start anywhere.
        rows = rows_of([*case.requests, case.requests[0]])
        rows = replace(rows, **{n: getattr(rows, n)[1:] for n in vars(rows)})
        run(step, case, limits_of(case.requests), rows, torch.zeros(batch + 1).bool()[1:])
    # The noise of the parts is nobody's but a check's.
    assert {name for name, _ in recorder.launches} == set(PARTS)
    assert len(recorder.launches) > 400
    assert step.reason is None
    missing = set(recorder.launches) - compiled
    assert {name for name, _ in missing} == {"noise_kernel"}


def test_a_variant_that_was_not_compiled_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(4)
    with recording(monkeypatch) as recorder:
        ready(case, 4, 8, 8)
        compiled = set(recorder.launches)
        recorder.launches.clear()
        wider = case_of(4, candidates=20)
        take(step_for(wider, "triton"), wider)
    assert set(recorder.launches) - compiled


def test_the_torch_path_is_many_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder sees torch's operations; the fallback costs that many launches."""
    with recording(monkeypatch) as recorder:
        case = case_of(4)
        take(step_for(case, "torch"), case)
    assert not recorder.launches
    assert len(recorder.operations) > 100
