"""What a server asks for at launch: a step or a reason, and the memory it will cost."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import Case, Request, limits_of, random_case, rms_norm, rows_of, step_for
from test_kernel_step import assert_matches_reference
from triton_cases import DEVICE, moved, triton_posterior, triton_step

from led_sglang.kernels import LaunchLimits, LmHeadShard, Step, TritonStep, prepare
from led_sglang.kernels.triton import posterior
from led_sglang.kernels.triton.posterior import PosteriorWorkspace
from led_sglang.kernels.triton.workspace import StepWorkspace, workspace_bytes

LIMITS = LaunchLimits(
    batch=4, candidates=20, depth=4, vocab=257, captured=4, latents_dtype=torch.bfloat16
)


def ready(case: Case, head: LmHeadShard | None = None, **changed: Any) -> Step:
    return prepare(
        moved(head or case.head(), DEVICE),
        replace(LIMITS, **changed),
        device=torch.device(DEVICE),
        final_norm=rms_norm,
    )


@pytest.fixture
def case() -> Case:
    return random_case(1, vocab=257, hidden=40, dtype=torch.bfloat16, requests=[Request(depth=4)])


def test_the_kernels_serve_what_they_are_ready_for_and_torch_the_rest(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", module="triton")
        step = ready(case)
    assert (step.name, step.reason) == ("triton", None)
    assert isinstance(step, TritonStep)
    result = triton_step(case, step)
    assert_matches_reference(case, result)
    wider = replace(case, requests=[replace(case.requests[0], candidates=21)])
    rows, limits = moved(rows_of(wider.requests), DEVICE), limits_of(wider.requests)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            final = step.final_posterior(case.logits.to(DEVICE), rows, limits)
            noise = moved(case.noise(moved(final, "cpu")), DEVICE)
            result = step.led_step(final, case.latents.to(DEVICE), rows, limits, noise)
    assert_matches_reference(wider, moved(result, "cpu"))
    assert "21 candidates" in str(step.reason)
    assert "such steps run in torch" in str(step.reason)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("led_sglang")]
    assert said == [f"{step.reason}."]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"logits": torch.zeros(1, 256)}, "256 columns, not 257"),
        ({"logits": torch.zeros(1, 257, dtype=torch.float16)}, "logits are torch.float16"),
        ({"logits": torch.zeros(1, 514)[:, ::2]}, "rows of the final logits"),
        ({}, None),
        ({"logits": torch.zeros(5, 257)}, "a step has 5 rows"),
        ({"latents": torch.zeros(1, 4, 40)}, "latents are torch.float32, not torch.bfloat16"),
        ({"latents": torch.zeros(1, 40, 4, dtype=torch.bfloat16).mT}, "rows of the latents"),
    ],
)
def test_every_misfit_is_named(changed: dict[str, Any], reason: str | None, case: Case) -> None:
    step = TritonStep(moved(case.head(), DEVICE), LIMITS, final_norm=rms_norm)
    logits = changed.get("logits", case.logits)
    requests = case.requests * len(logits)
    case = replace(case, requests=requests, logits=logits, seeds=torch.arange(len(logits)))
    case = replace(case, latents=changed.get("latents", case.latents.expand(len(logits), -1, -1)))
    rows, limits = moved(rows_of(requests), DEVICE), limits_of(requests)
    final = step.final_posterior(case.logits.to(DEVICE), rows, limits)
    noise = moved(case.noise(moved(final, "cpu")), DEVICE)
    ours = step.led_step(final, case.latents.to(DEVICE), rows, limits, noise)
    theirs = case.step(name="torch")
    assert torch.equal(ours.token_ids.cpu(), theirs.token_ids)
    assert (step.reason is None) if reason is None else reason in str(step.reason)


def test_a_kernel_that_fails_to_compile_is_named_and_torch_serves(
    monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ptxas says no\nsecond line")

    from led_sglang.kernels.triton import latent_lse

    monkeypatch.setattr(latent_lse.LatentLse, "bind", fail)
    with pytest.warns(RuntimeWarning, match=r"kernel latent_lse failed .* ptxas says no; .* torch"):
        step = ready(case)
    assert step.name == "torch"
    assert "kernel latent_lse failed" in str(step.reason)
    rows, limits = moved(rows_of(case.requests), DEVICE), limits_of(case.requests)
    final = step.final_posterior(case.logits.to(DEVICE), rows, limits)
    assert torch.equal(final.ids.cpu(), case.final().ids)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"candidates": 65, "vocab": 1000}, "candidates is 65"),
        ({"depth": 65}, "depth is 65"),
        ({"latents_dtype": torch.float32}, "latents are torch.float32"),
    ],
)
def test_sizes_the_kernels_cannot_hold_are_torchs(
    changed: dict[str, Any], reason: str, case: Case
) -> None:
    step = ready(case, **changed)
    assert step.name == "torch"
    assert reason in str(step.reason)


def test_weights_the_kernels_cannot_read_are_torchs(case: Case) -> None:
    wide = torch.empty(1, 40_000, dtype=torch.bfloat16)
    for head, reason in (
        (LmHeadShard(case.weight.double(), 0, 257), "torch.float64"),
        (LmHeadShard(wide, 0, 1), "hidden size is 40000"),
        (LmHeadShard(None, 0, 257, project=lambda x: x), "quantised or LoRA"),
    ):
        step = ready(case, head)
        assert step.name == "torch"
        assert reason in str(step.reason)


def test_a_head_without_weight_is_called() -> None:
    case = random_case(5, vocab=257, hidden=40, batch=4)
    weight = case.weight.to(DEVICE)
    head = LmHeadShard(None, 0, 257, project=lambda x: x @ weight.t())
    step = ready(case, head)
    rows, limits = moved(rows_of(case.requests), DEVICE), limits_of(case.requests)
    final = step.final_posterior(case.logits.to(DEVICE), rows, limits)
    noise = moved(case.noise(moved(final, "cpu")), DEVICE)
    result = step.led_step(final, case.latents.to(DEVICE), rows, limits, noise)
    assert_matches_reference(case, moved(result, "cpu"))


def test_nothing_is_allocated_for_a_step(case: Case) -> None:
    """Two steps leave their results in the same memory, that of the workspaces."""
    step = ready(case)
    assert isinstance(step, TritonStep)
    kept = vars(step).copy()
    triton_step(case, step)
    rows, limits = moved(rows_of(case.requests), DEVICE), limits_of(case.requests)
    final = step.final_posterior(case.logits.to(DEVICE), rows, limits)
    noise = moved(case.noise(moved(final, "cpu")), DEVICE)
    result = step.led_step(final, case.latents.to(DEVICE), rows, limits, noise)
    assert final.ids.data_ptr() == step.posterior_workspace.ids.data_ptr()
    assert result.token_ids.data_ptr() == step.workspace.token_ids.data_ptr()
    assert all(vars(step)[name] is value for name, value in kept.items())


def test_rows_of_the_preparation_count_for_no_request(case: Case) -> None:
    assert int(ready(case).projected) == 0


def test_workspace_is_at_most_64_mb(monkeypatch: pytest.MonkeyPatch) -> None:
    """B = 256, k = 64, d = 8 on QwQ-32B's head: H = 5120, V = 152064."""
    monkeypatch.undo()
    torch.use_deterministic_algorithms(False)
    meta = torch.device("meta")
    weight = torch.empty(152064, 5120, dtype=torch.bfloat16, device=meta)
    assert posterior.SPLIT_COLUMNS == 2048
    step = StepWorkspace(256, 7, 64, weight, 152064)
    scratch = PosteriorWorkspace(256, 64, 152064, meta)
    total = workspace_bytes(step) + workspace_bytes(scratch)
    assert 30e6 < total <= 64e6
    assert workspace_bytes(step) > 256 * 7 * 5120 * 2


def test_final_posterior_of_torch_and_triton_agree(case: Case) -> None:
    rows, limits = rows_of(case.requests), limits_of(case.requests)
    ours = triton_posterior(case)
    theirs = step_for(case, "torch").final_posterior(case.logits, rows, limits)
    assert torch.equal(ours.ids.cpu(), theirs.ids)
    for name in ("logprobs", "p1", "entropy"):
        torch.testing.assert_close(
            getattr(ours, name).cpu(), getattr(theirs, name), rtol=1e-5, atol=2e-6
        )
