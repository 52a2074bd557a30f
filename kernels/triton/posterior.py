"""The k largest final logits and the statistics of p^L, split over V (docs/method.md#candidates).

Top-k of a whole row at once would be serial, and sorting every logit wasteful. The k largest logits
lie in the k groups of neighbouring columns with the largest maxima, so the first kernel ranks only
group maxima, split by split, and the second sorts the members of the k groups that are left. It
also draws the noise of these candidates.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import Draws, FinalPosterior, LaunchLimits, LedLimits, LedRows, StepNoise
from .launch import Arguments, Kernel
from .noise import gate_noise, noise_origin, pick_noise

# One size for every batch: the order of a sum must not depend on it.
SPLIT_COLUMNS = 2048
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


@triton.jit(do_not_specialize_on_alignment=["temperature"])
def split_statistics_kernel(
    logits,  # [B, vocab], rows logits_stride apart
    logits_stride,
    temperature,  # [B] f32
    split_max,  # [B, splits] f32
    split_sum,  # [B, splits] f32, sum of w = exp((z - max) / T)
    split_slope,  # [B, splits] f32, sum of w * (z - max) / T
    group_keys,  # [B, splits, KEEP] int64
    vocab,
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
    if KEEP < SPLIT // GROUP:
        key = tl.topk(key, KEEP)
    tl.store(group_keys + at.to(tl.int64) * KEEP + slot, key)


@triton.jit(
    do_not_specialize=["candidates", "splits", "draws"],
    do_not_specialize_on_alignment=[
        *("stream_seed", "stream_step", "seeds", "has_seed", "positions"),
        *("temperature", "row_candidates", "row_top_p"),
    ],
)
def merge_splits_kernel(
    logits,  # [B, vocab], rows logits_stride apart
    logits_stride,
    draws,  # whether the noise is drawn; the next five are read then
    stream_seed,  # [1] int64
    stream_step,  # [1] int64
    seeds,  # [B] int64
    has_seed,  # [B] bool
    positions,  # [B] int64
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
    noise_gate,  # [B] f64
    noise_pick,  # [B, candidates] f64
    candidates,
    splits,
    vocab,
    ENTROPY: tl.constexpr,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    KEEP: tl.constexpr,
    LISTED: tl.constexpr,  # keys that each split left
):
    row = tl.program_id(0)
    t = tl.load(temperature + row)
    split = tl.arange(0, SPLITS)
    at = row * splits + split
    peaks = tl.load(split_max + at, mask=split < splits, other=-float("inf"))
    sums = tl.load(split_sum + at, mask=split < splits, other=0.0)
    top = tl.max(peaks, 0)
    nothing = top == -float("inf")
    below = tl.where(peaks == -float("inf"), 0.0, (peaks - top) / t)
    weight = tl.where(peaks == -float("inf"), 0.0, tl.exp(below))
    total = tl.where(nothing, 1.0, tl.sum(sums * weight, 0))
    log_total = tl.log(total)
    # The likeliest token has weight 1. A row without any possible token counts as certain.
    tl.store(p1 + row, tl.where(nothing, 1.0, tl.div_rn(1.0, total)))
    h = 0.0
    if ENTROPY:
        slopes = tl.load(split_slope + at, mask=split < splits, other=0.0)
        slope = tl.sum(weight * (slopes + sums * below), 0)
        h = tl.where(nothing, 0.0, log_total - slope / total)
    tl.store(entropy + row, h)

    listed = tl.arange(0, SPLITS * LISTED)
    key = tl.load(
        group_keys + row.to(tl.int64) * splits * LISTED + listed,
        mask=listed < splits * LISTED,
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
    logprob = tl.where(z == -float("inf"), -float("inf"), (z - top) / t - log_total)

    # Whole multiples of 2**-52, so that the running mass does not depend on the order of addition,
    # which KEEP decides. A nucleus of 1 drops nothing, although p1 may round to 1.
    slot = tl.arange(0, KEEP)
    mass = (tl.exp(logprob).to(tl.float64) * 4503599627370496.0).to(tl.int64)
    mass = tl.where(slot < candidates, mass, 0)
    before = (tl.cumsum(mass, 0) - mass).to(tl.float64) / 4503599627370496.0
    top_p = tl.load(row_top_p + row)
    inside = before < tl.where(top_p >= 1.0, 2.0, top_p).to(tl.float64)
    chosen = inside & (slot < tl.load(row_candidates + row))
    out = row.to(tl.int64) * candidates + slot
    found = _index_of(key).to(tl.int64)
    tl.store(ids + out, found, mask=slot < candidates)
    tl.store(logprobs + out, tl.where(chosen, logprob, -float("inf")), mask=slot < candidates)
    if draws != 0:
        seed, position = noise_origin(row, stream_seed, stream_step, seeds, has_seed, positions)
        tl.store(noise_gate + row, gate_noise(seed, position))
        tl.store(noise_pick + out, pick_noise(seed, position, found), mask=slot < candidates)


def keys_kept(candidates: int) -> int:
    """Sorted slots that hold this many candidates: a power of two, at least 8."""
    return max(8, triton.next_power_of_2(candidates))


def splits_of(vocab: int) -> int:
    """Programs that share a row of this many columns."""
    return -(-vocab // SPLIT_COLUMNS)


def keys_listed(keep: int) -> int:
    """Keys that a split leaves of `keep` that are wanted."""
    return min(keep, SPLIT_COLUMNS // GROUP_COLUMNS)


class PosteriorWorkspace:
    """Scratch and results for up to `batch` rows, `candidates` and `vocab` columns."""

    def __init__(self, batch: int, candidates: int, vocab: int, device: torch.device) -> None:
        self.batch, self.candidates, self.vocab = batch, candidates, vocab
        cells = batch * splits_of(vocab)
        empty = partial(torch.empty, dtype=torch.float32, device=device)
        self.statistics = empty(3, cells)
        listed = keys_listed(keys_kept(candidates))
        self.group_keys = empty(cells * listed, dtype=torch.int64)
        self.no_flag = empty(1, dtype=torch.bool)  # stands for pointers that are not read
        self.ids = empty(batch * candidates, dtype=torch.int64)
        self.logprobs = empty(batch * candidates)
        self.p1 = empty(batch)
        self.entropy = empty(batch)

    def of(self, batch: int, candidates: int) -> FinalPosterior:
        """The part of the results that a step of this size uses."""
        return FinalPosterior(
            ids=self.ids[: batch * candidates].view(batch, candidates),
            logprobs=self.logprobs[: batch * candidates].view(batch, candidates),
            p1=self.p1[:batch],
            entropy=self.entropy[:batch],
        )


class Posterior:
    """The launches of the final posterior, and of the noise that is drawn with it.

    Args:
        limits: of the server.
        workspace: takes the result.
    """

    def __init__(self, limits: LaunchLimits, workspace: PosteriorWorkspace) -> None:
        self._vocab, self._workspace = limits.vocab, workspace
        self._splits = splits_of(limits.vocab)
        self._kernels: dict[tuple[torch.dtype, int, bool, bool], tuple[Kernel, Kernel]] = {}

    def staying(
        self, final: FinalPosterior, noise: StepNoise, rows: LedRows
    ) -> tuple[Arguments, Arguments]:
        """The arguments of a batch, whose results lie in `final` and `noise`."""
        scratch = (*self._workspace.statistics.unbind(), self._workspace.group_keys)
        results = (final.ids, final.logprobs, final.p1, final.entropy, noise.gate, noise.pick)
        asked = (rows.candidates, rows.candidate_top_p)
        sizes = (final.ids.shape[1], self._splits, self._vocab)
        return (
            Arguments(rows.temperature, *scratch, self._vocab),
            Arguments(rows.temperature, *asked, *scratch, *results, *sizes),
        )

    def __call__(
        self,
        stream: object,
        logits: Tensor,
        limits: LedLimits,
        draws: Draws | None,
        staying: tuple[Arguments, Arguments],
        *,
        binds: bool = False,
    ) -> None:
        """Launch both kernels; see `Step.final_posterior`.

        Args:
            logits: rows are contiguous.
            draws: of the step's noise; None: it is not drawn.
            binds: compile for logits like these first.
        """
        stride, dtype = logits.stride(0), logits.dtype
        keep = keys_kept(min(limits.candidates, self._vocab))
        key = (dtype, keep, limits.entropy, stride % 16 == 0)
        if key not in self._kernels:
            self._kernels[key] = self._pair(keep, limits.entropy)
        split, merge = self._kernels[key]
        unread, no_flag = self._workspace.ids, self._workspace.no_flag
        origins: tuple[Any, ...] = (0, unread, unread, unread, no_flag, unread)
        if draws is not None:
            noise = draws.stream
            origins = (1, noise.seed, noise.step, draws.seeds, draws.has_seed, draws.positions)
        batch = logits.shape[0]
        if batch == 0:
            return
        first, second = staying
        grids = ((batch, self._splits), (batch, 1))
        if binds:
            split.bind(grids[0], (logits, stride), first)
            merge.bind(grids[1], (logits, stride, *origins), second)
            return
        aligned = logits.data_ptr() % 16 == 0
        split(stream, grids[0], (logits, stride), first, aligned=aligned)
        merge(stream, grids[1], (logits, stride, *origins), second, aligned=aligned)

    def _pair(self, keep: int, entropy: bool) -> tuple[Kernel, Kernel]:
        listed = keys_listed(keep)
        split = Kernel(
            split_statistics_kernel,
            4,
            ENTROPY=entropy,
            SPLIT=SPLIT_COLUMNS,
            GROUP=GROUP_COLUMNS,
            KEEP=listed,
        )
        merge = Kernel(
            merge_splits_kernel,
            8,
            ENTROPY=entropy,
            # As many keys as are kept at least, of a small vocabulary too.
            SPLITS=max(triton.next_power_of_2(self._splits), keep // listed),
            GROUP=GROUP_COLUMNS,
            KEEP=keep,
            LISTED=listed,
        )
        return split, merge
