"""From the ranks' partials to a token, row by row.

See docs/method.md#cumulative-sums, docs/method.md#entropy-choice and docs/method.md#token.

All of it is fp32 but for the sum of log-probability and noise: a card like H20 has next to no fp64
units. What would cancel in fp32 is written so that it does not.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import SUMMARY, FinalPosterior, LedResult, LedRows, StepNoise
from .launch import Arguments, Kernel
from .workspace import StepWorkspace

MAX_CANDIDATES = 64
# A row of few layers and candidates, as by default, takes a small block of them. Its own numbers
# decide, never the batch's: the order of every sum, and so its last bit, hangs on the block.
_FEW = 8


@triton.jit
def _rescaled(total, peak, top):
    return tl.where(peak == -float("inf"), 0.0, total * tl.exp(peak - top))


@triton.jit
def _normalized(p):
    total = tl.sum(p, 1, keep_dims=True)
    return tl.div_rn(p, tl.broadcast_to(tl.where(total == 0.0, 1.0, total), p.shape))


@triton.jit
def _first_largest(x):
    """Index of the first maximum; 0 if there is a NaN, which equals nothing."""
    broken = tl.max((x != x).to(tl.int32), 0) > 0
    return tl.where(broken, 0, tl.argmax(x, 0, tie_break_left=True))


@triton.jit
def _entropies(c):
    """Entropy of c / sum(c) along the last dimension, in nats, to fp32's relative precision.

    Where one entry holds nearly everything, a log a of it cancels: log a = log(1 - b), with b the
    sum of the others, by the series of the inverse hyperbolic tangent.
    """
    total = tl.sum(c, 1, keep_dims=True)
    a = tl.div_rn(c, tl.broadcast_to(tl.where(total == 0.0, 1.0, total), c.shape))
    most = a > 0.5
    b = tl.sum(tl.where(most, 0.0, a), 1, keep_dims=True)
    s = tl.where(b < 0.5, b / (2.0 - b), 0.0)
    q = s * s
    series = 1.0 / 13.0 + q * (1.0 / 15.0 + q * (1.0 / 17.0))
    series = 1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * series))
    series = s * (1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * series)))
    log_most = tl.broadcast_to(-2.0 * series, a.shape)
    logs = tl.where(most, log_most, tl.log(tl.where(a > 0.0, a, 1.0)))
    return -tl.sum(a * logs, 1)


@triton.jit
def _decide(
    row,
    gathered,
    rows_gathered,
    ranks,
    ids,
    logprobs,
    pick_noise,
    explored,
    probability,
    projected,
    row_depth,
    least,
    normalizes,
    is_greedy,
    token_ids,
    depth_out,
    layer_probs,
    behaviour_probs,
    behaviour_logprob,
    layers,
    candidates,
    LAYERS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """Writes a row's results; returns its depth and log q(token)."""
    layer = tl.arange(0, LAYERS)
    slot = tl.arange(0, CANDIDATES)
    listed = slot < candidates
    at = row.to(tl.int64) * candidates + slot
    logprob = tl.load(logprobs + at, mask=listed, other=-float("inf"))
    candidate = logprob > -float("inf")

    # Ranks are folded in their order; 0 is the final layer.
    live = (layer == 0) | (projected & (layer < row_depth) & (layer <= layers))
    latent = live & (layer > 0)
    peak = tl.full([LAYERS], -float("inf"), tl.float32)
    total = tl.zeros([LAYERS], tl.float32)
    logit = tl.zeros([LAYERS, CANDIDATES], tl.float32)
    for rank in range(0, ranks):
        first = (rank * rows_gathered + row * layers + layer - 1).to(tl.int64) * (candidates + 2)
        rank_peak = tl.load(gathered + first, mask=latent, other=-float("inf"))
        rank_total = tl.load(gathered + first + 1, mask=latent, other=0.0)
        top = tl.maximum(peak, rank_peak)
        total = _rescaled(total, peak, top) + _rescaled(rank_total, rank_peak, top)
        peak = top
        logit += tl.load(
            gathered + first[:, None] + 2 + slot[None, :],
            mask=latent[:, None] & listed[None, :],
            other=0.0,
        )
    # The difference of logits is nearly exact, that to the whole logsumexp would be rounded.
    p = tl.exp((logit - peak[:, None]) - tl.log(total)[:, None])
    p = tl.where((layer == 0)[:, None], tl.exp(logprob)[None, :], p)
    # The floor comes before the normalisation, and never revives what is no candidate.
    p = tl.where(p < least, least, p)
    p = tl.where(live[:, None] & candidate[None, :], p, 0.0)
    if normalizes:
        p = _normalized(p)
    place = (row.to(tl.int64) * (layers + 1) + layer)[:, None] * candidates + slot[None, :]
    inside = (layer <= layers)[:, None] & listed[None, :]
    tl.store(layer_probs + place, p, mask=inside)

    # A layer that is not live adds nothing: it would tie with a nearer one, which wins.
    c = tl.cumsum(p, 0)
    entropies = _entropies(c)
    star = _first_largest(tl.where(live, entropies, -float("inf")))
    a = _normalized(c)

    # Gumbel-max over the candidates of the taken side.
    exploit = tl.sum(tl.where((layer == 0)[:, None], a, 0.0), 0)
    explore = tl.sum(tl.where((layer == star)[:, None], a, 0.0), 0)
    taken = tl.where(explored, explore, exploit)
    noise = tl.load(pick_noise + at, mask=listed, other=0.0)
    score = tl.log(taken).to(tl.float64) + noise
    score = tl.where(is_greedy, taken.to(tl.float64), score)
    pick = _first_largest(score)
    tl.store(token_ids + row, tl.load(ids + row.to(tl.int64) * candidates + pick))
    depth = tl.where(explored, star + 1, 1)
    tl.store(depth_out + row, depth.to(tl.int64))

    # q is one categorical draw; it takes both sides to know it, unless one of them is certain.
    known = projected | (probability == 0.0) | (row_depth == 1)
    one_exploit = (slot == _first_largest(exploit)).to(tl.float32)
    one_explore = (slot == _first_largest(explore)).to(tl.float32)
    exploit = tl.where(is_greedy, one_exploit, exploit)
    explore = tl.where(is_greedy, one_explore, explore)
    q = (1.0 - probability).to(tl.float32) * exploit + probability.to(tl.float32) * explore
    q = tl.where(known, q, 0.0)
    tl.store(behaviour_probs + at, q, mask=listed)
    logq = tl.log(tl.sum(tl.where(slot == pick, q, 0.0), 0))
    tl.store(behaviour_logprob + row, logq)
    return depth, logq


@triton.jit(
    do_not_specialize=["ranks", "layers", "candidates"],
    do_not_specialize_on_alignment=[
        *("summary", "gathered", "depth", "floor", "normalize_layers", "greedy", "led"),
        *("pick_noise", "ids", "logprobs", "p1", "row_candidates"),
    ],
)
def combine_kernel(
    gathered,  # [ranks, B * layers, candidates + 2] f32: max, sum, candidate logits
    ranks,
    summary,  # [B, columns] f32, see `Decided.summary`
    ids,  # [B, candidates] int64
    logprobs,  # [B, candidates] f32
    p1,  # [B] f32
    pick_noise,  # [B, candidates] f64
    row_candidates,  # [B] int64
    depth,  # [B] int64
    floor,  # [B] f32
    normalize_layers,  # [B] bool
    greedy,  # [B] bool
    led,  # [B] bool
    explored_in,  # [B] bool
    explore_probability,  # [B] f64
    projected_in,  # [B] bool
    thinks_in,  # [B] bool
    phase_in,  # [B] int64
    token_ids,  # [B] int64
    depth_out,  # [B] int64
    layer_probs,  # [B, layers + 1, candidates] f32
    behaviour_probs,  # [B, candidates] f32
    behaviour_logprob,  # [B] f32
    layers,
    candidates,
    LAYERS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    FEW: tl.constexpr,
    SUMMARY_COLUMNS: tl.constexpr,
):
    row = tl.program_id(0)
    explored = tl.load(explored_in + row)
    probability = tl.load(explore_probability + row)
    projected = tl.load(projected_in + row)
    row_depth = tl.load(depth + row)
    least = tl.load(floor + row)
    normalizes = tl.load(normalize_layers + row)
    is_greedy = tl.load(greedy + row)
    rows_gathered = tl.num_programs(0) * layers
    if (row_depth <= FEW) & (tl.load(row_candidates + row) <= FEW):
        # What lies beyond the small block is nothing.
        cells = (layers + 1) * candidates
        for start in range(0, cells, 256):
            cell = start + tl.arange(0, 256)
            beyond = (cell // candidates >= FEW) | (cell % candidates >= FEW)
            at = row.to(tl.int64) * cells + cell
            tl.store(layer_probs + at, 0.0, mask=beyond & (cell < cells))
        slot = tl.arange(0, CANDIDATES)
        at = row.to(tl.int64) * candidates + slot
        tl.store(behaviour_probs + at, 0.0, mask=(slot >= FEW) & (slot < candidates))
        row_d, logq = _decide(
            row,
            gathered,
            rows_gathered,
            ranks,
            ids,
            logprobs,
            pick_noise,
            explored,
            probability,
            projected,
            row_depth,
            least,
            normalizes,
            is_greedy,
            token_ids,
            depth_out,
            layer_probs,
            behaviour_probs,
            behaviour_logprob,
            layers,
            candidates,
            FEW,
            FEW,
        )
    else:
        row_d, logq = _decide(
            row,
            gathered,
            rows_gathered,
            ranks,
            ids,
            logprobs,
            pick_noise,
            explored,
            probability,
            projected,
            row_depth,
            least,
            normalizes,
            is_greedy,
            token_ids,
            depth_out,
            layer_probs,
            behaviour_probs,
            behaviour_logprob,
            layers,
            candidates,
            LAYERS,
            CANDIDATES,
        )
    out = summary + row.to(tl.int64) * SUMMARY_COLUMNS
    tl.store(out, tl.load(led + row).to(tl.float32))
    tl.store(out + 1, tl.load(thinks_in + row).to(tl.float32))
    tl.store(out + 2, explored.to(tl.float32))
    tl.store(out + 3, row_d.to(tl.float32))
    tl.store(out + 4, tl.load(p1 + row))
    tl.store(out + 5, tl.load(phase_in + row).to(tl.float32))
    tl.store(out + 6, logq)


def combine_warps(padded_layers: int) -> int:
    """Warps of a program for rows with this many layers, padding included: one, for the small block
    of most rows, while the largest block fits it."""
    return max(1, padded_layers * MAX_CANDIDATES // 512)


class Combine:
    """The token of every row, and what it was drawn from.

    Args:
        workspace: holds what the gate left; takes the result.
    """

    def __init__(self, workspace: StepWorkspace) -> None:
        padded = max(_FEW, triton.next_power_of_2(workspace.layers + 1))
        self._workspace = workspace
        self._kernel = Kernel(
            combine_kernel,
            combine_warps(padded),
            LAYERS=padded,
            CANDIDATES=MAX_CANDIDATES,
            FEW=_FEW,
            SUMMARY_COLUMNS=len(SUMMARY),
        )

    def result(self, final: FinalPosterior, noise: StepNoise, layers: int) -> LedResult:
        """Where the launches for this batch write; layers: latent layers per request."""
        batch, candidates = final.ids.shape
        workspace = self._workspace
        per_layer = batch * (layers + 1) * candidates
        return LedResult(
            token_ids=workspace.token_ids[:batch],
            explored=workspace.explored[:batch],
            explore_probability=workspace.explore_probability[:batch],
            depth=workspace.depth[:batch],
            p1=final.p1,
            entropy=final.entropy,
            candidate_ids=final.ids,
            layer_probs=workspace.layer_probs[:per_layer].view(batch, layers + 1, candidates),
            behaviour_probs=workspace.behaviour_probs[: batch * candidates].view(batch, candidates),
            behaviour_logprob=workspace.behaviour_logprob[:batch],
            projected_rows=None,
            gate_draw=noise.gate,
        )

    def staying(
        self, final: FinalPosterior, noise: StepNoise, rows: LedRows, layers: int
    ) -> Arguments:
        """The arguments of a batch."""
        batch, candidates = final.ids.shape
        workspace = self._workspace
        assert noise.pick.dtype == torch.float64
        assert noise.pick.shape == (batch, candidates)
        assert candidates <= workspace.candidates
        columns = (
            *(final.ids, final.logprobs, final.p1, noise.pick, rows.candidates, rows.depth),
            *(rows.floor, rows.normalize_layers, rows.greedy, rows.owns),
        )
        return Arguments(
            *(column.contiguous() for column in columns),
            *(workspace.explored, workspace.explore_probability, workspace.projected),
            *(workspace.thinks, workspace.phases, workspace.token_ids, workspace.depth),
            *(workspace.layer_probs, workspace.behaviour_probs, workspace.behaviour_logprob),
            *(layers, candidates),
        )

    def bind(self, gathered: Tensor, staying: Arguments) -> None:
        """Compile it, and launch it once."""
        self._kernel.bind((1, 1), (gathered, 1, self._workspace.summary), staying)

    def __call__(
        self, stream: object, gathered: Tensor, summary: Tensor, batch: int, staying: Arguments
    ) -> None:
        """Launch it.

        Args:
            gathered: [ranks, B * layers, K + 2] f32 from every rank's `LatentPartials`.
            summary: takes `Decided.summary`.
            batch: rows.
        """
        assert gathered.is_contiguous()
        self._kernel(stream, (batch, 1), (gathered, gathered.shape[0], summary), staying)
