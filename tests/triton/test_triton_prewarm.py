"""What a server asks for at launch: readiness or a reason, and the memory it will cost."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from kernel_cases import Request, limits_of, random_case, rows_of
from led_sglang.kernels import LedLimits, LmHeadShard, dispatch, prewarm, topk_gate, torch_impl
from led_sglang.kernels.topk_gate import PosteriorWorkspace
from led_sglang.kernels.workspace import StepWorkspace, workspace_bytes
from triton_cases import DEVICE, moved

LIMITS = LedLimits(candidates=20, depth=4, final_norm=True, entropy=True)


def ready(case, **options):  # type: ignore[no-untyped-def]
    arguments = {"batch": 4, "limits": LIMITS, "vocab": 257, "captured": 4}
    arguments["latents_dtype"] = torch.bfloat16
    return prewarm(moved(case.head(), DEVICE), **(arguments | options))


@pytest.fixture
def case():  # type: ignore[no-untyped-def]
    return random_case(1, vocab=257, hidden=40, dtype=torch.bfloat16, requests=[Request(depth=4)])


def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the implementations dispatch calls from now on."""
    calls: list[str] = []
    for module in (dispatch.torch_impl, dispatch.triton_impl):
        original = module.final_posterior

        def record(*args, module=module, original=original):  # type: ignore[no-untyped-def]
            calls.append(module.__name__.rsplit(".", 1)[-1])
            return original(*args)

        monkeypatch.setattr(module, "final_posterior", record)
    return calls


def posterior(case, limits: LedLimits) -> None:  # type: ignore[no-untyped-def]
    rows = moved(rows_of(case.requests), DEVICE)
    dispatch.final_posterior(case.logits.to(DEVICE), rows, limits)


def test_auto_takes_the_kernels_only_once_they_are_ready(
    monkeypatch: pytest.MonkeyPatch, case
) -> None:  # type: ignore[no-untyped-def]
    calls = chosen(monkeypatch)
    limits = limits_of(case.requests)
    posterior(case, limits)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", module="triton")
        assert ready(case) is None
    posterior(case, limits)
    posterior(case, replace(limits, candidates=21))
    assert calls == ["torch_impl", "triton_impl", "torch_impl"]


def test_a_kernel_that_fails_to_compile_is_named_and_torch_serves(
    monkeypatch: pytest.MonkeyPatch, case
) -> None:  # type: ignore[no-untyped-def]
    def fail(*args, **kwargs):  # type: ignore[no-untyped-def]
        raise RuntimeError("ptxas says no\nsecond line")

    from led_sglang.kernels import latent_lse

    monkeypatch.setattr(latent_lse, "latent_lse", fail)
    with pytest.warns(RuntimeWarning, match=r"kernel latent_lse failed .* ptxas says no; .* torch"):
        reason = ready(case)
    assert reason is not None
    assert "torch path" in reason
    calls = chosen(monkeypatch)
    posterior(case, limits_of(case.requests))
    assert calls == ["torch_impl"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"limits": replace(LIMITS, candidates=65), "vocab": 1000}, "candidates is 65"),
        ({"limits": replace(LIMITS, depth=65)}, "depth is 65"),
        ({"latents_dtype": torch.float32}, "latents are torch.float32"),
    ],
)
def test_sizes_the_kernels_cannot_hold_are_refused(options, reason: str, case) -> None:  # type: ignore[no-untyped-def]
    assert reason in str(ready(case, **options))


def test_weights_the_kernels_cannot_read_are_refused(case) -> None:  # type: ignore[no-untyped-def]
    assert "torch.float64" in str(ready(replace(case, weight=case.weight.double())))
    head = LmHeadShard(None, 0, 257, project=lambda x: x)
    options = {"batch": 4, "limits": LIMITS, "vocab": 257, "captured": 4}
    options["latents_dtype"] = torch.bfloat16
    assert "quantised or LoRA" in str(prewarm(head, **options))
    wide = torch.empty(1, 40_000, dtype=torch.bfloat16)
    assert "hidden size is 40000" in str(ready(replace(case, weight=wide)))


def test_nothing_is_allocated_for_a_step_after_prewarm(case) -> None:  # type: ignore[no-untyped-def]
    from led_sglang.kernels import triton_impl
    from triton_cases import triton_step

    assert ready(case) is None
    before = dict(triton_impl._POSTERIOR), dict(triton_impl._STEP)
    triton_step(case)
    assert before == (triton_impl._POSTERIOR, triton_impl._STEP)


def test_rows_of_the_preparation_count_for_no_request(case) -> None:  # type: ignore[no-untyped-def]
    from led_sglang.kernels import projected_rows

    assert ready(case) is None
    assert projected_rows() == 0


def test_workspace_is_at_most_64_mb(monkeypatch: pytest.MonkeyPatch) -> None:
    """B = 256, k = 64, d = 8 on QwQ-32B's head: H = 5120, V = 152064."""
    monkeypatch.undo()
    torch.use_deterministic_algorithms(False)
    meta = torch.device("meta")
    weight = torch.empty(152064, 5120, dtype=torch.bfloat16, device=meta)
    assert topk_gate.SPLIT_COLUMNS == 8192
    step = StepWorkspace.allocate(256, 7, 64, weight, 152064)
    posterior = PosteriorWorkspace.allocate(256, 64, 152064, meta)
    total = workspace_bytes(step) + workspace_bytes(posterior)
    assert 30e6 < total <= 64e6
    assert workspace_bytes(step) > 256 * 7 * 5120 * 2


def test_final_posterior_of_torch_and_triton_agree(case) -> None:  # type: ignore[no-untyped-def]
    rows, limits = rows_of(case.requests), limits_of(case.requests)
    ours = dispatch.final_posterior(
        case.logits.to(DEVICE), moved(rows, DEVICE), limits, impl="triton"
    )
    theirs = torch_impl.final_posterior(case.logits, rows, limits)
    assert torch.equal(ours.ids.cpu(), theirs.ids)
    for name in ("logprobs", "p1", "entropy"):
        torch.testing.assert_close(
            getattr(ours, name).cpu(), getattr(theirs, name), rtol=1e-5, atol=2e-6
        )
