"""Every launch that a step within the limits may need, so that no request meets a compiler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..types import Draws, Gate, LaunchLimits, LedLimits, LedRows, LmHeadShard, NoiseStream

if TYPE_CHECKING:
    from .step import TritonStep


def launches(
    step: TritonStep, head: LmHeadShard, limits: LaunchLimits
) -> list[tuple[str, Callable[[], object]]]:
    """(part of the step, its compilation and first launch) for every variant of a kernel that a
    step within these limits may need.

    One exploring row runs through all of them in the order of a step.

    Args:
        step: whose launches they are.
        head: its shard; it has a weight.
        limits: the largest step.
    """
    weight = head.weight
    assert weight is not None
    device, layers, largest, vocab = weight.device, limits.layers, limits.slots, limits.vocab
    latents = torch.randn(1, limits.captured, weight.shape[1], device=device)
    latents = latents.to(limits.latents_dtype)
    rows = _exploring_row(limits, device)
    position = torch.zeros(1, dtype=torch.int64, device=device)
    draws = Draws(NoiseStream.start(0, device), position, rows.owns, position)
    listed: list[tuple[str, Callable[[], object]]] = []

    # KEEP is a power of two of at least 8, so these candidate counts cover every other.
    counts = sorted({min(k, largest) for k in (8, 16, 32, 64)})
    for k, stride, dtype, entropy in product(
        counts, _row_strides(vocab), limits.logits_dtypes, (False, True)
    ):
        logits = torch.randn(1, stride, device=device).to(dtype)[:, :vocab]
        part = LedLimits(k, limits.depth, False, entropy)
        staying = step.plan(rows, part).posterior
        posterior = partial(step.posterior, None, logits, part, draws, staying, binds=True)
        listed.append(("posterior", posterior))

    plan = step.plan(rows, LedLimits(largest, limits.depth, False, False))
    listed.append(("gate", partial(step.gate.bind, plan.gate)))
    if layers > 0:
        listed.append(("gather", partial(step.gather.bind, latents, plan.gather)))
        # Steps of few rows and of many have each their launch.
        for at_most in (1, step.workspace.window):
            listed.append(("latent_lse", partial(step.latent_lse.bind, at_most)))
        listed.append(("partials", partial(step.partials.bind, plan.partials)))
    gathered = step.workspace.partials.new_zeros(1, layers, largest + 2)
    listed.append(("combine", partial(step.combine.bind, gathered, plan.combine)))
    listed.append(("settle", step.settled.bind))
    return listed


def _row_strides(vocab: int) -> tuple[int, ...]:
    """Strides of the final logits' rows: Triton compiles for multiples of 16 and for others, and a
    vocabulary padded to 64 has the one where the bare vocabulary may have the other."""
    padded = -(-vocab // 64) * 64
    return (padded,) if vocab % 16 == 0 else (padded, vocab)


def _exploring_row(limits: LaunchLimits, device: torch.device) -> LedRows:
    def of(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((1,), value, dtype=dtype, device=device)

    no, yes = of(0, torch.bool), of(1, torch.bool)
    return LedRows(
        temperature=of(0.6, torch.float32),
        greedy=no,
        depth=of(limits.depth, torch.int64),
        candidates=of(limits.candidates, torch.int64),
        candidate_top_p=of(1.0, torch.float32),
        floor=of(0.0, torch.float32),
        final_norm=no,
        normalize_layers=no,
        release_layers=no,
        gate=of(Gate.ALWAYS, torch.int64),
        gate_value=of(0.0, torch.float32),
        random_gate=no,
        owns=yes,
        thinks=yes,
        projects=no,
    )
