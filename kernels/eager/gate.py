"""Who explores, and which latent layers that takes, in plain torch (docs/method.md#gate)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import FinalPosterior, Gate, LedLimits, LedRows, StepNoise


@dataclass(frozen=True)
class Decision:
    """What the gates said. D = LedLimits.depth."""

    explored: Tensor  # [B] bool
    probability: Tensor  # [B] float64, to explore; 0 where the row may not
    projected: Tensor  # [B] bool: the row's latents go through the LM head
    layer_live: Tensor  # [B, D] bool: layers the row sums over; the final one, 0, always counts


def gate_rows(
    final: FinalPosterior, rows: LedRows, limits: LedLimits, noise: StepNoise
) -> Decision:
    """The gate of every row; it needs the final posterior alone, and most rows end here."""
    may_explore = rows.owns & rows.thinks
    probability = torch.where(may_explore, _explore_probability(final, rows, limits), 0.0)
    explored = noise.gate < probability
    projected = explored | (may_explore & rows.projects)
    layer = torch.arange(limits.depth, device=explored.device)
    layer_live = (layer == 0) | (projected[:, None] & (layer < rows.depth[:, None]))
    return Decision(explored, probability, projected, layer_live)


def _explore_probability(final: FinalPosterior, rows: LedRows, limits: LedLimits) -> Tensor:
    """[B] float64, whoever may explore. Greedy rows take the likelier side: 0 or 1."""
    probability = 1.0 - final.p1.double()
    if Gate.ALWAYS in limits.gates:
        probability = torch.where(rows.gate == Gate.ALWAYS, 1.0, probability)
    if Gate.NEVER in limits.gates:
        probability = torch.where(rows.gate == Gate.NEVER, 0.0, probability)
    if Gate.ENTROPY in limits.gates:
        above = (final.entropy > rows.gate_value).double()
        probability = torch.where(rows.gate == Gate.ENTROPY, above, probability)
    if Gate.RATE in limits.gates:
        probability = torch.where(rows.gate == Gate.RATE, rows.gate_value.double(), probability)
    if limits.greedy:
        likelier = (probability > 0.5).double()
        probability = torch.where(rows.greedy & ~rows.random_gate, likelier, probability)
    return probability
