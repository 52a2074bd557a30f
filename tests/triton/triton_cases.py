"""Cases of tests/kernels, run through the Triton kernels on whatever device there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from kernel_cases import Case, limits_of, rms_norm, rows_of
from led_sglang.kernels import (
    FinalPosterior,
    LedLimits,
    LedResult,
    LmHeadShard,
    final_posterior,
    led_step,
)
from torch import Tensor

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def moved(record: Any, device: str) -> Any:
    """A copy of the dataclass with its tensors on a device."""
    tensors = {f.name: getattr(record, f.name) for f in fields(record)}
    return replace(
        record, **{n: t.to(device, copy=True) for n, t in tensors.items() if isinstance(t, Tensor)}
    )


def triton_posterior(case: Case, limits: LedLimits | None = None) -> FinalPosterior:
    return final_posterior(
        case.logits.to(DEVICE),
        moved(rows_of(case.requests), DEVICE),
        limits or limits_of(case.requests),
        impl="triton",
    )


def triton_step(
    case: Case,
    *,
    head: LmHeadShard | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
    limits: LedLimits | None = None,
) -> LedResult:
    """K0 to K4 on the case; the result's tensors are on the CPU."""
    limits = limits or limits_of(case.requests)
    final = triton_posterior(case, limits)
    noise = case.noise(moved(final, "cpu"))
    result = led_step(
        final,
        case.latents.to(DEVICE),
        moved(rows_of(case.requests), DEVICE),
        limits,
        moved(head or case.head(), DEVICE),
        moved(noise, DEVICE),
        final_norm=rms_norm,
        all_gather=all_gather,
        impl="triton",
    )
    return moved(result, "cpu")
