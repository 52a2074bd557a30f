"""Every launch that a step within the limits may need, so that no request meets a compiler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor

from ..types import (
    FinalPosterior,
    Gate,
    LaunchLimits,
    LedLimits,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)
from . import latent_lse, noise, posterior
from .combine import combine
from .gate import gate_rows
from .gather import gather_latents
from .noise import NoiseWorkspace
from .partials import latent_partials
from .posterior import PosteriorWorkspace
from .workspace import StepWorkspace


def launches(
    head: LmHeadShard,
    limits: LaunchLimits,
    scratch: PosteriorWorkspace,
    noise_scratch: NoiseWorkspace,
    workspace: StepWorkspace,
) -> list[tuple[str, Callable[[], object]]]:
    """(part of the step, its launch) for every variant a step within these limits may need.

    One exploring row runs through all of them in the order of a step; the row tiles it does not
    need compile and exit.

    Args:
        head: this rank's shard; it has a weight.
        limits: the largest step.
        scratch, noise_scratch, workspace: of a step of these limits.
    """
    weight = head.weight
    assert weight is not None
    device, layers, largest, vocab = weight.device, limits.layers, limits.slots, limits.vocab
    latents = torch.randn(1, limits.captured, weight.shape[1], device=device)
    latents = latents.to(limits.latents_dtype)
    rows = _exploring_row(limits, device)
    listed: list[tuple[str, Callable[[], object]]] = []

    def later(part: str, function: Callable[..., object], *given: object, **named: object) -> None:
        listed.append((part, partial(function, *given, **named)))

    # KEEP is a power of two of at least 8, so these candidate counts cover every other.
    counts = sorted({min(k, largest) for k in (8, 16, 32, 64)})
    for k, stride, dtype, entropy in product(
        counts, _row_strides(vocab), limits.logits_dtypes, (False, True)
    ):
        logits = torch.randn(1, stride, device=device).to(dtype)[:, :vocab]
        part = LedLimits(k, limits.depth, False, entropy)
        later("posterior", posterior.final_posterior, logits, rows, part, scratch)

    final = FinalPosterior(
        ids=torch.arange(largest, device=device)[None],
        logprobs=torch.full((1, largest), -5.0, device=device),
        p1=torch.full((1,), 0.5, device=device),
        entropy=torch.ones(1, device=device),
    )
    position = torch.zeros(1, dtype=torch.int64, device=device)
    stream = NoiseStream.start(0, device)
    drawn = StepNoise(noise_scratch.gate[:1], noise_scratch.pick[:largest].view(1, largest))
    explored = workspace.explored[:1]
    gathered = workspace.partials.new_zeros(1, layers, largest + 2)
    origins = (stream, position, rows.owns, position)
    later("noise", noise.draw_noise, *origins, final.ids, noise_scratch)
    later("gate", gate_rows, final, rows, drawn, layers, workspace)
    later("combine", combine, gathered, final, rows, drawn, explored, layers, workspace)
    if layers > 0:
        later("gather", gather_latents, latents, rows, layers, 0, workspace, None)
        window = {"first": 0, "at_most": workspace.window}
        later("latent_lse", latent_lse.latent_lse, workspace, head, **window)
        later("partials", latent_partials, final.ids, rows, layers, 0, head, workspace)
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
