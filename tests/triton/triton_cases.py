"""Cases of tests/kernels, run through the Triton kernels on whatever device there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from kernel_cases import Case, limits_of, rms_norm, rows_of
from torch import Tensor

from led_sglang.kernels import (
    FinalPosterior,
    LaunchLimits,
    LedLimits,
    LedResult,
    LmHeadShard,
    TritonStep,
)

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def moved(record: Any, device: str) -> Any:
    """A copy of the dataclass with its tensors on a device."""
    tensors = {f.name: getattr(record, f.name) for f in fields(record)}
    return replace(
        record, **{n: t.to(device, copy=True) for n, t in tensors.items() if isinstance(t, Tensor)}
    )


def prepared(
    case: Case,
    *,
    head: LmHeadShard | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
    limits: LaunchLimits | None = None,
) -> TritonStep:
    """The kernels' step, its memory that of the case unless `limits` say otherwise."""
    return TritonStep(
        moved(head or case.head(), DEVICE),
        limits or case.launch_limits(),
        final_norm=rms_norm,
        all_gather=all_gather,
    )


def triton_posterior(case: Case, step: TritonStep | None = None) -> FinalPosterior:
    """On the device."""
    step = step or prepared(case)
    final = step.final_posterior(
        case.logits.to(DEVICE), moved(rows_of(case.requests), DEVICE), limits_of(case.requests)
    )
    assert step.reason is None
    return final


def triton_step(
    case: Case,
    step: TritonStep | None = None,
    *,
    head: LmHeadShard | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
    limits: LedLimits | None = None,
) -> LedResult:
    """The whole step in kernels, none of it in torch; the result's tensors are on the CPU."""
    step = step or prepared(case, head=head, all_gather=all_gather)
    limits = limits or limits_of(case.requests)
    rows = moved(rows_of(case.requests), DEVICE)
    final = step.final_posterior(case.logits.to(DEVICE), rows, limits)
    noise = case.noise(moved(final, "cpu"))
    latents = case.latents.to(DEVICE)
    result = step.led_step(final, latents, rows, limits, moved(noise, DEVICE))
    assert step.reason is None
    return moved(result, "cpu")
