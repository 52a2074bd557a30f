"""The k largest final logits and the statistics of p^L, split over V (docs/method.md#candidates).

Top-k of a whole row at once would be serial, and sorting every logit wasteful. The k largest logits
lie in the k groups of neighbouring columns with the largest maxima, so the first kernel ranks only
group maxima, split by split, and the second sorts the members of the k groups that are left.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import FinalPosterior, LedLimits, LedRows

SPLIT_COLUMNS = 8192
GROUP_COLUMNS = 64

_NOT_A_KEY = tl.constexpr(-(2**63))
_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _rank_key(z, index):
    """int64 that orders like (z, then the lower index first); z f32, index < 2**31."""
    bits = tl.where(z == 0.0, 0.0, z).to(tl.int32, bitcast=True)  # -0.0 ties with 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def _index_of(key):
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def _logit_of(key):
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["vocab"], do_not_specialize_on_alignment=["temperature"])
def split_statistics_kernel(
    logits,  # [B, vocab], rows logits_stride apart
    temperature,  # [B] f32
    split_max,  # [B, splits] f32
    split_sum,  # [B, splits] f32, sum of w = exp((z - max) / T)
    split_slope,  # [B, splits] f32, sum of w * (z - max) / T
    group_keys,  # [B, splits, KEEP] int64
    vocab,
    logits_stride,
    ENTROPY: tl.constexpr,
    SPLIT: tl.constexpr,
    GROUP: tl.constexpr,
    KEEP: tl.constexpr,
):
    row = tl.program_id(0)
    split = tl.program_id(1)
    at = row * tl.num_programs(1) + split
    column = split * SPLIT + tl.arange(0, SPLIT)
    z = tl.load(
        logits + row.to(tl.int64) * logits_stride + column, mask=column < vocab, other=-float("inf")
    ).to(tl.float32)
    grouped = tl.max(tl.reshape(z, [SPLIT // GROUP, GROUP]), 1)
    peak = tl.max(grouped, 0)
    shift = tl.where(peak == -float("inf"), 0.0, peak)
    scaled = (z - shift) / tl.load(temperature + row)
    weight = tl.exp2(scaled * _LOG2E)
    tl.store(split_max + at, peak)
    tl.store(split_sum + at, tl.sum(weight, 0))
    if ENTROPY:
        tl.store(split_slope + at, tl.sum(tl.where(weight > 0.0, weight * scaled, 0.0), 0))

    group = split * (SPLIT // GROUP) + tl.arange(0, SPLIT // GROUP)
    key = tl.where(group * GROUP < vocab, _rank_key(grouped, group), _NOT_A_KEY)
    slot = tl.arange(0, KEEP)
    tl.store(group_keys + at.to(tl.int64) * KEEP + slot, tl.topk(key, KEEP))


@triton.jit(
    do_not_specialize=["vocab", "candidates", "splits"],
    do_not_specialize_on_alignment=["temperature", "row_candidates", "row_top_p"],
)
def merge_splits_kernel(
    logits,  # [B, vocab], rows logits_stride apart
    temperature,  # [B] f32
    row_candidates,  # [B] int64
    row_top_p,  # [B] f32
    split_max,
    split_sum,
    split_slope,
    group_keys,
    ids,  # [B, candidates] int64
    logprobs,  # [B, candidates] f32
    p1,  # [B] f32
    entropy,  # [B] f32
    vocab,
    logits_stride,
    candidates,
    splits,
    ENTROPY: tl.constexpr,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    KEEP: tl.constexpr,
):
    row = tl.program_id(0)
    t = tl.load(temperature + row)
    split = tl.arange(0, SPLITS)
    at = row * splits + split
    peaks = tl.load(split_max + at, mask=split < splits, other=-float("inf"))
    sums = tl.load(split_sum + at, mask=split < splits, other=0.0).to(tl.float64)
    top = tl.max(peaks, 0)
    nothing = top == -float("inf")
    below = tl.where(peaks == -float("inf"), 0.0, (peaks - top) / t).to(tl.float64)
    weight = tl.where(peaks == -float("inf"), 0.0, tl.exp(below))
    total = tl.where(nothing, 1.0, tl.sum(sums * weight, 0))
    log_total = tl.log(total)
    # The likeliest token has weight 1. A row without any possible token counts as certain.
    tl.store(p1 + row, tl.where(nothing, 1.0, 1.0 / total).to(tl.float32))
    h = 0.0
    if ENTROPY:
        slopes = tl.load(split_slope + at, mask=split < splits, other=0.0).to(tl.float64)
        slope = tl.sum(weight * (slopes + sums * below), 0)
        h = tl.where(nothing, 0.0, log_total - slope / total).to(tl.float32)
    tl.store(entropy + row, h)

    listed = tl.arange(0, SPLITS * KEEP)
    key = tl.load(
        group_keys + row.to(tl.int64) * splits * KEEP + listed,
        mask=listed < splits * KEEP,
        other=_NOT_A_KEY,
    )
    key = tl.topk(key, KEEP)
    first = tl.where(key == _NOT_A_KEY, vocab, _index_of(key) * GROUP)
    column = tl.reshape(first[:, None] + tl.arange(0, GROUP)[None, :], [KEEP * GROUP])
    z = tl.load(
        logits + row.to(tl.int64) * logits_stride + column, mask=column < vocab, other=-float("inf")
    ).to(tl.float32)
    key = tl.topk(tl.where(column < vocab, _rank_key(z, column), _NOT_A_KEY), KEEP)
    z = _logit_of(key)
    logprob = tl.where(z == -float("inf"), -float("inf"), (z - top) / t - log_total.to(tl.float32))

    # Whole multiples of 2**-52, so that the running mass does not depend on the order of addition,
    # which KEEP decides. A nucleus of 1 drops nothing, although p1 may round to 1.
    slot = tl.arange(0, KEEP)
    mass = (tl.exp(logprob.to(tl.float64)) * 4503599627370496.0).to(tl.int64)
    mass = tl.where(slot < candidates, mass, 0)
    before = (tl.cumsum(mass, 0) - mass).to(tl.float64) / 4503599627370496.0
    top_p = tl.load(row_top_p + row)
    inside = before < tl.where(top_p >= 1.0, 2.0, top_p).to(tl.float64)
    chosen = inside & (slot < tl.load(row_candidates + row))
    out = row.to(tl.int64) * candidates + slot
    tl.store(ids + out, _index_of(key).to(tl.int64), mask=slot < candidates)
    tl.store(logprobs + out, tl.where(chosen, logprob, -float("inf")), mask=slot < candidates)


def keys_kept(candidates: int) -> int:
    """Sorted slots that hold this many candidates: a power of two, at least 8."""
    return max(8, triton.next_power_of_2(candidates))


def splits_of(vocab: int) -> int:
    """Programs that share a row of this many columns."""
    return -(-vocab // SPLIT_COLUMNS)


class PosteriorWorkspace:
    """Scratch and results for up to `batch` rows, `candidates` and `vocab` columns."""

    def __init__(self, batch: int, candidates: int, vocab: int, device: torch.device) -> None:
        self.batch, self.candidates, self.vocab = batch, candidates, vocab
        cells = batch * splits_of(vocab)
        empty = partial(torch.empty, dtype=torch.float32, device=device)
        self.statistics = empty(3, cells)
        self.group_keys = empty(cells * keys_kept(candidates), dtype=torch.int64)
        self.ids = empty(batch * candidates, dtype=torch.int64)
        self.logprobs = empty(batch * candidates)
        self.p1 = empty(batch)
        self.entropy = empty(batch)


def final_posterior(
    logits: Tensor, rows: LedRows, limits: LedLimits, workspace: PosteriorWorkspace
) -> FinalPosterior:
    """See `Step.final_posterior`; rows of logits are contiguous, the result lies in `workspace`."""
    batch, vocab = logits.shape
    candidates = min(limits.candidates, vocab)
    assert logits.stride(1) == 1
    assert batch <= workspace.batch
    assert candidates <= workspace.candidates
    assert vocab <= workspace.vocab
    keep, splits = keys_kept(candidates), splits_of(vocab)
    result = FinalPosterior(
        ids=workspace.ids[: batch * candidates].view(batch, candidates),
        logprobs=workspace.logprobs[: batch * candidates].view(batch, candidates),
        p1=workspace.p1[:batch],
        entropy=workspace.entropy[:batch],
    )
    if batch == 0:
        return result
    names = ("split_max", "split_sum", "split_slope")
    statistics = dict(zip(names, workspace.statistics.unbind(), strict=True))
    split_statistics_kernel[(batch, splits)](
        logits=logits,
        temperature=rows.temperature,
        **statistics,
        group_keys=workspace.group_keys,
        vocab=vocab,
        logits_stride=logits.stride(0),
        ENTROPY=limits.entropy,
        SPLIT=SPLIT_COLUMNS,
        GROUP=GROUP_COLUMNS,
        KEEP=keep,
        num_warps=8,
    )
    merge_splits_kernel[(batch,)](
        logits=logits,
        temperature=rows.temperature,
        row_candidates=rows.candidates,
        row_top_p=rows.candidate_top_p,
        **statistics,
        group_keys=workspace.group_keys,
        **vars(result),
        vocab=vocab,
        logits_stride=logits.stride(0),
        candidates=candidates,
        splits=splits,
        ENTROPY=limits.entropy,
        SPLITS=triton.next_power_of_2(splits),
        GROUP=GROUP_COLUMNS,
        KEEP=keep,
        num_warps=8,
    )
    return result
