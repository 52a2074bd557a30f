"""A batch that no model has made: every kind of request, logits as real models have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .eager.latent_lse import logits_blocks
from .types import Gate, LaunchLimits, LedLimits, LedRows, LmHeadShard

# [M, H] -> [M, V], logits of hidden states over the whole vocabulary.
LogitsOf = Callable[[Tensor], Tensor]

# Of the final logits, as real models have them; the rows take turns.
_PEAKS = (25.0, 12.0, 18.0, 8.0)
# Hidden states so small that a soft cap is still a straight line.
_SMALL = 1e-2
_SEED = 7


@dataclass(frozen=True)
class SyntheticBatch:
    """What a step takes: B requests that differ in everything that a request may set.

    Attributes:
        hidden: [B, H] normed hidden states of the final layer, of the latents' type.
        logits: [B, V] final logits, what `logits_of` makes of them.
        latents: [B, C, H], deepest first.
        rows, limits: of the batch.
        seeds, positions: [B] int64.
        has_seed: [B] bool.
    """

    hidden: Tensor
    logits: Tensor
    latents: Tensor
    rows: LedRows
    limits: LedLimits
    seeds: Tensor
    has_seed: Tensor
    positions: Tensor


def own_logits(head: LmHeadShard) -> LogitsOf:
    """Logits by the head itself, in fp32, where one rank holds the whole vocabulary."""

    def logits_of(hidden: Tensor) -> Tensor:
        logits = torch.empty(len(hidden), head.valid, device=hidden.device)
        for at, block, z in logits_blocks(hidden, head, chunk=4096):
            logits[at, block] = z
        return logits

    return logits_of


def synthetic_batch(
    limits: LaunchLimits,
    hidden_size: int,
    logits_of: LogitsOf,
    *,
    device: torch.device,
    rows: int = 16,
    final_norm: bool = True,
) -> SyntheticBatch:
    """A batch with logits as real models have them, equal on every rank.

    The hidden states of a row share a direction that deeper layers have less of, and are so long
    that the final logits reach 25, 12, 18 or 8.

    Args:
        limits: the largest step, which the batch stays within.
        hidden_size: H.
        logits_of: called twice with [rows, H] of `limits.latents_dtype`.
        device: where the steps run.
        rows: B; the first 16 hold every gate, depth and switch.
        final_norm: whether the steps have the model's final norm.
    """
    count = min(rows, limits.batch)
    generator = torch.Generator().manual_seed(_SEED)
    direction = torch.randn(count, hidden_size, generator=generator)
    noise = torch.randn(count, limits.captured, hidden_size, generator=generator)
    # Deepest first: from little in common with the final layer to much.
    shared = torch.linspace(0.7, 0.98, max(limits.captured, 1))[: limits.captured, None]
    latents = shared * direction[:, None] + (1.0 - shared.square()).sqrt() * noise
    direction, latents = direction.to(device), latents.to(device)

    small = logits_of((direction * _SMALL).to(limits.latents_dtype)).float()
    peak = torch.tensor([_PEAKS[i % len(_PEAKS)] for i in range(count)]).to(device)
    length = _SMALL * peak / small.amax(1).clamp(min=1e-6)
    hidden = (direction * length[:, None]).to(limits.latents_dtype)
    asked = _mixed_rows(count, limits, final_norm, device)
    return SyntheticBatch(
        hidden=hidden,
        logits=logits_of(hidden).to(limits.logits_dtypes[0]),
        latents=(latents * length[:, None, None]).to(limits.latents_dtype),
        rows=asked,
        limits=LedLimits(
            candidates=limits.candidates,
            depth=int(asked.depth.max()),
            final_norm=bool(asked.final_norm.any()),
            entropy=True,
        ),
        seeds=(torch.arange(count) * 7919 - 3).to(device),
        has_seed=(torch.arange(count) % 3 > 0).to(device),
        positions=(torch.arange(count) * 31).to(device),
    )


def _mixed_rows(
    count: int, limits: LaunchLimits, final_norm: bool, device: torch.device
) -> LedRows:
    """Requests in which periods without a common factor bring everything beside everything."""
    deepest, most = limits.depth, limits.candidates

    def turns(*values: float) -> Tensor:
        return torch.tensor([values[i % len(values)] for i in range(count)])

    def every(period: int, first: int) -> Tensor:
        return torch.arange(count) % period == first

    gate = turns(*Gate).long()
    value = torch.where(gate == Gate.ENTROPY, 1.0, 0.6)
    value = torch.where((gate == Gate.ENTROPY) | (gate == Gate.RATE), value, 0.0)
    greedy, release = every(7, 4), every(4, 2)
    depth = turns(deepest, 2, 1, deepest, 3, 2).long().clamp(max=deepest)
    columns = {
        "temperature": torch.where(greedy, 1.0, turns(0.6, 1.0, 0.6, 0.8, 1.5)),
        "greedy": greedy,
        # preset `release` skips h^{L-1}: depth d needs d latents
        "depth": torch.where(release, depth.clamp(max=max(limits.captured, 1)), depth),
        "candidates": turns(8, most, 4, 20, 8, 1, 8).long().clamp(max=most),
        "candidate_top_p": turns(1.0, 0.9, 1.0, 1.0, 0.99, 1.0),
        "floor": turns(0.0, 0.0, 1e-6, 0.0, 0.0, 1e-3, 0.0),
        "final_norm": every(5, 3) if final_norm else torch.zeros(count, dtype=torch.bool),
        "normalize_layers": every(6, 3),
        "release_layers": release,
        "gate": gate,
        "gate_value": value,
        "random_gate": every(2, 1),
        "owns": ~every(13, 10),
        "thinks": ~every(13, 11),
        "projects": every(3, 0),
    }
    return LedRows(**{name: column.to(device) for name, column in columns.items()})
