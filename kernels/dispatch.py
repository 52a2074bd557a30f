"""One entry point per operation; ``impl`` chooses who computes it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from torch import Tensor

from . import torch_impl
from .types import FinalPosterior, LedLimits, LedResult, LedRows, LmHeadShard, StepNoise

IMPLEMENTATIONS: dict[str, ModuleType] = {"auto": torch_impl, "torch": torch_impl}


def _implementation(impl: str) -> ModuleType:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}: choose one of {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[impl]


def final_posterior(
    logits: Tensor, rows: LedRows, limits: LedLimits, *, impl: str = "auto"
) -> FinalPosterior:
    """Steps 1 and 2; see ``torch_impl.final_posterior``. ValueError for an unknown ``impl``."""
    result: FinalPosterior = _implementation(impl).final_posterior(logits, rows, limits)
    return result


def led_step(
    final: FinalPosterior,
    latents: Tensor,
    rows: LedRows,
    limits: LedLimits,
    head: LmHeadShard,
    noise: StepNoise,
    *,
    final_norm: Callable[[Tensor], Tensor] | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
    impl: str = "auto",
) -> LedResult:
    """Steps 3 to 7; see ``torch_impl.led_step``. ValueError for an unknown ``impl``."""
    result: LedResult = _implementation(impl).led_step(
        final,
        latents,
        rows,
        limits,
        head,
        noise,
        final_norm=final_norm,
        all_gather=all_gather,
    )
    return result
