"""DoLa's contrast of the final layer with an early one, in plain torch, on any device.

See docs/method.md#dola.

Nothing of shape [rows, layers, V] exists: early layers are projected in blocks of columns, first
for their logsumexp, then for their divergence from the final layer, and the chosen one of each row
a last time for its scores. All shapes come from the host, nothing asks the device for a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import AllGather, LmHeadShard
from .combine import merge_partials
from .latent_lse import logits_blocks, shard_sums

# Columns of the head projected at once for all pairs: bounds the temporaries.
_BLOCK_ELEMENTS = 2**23


@dataclass(frozen=True)
class DolaRows:
    """The D rows that use DoLa and their P pairs of a row and a candidate layer.

    A row's candidates are numbered 0 .. J - 1, earliest layer first; J is the largest number.
    """

    pair_row: Tensor  # [P] int64, 0 .. D - 1
    pair_layer: Tensor  # [P] int64, place of the layer among the captured ones
    pair_of: Tensor  # [D, J] int64, the pair of each candidate; rows with fewer repeat their last
    relative_top: Tensor  # [D] f32, (0, 1]
    symmetric: Tensor  # [D] bool: true Jensen-Shannon divergence instead of HF's formula


@dataclass(frozen=True)
class DolaResult:
    """What a step of DoLa decided."""

    scores: Tensor  # [D, V] f32: log p^L - log p^j, -inf outside the plausible tokens
    layer: Tensor  # [D] int64, place of the chosen layer among the captured ones


def dola_scores(
    final_logits: Tensor,
    captured: Tensor,
    rows: DolaRows,
    head: LmHeadShard,
    *,
    shard_widths: Sequence[int] | None = None,
    all_gather: AllGather | None = None,
) -> DolaResult:
    """DoLa's scores for D rows, untempered, as Hugging Face's `dola` computes them.

    See docs/method.md#dola.

    Args:
        final_logits: [D, V], the model's own, before penalties; over the whole vocabulary.
        captured: [D, C, H], residual streams without the final norm.
        shard_widths: vocabulary columns of each rank, in rank order; with all_gather.
        all_gather: [M, n] fp32 -> [R, M, n] in rank order. Called three times whatever the rows
            hold: with [P, 2], [P, 1] and [D, max(shard_widths)].
    """
    log_final = final_logits.float().log_softmax(1)
    hidden = captured[rows.pair_row, rows.pair_layer]
    columns = max(1, _BLOCK_ELEMENTS // max(len(hidden), 1))

    # Exact log p^j needs the logsumexp over all ranks.
    partials = torch.stack(shard_sums(hidden, head, columns), dim=1)
    lse, _ = merge_partials(partials[None] if all_gather is None else all_gather(partials))
    lse = lse.float()

    divergence = _divergence(log_final, hidden, lse, rows, head, columns)
    if all_gather is not None:
        divergence = all_gather(divergence.float()[:, None]).sum(0)[:, 0].double()
    # Of equal divergences the earliest layer wins, as in HF.
    by_slot = divergence[rows.pair_of]
    slots = by_slot.shape[1]
    is_best = by_slot == by_slot.amax(1, keepdim=True)
    slot = torch.where(is_best, torch.arange(slots, device=is_best.device), slots).amin(1) % slots
    pair = rows.pair_of.gather(1, slot[:, None])[:, 0]

    early = torch.zeros(len(log_final), head.valid, device=log_final.device)
    chosen, chosen_lse = hidden[pair], lse[pair]
    for at, block, z in logits_blocks(chosen, head, columns):
        early[at, block] = z - chosen_lse[at, None]
    if all_gather is not None:
        assert shard_widths is not None
        widest = max(shard_widths)
        gathered = all_gather(torch.nn.functional.pad(early, (0, widest - head.valid)))
        early = torch.cat([gathered[r, :, :width] for r, width in enumerate(shard_widths)], dim=1)

    threshold = log_final.amax(1) + rows.relative_top.log()
    scores = torch.where(log_final >= threshold[:, None], log_final - early, -torch.inf)
    return DolaResult(scores, rows.pair_layer[pair])


def _divergence(
    log_final: Tensor, hidden: Tensor, lse: Tensor, rows: DolaRows, head: LmHeadShard, columns: int
) -> Tensor:
    """[P] f64: this shard's part of the sum over V; HF's mean differs by the factor V alone."""
    total = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    symmetric = rows.symmetric[rows.pair_row]
    for at, block, z in logits_blocks(hidden, head, columns):
        log_j = z - lse[at, None]
        start = head.vocab_start + block.start
        log_l = log_final[rows.pair_row[at], start : start + z.shape[1]]
        p_l, p_j = log_l.exp(), log_j.exp()
        mean = (p_l + p_j) / 2
        # 0 log 0 = 0 where both probabilities round to nothing
        log_mean = mean.clamp(min=torch.finfo(torch.float32).tiny).log()
        above_l, above_j = log_mean - log_l, log_mean - log_j
        hf = mean * (above_l + above_j)
        js = -(p_l * above_l + p_j * above_j)
        total[at] += torch.where(symmetric[at, None], js, hf).sum(1).double() / 2
    return total
