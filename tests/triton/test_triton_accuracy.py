"""Probabilities at a real width, of logits as models have them (docs/method.md#numerics)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kernel_cases import Case, Request, limits_of, random_case, rms_norm, rows_of
from torch import Tensor
from triton.runtime import interpreter
from triton_cases import DEVICE, moved, triton_step

from led_sglang.kernels import EagerStep, Gate

V = 389
T = 0.6
# What the kernels add to the product: fp32 roundings of logits up to 25 / T.
ADDED = 2e-5
NEVER_MORE = 2e-3


def real_case(hidden: int) -> Case:
    """Logits of which the largest is around 25, as a real model's are."""
    case = random_case(
        hidden, vocab=V, hidden=8, dtype=torch.bfloat16, requests=[Request(gate=Gate.ALWAYS)] * 2
    )
    generator = torch.Generator().manual_seed(hidden)
    latents = torch.randn(2, 7, hidden, generator=generator) * 8.0
    weight = torch.randn(V, hidden, generator=generator) / hidden**0.5
    case = replace(case, latents=latents.bfloat16(), weight=weight.bfloat16())
    assert 20.0 < exact(case).abs().max() < 40.0
    return case


def exact(case: Case) -> Tensor:
    """z of every latent row, nearest the final layer first: [B, 7, V] float64."""
    return case.latents.flip(1).double() @ case.weight.double().t()


def posteriors(z: Tensor, of: Tensor, ids: Tensor) -> Tensor:
    """exp(of / T) over the sum of exp(z / T), at the ids: [B, 7, K] float64."""
    lse = (z / T).logsumexp(2, keepdim=True)
    return (of / T - lse).exp().gather(2, ids[:, None].expand(-1, 7, -1))


def error(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() / truth - 1.0).abs().max())


def truncated(x: np.ndarray) -> np.ndarray:
    """float64 to float32 towards zero."""
    near = x.astype(np.float32)
    return np.where(np.abs(near) > np.abs(x), np.nextafter(near, np.float32(0.0)), near)


def truncating_product(a: np.ndarray, b: np.ndarray, z: np.ndarray) -> np.ndarray:
    """z + a b as tensor cores may add: sixteen products at a time, the rest of the bits cut off."""
    for k in range(0, a.shape[1], 16):
        part = a[:, k : k + 16].astype(np.float64) @ b[k : k + 16].astype(np.float64)
        z = truncated(z.astype(np.float64) + part)
    return z


@pytest.mark.parametrize("hidden", [2560, 5120])
def test_no_worse_than_twice_torchs_error(hidden: int) -> None:
    case = real_case(hidden)
    ours = triton_step(case)
    on_device = moved(case.head(), DEVICE)
    torch_step = EagerStep(on_device, final_norm=rms_norm)
    rows, limits = moved(rows_of(case.requests), DEVICE), limits_of(case.requests)
    final = torch_step.final_posterior(case.logits.to(DEVICE), rows, limits)
    noise = moved(case.noise(moved(final, "cpu")), DEVICE)
    theirs = torch_step.led_step(final, case.latents.to(DEVICE), rows, limits, noise)
    truth = posteriors(exact(case), exact(case), ours.candidate_ids)
    off = error(ours.layer_probs[:, 1:], truth)
    assert off <= 2.0 * error(theirs.layer_probs[:, 1:].cpu(), truth) + ADDED
    assert off <= NEVER_MORE


if DEVICE == "cpu":

    @pytest.mark.parametrize("hidden", [2560, 5120])
    def test_folding_and_combining_add_nothing_to_a_truncated_product(
        hidden: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
            return interpreter.TensorHandle(truncating_product(a.data, b.data, d.data), d.dtype)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
        case = real_case(hidden)
        ours = triton_step(case)
        rows = case.latents.flip(1).reshape(-1, hidden).float().numpy()
        z = truncating_product(
            case.weight.float().numpy(), rows.T, np.zeros((V, len(rows)), np.float32)
        )
        cut = torch.from_numpy(z).double().t().reshape(2, 7, V)
        # The candidates' own logits are not a product of tensor cores.
        expected = posteriors(cut, exact(case), ours.candidate_ids)
        assert error(ours.layer_probs[:, 1:], expected) <= ADDED
        off = error(expected, posteriors(exact(case), exact(case), ours.candidate_ids))
        assert 2.0 * ADDED < off <= NEVER_MORE, "the model of truncation matters, and is allowed"
