"""From the ranks' partials to a token, row by row.

See docs/method.md#cumulative-sums, docs/method.md#entropy-choice and docs/method.md#token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import FinalPosterior, LedResult, LedRows, StepNoise
from .workspace import StepWorkspace, tensors

# Fixed whatever the batch asks for: the order of every sum, and so its last bit, hangs on them.
MAX_CANDIDATES = 64
_DEPTH_PAD = 16
# Rows of more layers than this spill registers at four warps.
_LAYERS_AT_FOUR_WARPS = 32


@triton.jit
def _rescaled(total, peak, top):
    return tl.where(peak == -float("inf"), 0.0, total * tl.exp(peak - top))


@triton.jit
def _normalized(p):
    total = tl.sum(p, 1, keep_dims=True)
    return p / tl.where(total == 0.0, 1.0, total)


@triton.jit
def _first_largest(x):
    """Index of the first maximum; 0 if there is a NaN, which equals nothing."""
    broken = tl.max((x != x).to(tl.int32), 0) > 0
    return tl.where(broken, 0, tl.argmax(x, 0, tie_break_left=True))


_OF_ROWS = ("depth", "floor", "normalize_layers", "greedy")
_RESULTS = ("layer_probs", "behaviour_probs", "behaviour_logprob")


@triton.jit(
    do_not_specialize=["layers", "candidates", "ranks"],
    do_not_specialize_on_alignment=[*_OF_ROWS, "explored_in", "pick_noise", "gathered"],
)
def combine_kernel(
    gathered,  # [ranks, B * layers, candidates + 2] f32: max, sum, candidate logits
    ids,  # [B, candidates] int64
    logprobs,  # [B, candidates] f32
    pick_noise,  # [B, candidates] f64
    explored_in,  # [B] bool
    explore_probability,  # [B] f64
    projected_in,  # [B] bool
    depth,  # [B] int64
    floor,  # [B] f32
    normalize_layers,  # [B] bool
    greedy,  # [B] bool
    token_ids,  # [B] int64
    depth_out,  # [B] int64
    layer_probs,  # [B, layers + 1, candidates] f32
    behaviour_probs,  # [B, candidates] f32
    behaviour_logprob,  # [B] f32
    layers,
    candidates,
    ranks,
    LAYERS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    row = tl.program_id(0)
    layer = tl.arange(0, LAYERS)
    slot = tl.arange(0, CANDIDATES)
    listed = slot < candidates
    at = row.to(tl.int64) * candidates + slot
    explored = tl.load(explored_in + row)
    projected = tl.load(projected_in + row)
    probability = tl.load(explore_probability + row)
    row_depth = tl.load(depth + row)
    is_greedy = tl.load(greedy + row)
    least = tl.load(floor + row).to(tl.float64)
    logprob = tl.load(logprobs + at, mask=listed, other=-float("inf"))
    candidate = logprob > -float("inf")
    final = tl.exp(logprob.to(tl.float64))

    # Ranks are folded in their order; 0 is the final layer.
    live = (layer == 0) | (projected & (layer < row_depth) & (layer <= layers))
    latent = live & (layer > 0)
    peak = tl.full([LAYERS], -float("inf"), tl.float64)
    total = tl.zeros([LAYERS], tl.float64)
    logit = tl.zeros([LAYERS, CANDIDATES], tl.float32)
    rows_gathered = tl.num_programs(0) * layers
    for rank in range(0, ranks):
        first = (rank * rows_gathered + row * layers + layer - 1).to(tl.int64) * (candidates + 2)
        rank_peak = tl.load(gathered + first, mask=latent, other=-float("inf")).to(tl.float64)
        rank_total = tl.load(gathered + first + 1, mask=latent, other=0.0).to(tl.float64)
        top = tl.maximum(peak, rank_peak)
        total = _rescaled(total, peak, top) + _rescaled(rank_total, rank_peak, top)
        peak = top
        logit += tl.load(
            gathered + first[:, None] + 2 + slot[None, :],
            mask=latent[:, None] & listed[None, :],
            other=0.0,
        )
    lse = peak + tl.log(total)
    p = tl.exp(logit.to(tl.float64) - lse[:, None])
    p = tl.where((layer == 0)[:, None], final[None, :], p)
    # The floor comes before the normalisation, and never revives what is no candidate.
    p = tl.where(p < least, least, p)
    p = tl.where(live[:, None] & candidate[None, :], p, 0.0)
    if tl.load(normalize_layers + row):
        p = _normalized(p)
    place = (row.to(tl.int64) * (layers + 1) + layer)[:, None] * candidates + slot[None, :]
    inside = (layer <= layers)[:, None] & listed[None, :]
    tl.store(layer_probs + place, p.to(tl.float32), mask=inside)

    # A layer that is not live adds nothing: it ties with a nearer one, which wins.
    a = _normalized(tl.cumsum(p, 0))
    entropies = -tl.sum(tl.where(a == 0.0, 0.0, a * tl.log(a)), 1)
    star = _first_largest(entropies)

    # Gumbel-max over the candidates of the taken side.
    exploit = tl.sum(tl.where((layer == 0)[:, None], a, 0.0), 0)
    explore = tl.sum(tl.where((layer == star)[:, None], a, 0.0), 0)
    taken = tl.where(explored, explore, exploit)
    noise = tl.load(pick_noise + at, mask=listed, other=0.0)
    score = tl.where(is_greedy, taken, tl.log(taken) + noise)
    pick = _first_largest(score)
    tl.store(token_ids + row, tl.load(ids + row.to(tl.int64) * candidates + pick))
    tl.store(depth_out + row, tl.where(explored, star + 1, 1).to(tl.int64))

    # q is one categorical draw; it takes both sides to know it, unless one of them is certain.
    known = projected | (probability == 0.0) | (row_depth == 1)
    one_exploit = (slot == _first_largest(exploit)).to(tl.float64)
    one_explore = (slot == _first_largest(explore)).to(tl.float64)
    exploit = tl.where(is_greedy, one_exploit, exploit)
    explore = tl.where(is_greedy, one_explore, explore)
    q = (1.0 - probability) * exploit + probability * explore
    q = tl.where(known, q, 0.0)
    tl.store(behaviour_probs + at, q.to(tl.float32), mask=listed)
    drawn = tl.sum(tl.where(slot == pick, q, 0.0), 0)
    tl.store(behaviour_logprob + row, tl.log(drawn).to(tl.float32))


def combine_warps(padded_layers: int) -> int:
    """Warps of a row with this many layers, padding included."""
    return 4 if padded_layers <= _LAYERS_AT_FOUR_WARPS else 8


def combine(
    gathered: Tensor,
    final: FinalPosterior,
    rows: LedRows,
    noise: StepNoise,
    explored: Tensor,
    layers: int,
    workspace: StepWorkspace,
) -> LedResult:
    """The token of every row, and what it was drawn from.

    Args:
        gathered: [ranks, B * layers, K + 2] f32 from every rank's `latent_partials`.
        explored: [B] bool from `gate_rows`.
        layers: latent layers per request.
        workspace: holds what the gate left; takes the result.
    """
    batch, candidates = final.ids.shape
    assert gathered.is_contiguous()
    assert gathered.shape[1:] == (batch * layers, candidates + 2)
    assert noise.pick.dtype == torch.float64
    assert noise.pick.shape == (batch, candidates)
    assert batch <= workspace.batch
    assert candidates <= workspace.candidates
    padded = max(_DEPTH_PAD, triton.next_power_of_2(workspace.layers + 1))
    per_layer = batch * (layers + 1) * candidates
    result = LedResult(
        token_ids=workspace.token_ids[:batch],
        explored=explored,
        explore_probability=workspace.explore_probability[:batch],
        depth=workspace.depth[:batch],
        p1=final.p1,
        entropy=final.entropy,
        candidate_ids=final.ids,
        layer_probs=workspace.layer_probs[:per_layer].view(batch, layers + 1, candidates),
        behaviour_probs=workspace.behaviour_probs[: batch * candidates].view(batch, candidates),
        behaviour_logprob=workspace.behaviour_logprob[:batch],
        projected_rows=None,
    )
    combine_kernel[(batch,)](
        gathered=gathered,
        **tensors(final, "ids", "logprobs"),
        pick_noise=noise.pick.contiguous(),
        explored_in=explored,
        projected_in=workspace.projected,
        **tensors(rows, *_OF_ROWS),
        depth_out=result.depth,
        **tensors(result, "explore_probability", "token_ids", *_RESULTS),
        layers=layers,
        candidates=candidates,
        ranks=gathered.shape[0],
        LAYERS=padded,
        CANDIDATES=MAX_CANDIDATES,
        num_warps=combine_warps(padded),
    )
    return result
