"""K4: fold the partials, dot the candidates (step 3), then steps 4, 5 and 7 for every request.

Two launches with the ranks' exchange between them. The first is parallel over (request, layer) and
blocks of candidates, the second over requests.
"""

# Kernels are compiled, never called by Python: what their arguments are stands beside each.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .latent_lse import column_tiles, soft_cap
from .types import FinalPosterior, LedResult, LedRows, LmHeadShard, StepNoise
from .workspace import StepWorkspace

# Fixed whatever the batch asks for: the order of every sum, and so its last bit, hangs on them.
MAX_CANDIDATES = 64
_DEPTH_PAD = 16
_CANDIDATES_AT_ONCE = 8
_HIDDEN_AT_ONCE = 256
_TILES_AT_ONCE = 1024


@triton.jit(
    do_not_specialize=[
        "layers",
        "candidates",
        "columns",
        "column_tiles",
        "vocab_start",
        "logit_scale",
        "softcap",
    ],
    do_not_specialize_on_alignment=["temperature"],
)
def latent_partials_kernel(
    weight,  # [columns, HIDDEN]
    latent_rows,  # [capacity, HIDDEN]
    row_scale,  # [capacity] f32, log2(e) / T
    tile_max,  # [capacity, column_tiles] f32
    tile_sum,
    slot_of,  # [B * layers] int32
    ids,  # [B, candidates] int64
    temperature,  # [B] f32
    partials,  # [B * layers, candidates + 2] f32
    layers,
    candidates,
    columns,
    column_tiles,
    vocab_start,
    logit_scale,
    softcap,
    HIDDEN: tl.constexpr,
    WEIGHT_STRIDE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    TILES: tl.constexpr,
    CANDIDATES: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    flat = tl.program_id(0)
    block = tl.program_id(1)
    request = flat // layers
    slot = tl.load(slot_of + flat)
    live = slot >= 0
    slot = tl.maximum(slot, 0).to(tl.int64)
    out = partials + flat.to(tl.int64) * (candidates + 2)
    t = tl.load(temperature + request)
    if block == 0:
        peak = tl.full([], -float("inf"), tl.float32)
        total = tl.full([], 0.0, tl.float64)
        if live:
            scale = tl.load(row_scale + slot)
            tile = tl.arange(0, TILES)
            for first in range(0, column_tiles, TILES):
                at = slot * column_tiles + first + tile
                maxima = tl.load(
                    tile_max + at, mask=first + tile < column_tiles, other=-float("inf")
                )
                peak = tl.maximum(peak, tl.max(maxima, 0))
            for first in range(0, column_tiles, TILES):
                at = slot * column_tiles + first + tile
                inside = first + tile < column_tiles
                maxima = tl.load(tile_max + at, mask=inside, other=-float("inf"))
                sums = tl.load(tile_sum + at, mask=inside, other=0.0)
                # A tile that saw nothing has sum 0, or NaN, which must not be lost.
                decay = tl.where(maxima == -float("inf"), 1.0, tl.exp2((maxima - peak) * scale))
                total += tl.sum((sums * decay).to(tl.float64), 0)
        tl.store(out, peak / t)
        tl.store(out + 1, total.to(tl.float32))
    else:
        slots = (block - 1) * CANDIDATES + tl.arange(0, CANDIDATES)
        real = slots < candidates
        local = tl.load(ids + request.to(tl.int64) * candidates + slots, mask=real, other=-1)
        local = local - vocab_start
        owned = real & live & (local >= 0) & (local < columns)
        lanes = tl.zeros([CANDIDATES, BLOCK_H], tl.float32)
        if live:
            for first in range(0, HIDDEN, BLOCK_H):
                at = first + tl.arange(0, BLOCK_H)
                inside = at < HIDDEN
                h = tl.load(latent_rows + slot * HIDDEN + at, mask=inside, other=0.0)
                w = tl.load(
                    weight + local[:, None] * WEIGHT_STRIDE + at[None, :],
                    mask=owned[:, None] & inside[None, :],
                    other=0.0,
                )
                lanes += w.to(tl.float32) * h.to(tl.float32)[None, :]
        # Each lane adds few terms in fp32; the lanes are added in fp64.
        z = tl.sum(lanes.to(tl.float64), 1) * logit_scale
        if HAS_SOFTCAP:
            z = soft_cap(z, softcap)
        z = tl.where(owned, z / t.to(tl.float64), 0.0)
        tl.store(out + 2 + slots, z.to(tl.float32), mask=real)


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


_COMBINE_COLUMNS = ["depth", "floor", "normalize_layers", "greedy"]


@triton.jit(
    do_not_specialize=["layers", "candidates", "ranks"],
    do_not_specialize_on_alignment=[*_COMBINE_COLUMNS, "explored_in", "pick_noise", "gathered"],
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

    # Step 3: ranks are folded in their order; 0 is the final layer.
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

    # Steps 4 and 5. A layer that is not live adds nothing: it ties with a nearer one, which wins.
    a = _normalized(tl.cumsum(p, 0))
    entropies = -tl.sum(tl.where(a == 0.0, 0.0, a * tl.log(a)), 1)
    star = _first_largest(entropies)

    # Step 7: Gumbel-max over the candidates of the taken side.
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


def latent_partials(
    ids: Tensor, rows: LedRows, layers: int, head: LmHeadShard, workspace: StepWorkspace
) -> Tensor:
    """This rank's share of step 3: (max, sum of exponentials, K logits) [B * layers, K + 2] f32,
    all over T, as ``torch_lse.latent_partials`` packs them; (-inf, 0, 0...) for rows not live.

    ids: [B, K] int64. Reads what K1 to K3 left in the workspace; the result lies there too.
    """
    batch, candidates = ids.shape
    weight = head.weight
    assert weight is not None
    assert weight.stride(1) == 1
    assert ids.is_contiguous()
    assert candidates <= workspace.candidates
    assert column_tiles(head.valid) <= (workspace.tile_max.shape[1])
    out = workspace.partials[: batch * layers * (candidates + 2)].view(-1, candidates + 2)
    grid = (batch * layers, 1 + triton.cdiv(candidates, _CANDIDATES_AT_ONCE))
    latent_partials_kernel[grid](
        weight,
        workspace.latent_rows,
        workspace.row_scale,
        workspace.tile_max,
        workspace.tile_sum,
        workspace.slot_of,
        ids,
        rows.temperature.contiguous(),
        out,
        layers,
        candidates,
        head.valid,
        workspace.tile_max.shape[1],
        head.vocab_start,
        1.0 if head.logit_scale is None else head.logit_scale,
        1.0 if head.softcap is None else head.softcap,
        HIDDEN=weight.shape[1],
        WEIGHT_STRIDE=weight.stride(0),
        HAS_SOFTCAP=head.softcap is not None,
        TILES=_TILES_AT_ONCE,
        CANDIDATES=_CANDIDATES_AT_ONCE,
        BLOCK_H=_HIDDEN_AT_ONCE,
        num_warps=4,
    )
    return out


def combine(
    gathered: Tensor,
    final: FinalPosterior,
    rows: LedRows,
    noise: StepNoise,
    explored: Tensor,
    layers: int,
    workspace: StepWorkspace,
) -> LedResult:
    """Steps 3 (across ranks), 4, 5 and 7.

    gathered: [ranks, B * layers, K + 2] f32 from every rank's ``latent_partials``. noise.pick:
    [B, K] f64. explored: [B] bool from ``gate_and_compact``.
    """
    batch, candidates = final.ids.shape
    assert candidates <= MAX_CANDIDATES
    assert gathered.is_contiguous()
    assert gathered.shape[1:] == (batch * layers, candidates + 2)
    assert noise.pick.dtype == torch.float64
    assert noise.pick.shape == (batch, candidates)
    assert final.ids.is_contiguous()
    assert final.logprobs.is_contiguous()
    device = final.ids.device
    result = LedResult(
        token_ids=torch.empty(batch, dtype=torch.int64, device=device),
        explored=explored,
        depth=torch.empty(batch, dtype=torch.int64, device=device),
        p1=final.p1,
        entropy=final.entropy,
        candidate_ids=final.ids,
        layer_probs=torch.empty(batch, layers + 1, candidates, dtype=torch.float32, device=device),
        behaviour_probs=torch.empty(batch, candidates, dtype=torch.float32, device=device),
        behaviour_logprob=torch.empty(batch, dtype=torch.float32, device=device),
        projected_rows=None,
    )
    combine_kernel[(batch,)](
        gathered,
        final.ids,
        final.logprobs,
        noise.pick.contiguous(),
        explored,
        workspace.explore_probability,
        workspace.projected,
        rows.depth.contiguous(),
        rows.floor.contiguous(),
        rows.normalize_layers.contiguous(),
        rows.greedy.contiguous(),
        result.token_ids,
        result.depth,
        result.layer_probs,
        result.behaviour_probs,
        result.behaviour_logprob,
        layers,
        candidates,
        gathered.shape[0],
        LAYERS=max(_DEPTH_PAD, triton.next_power_of_2(workspace.layers + 1)),
        CANDIDATES=MAX_CANDIDATES,
        num_warps=4,
    )
    return result
