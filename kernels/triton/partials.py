"""What ranks exchange of a latent row: its logsumexp, folded over tiles, and candidate logits.

See docs/method.md#latent-posteriors. Parallel over the listed (request, layer) rows and blocks of
candidates.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..types import LedRows, LmHeadShard
from .latent_lse import soft_cap
from .tiles import column_tiles
from .workspace import StepWorkspace, tensors

# Fixed whatever the batch asks for: the order of every sum, and so its last bit, hangs on them.
_CANDIDATES_AT_ONCE = 8
_HIDDEN_AT_ONCE = 256
_TILES_AT_ONCE = 1024


@triton.jit(
    do_not_specialize=[
        "first_listed",
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
    latent_rows,  # [window, HIDDEN]
    row_scale,  # [window] f32, log2(e) / T
    tile_max,  # [window, column_tiles] f32
    tile_sum,
    live_rows,  # [B * layers] int32
    live_count,  # [1] int32
    ids,  # [B, candidates] int64
    temperature,  # [B] f32
    partials,  # [B * layers, candidates + 2] f32
    first_listed,
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
    slot = tl.program_id(0)
    block = tl.program_id(1)
    if first_listed + slot >= tl.load(live_count):
        return
    flat = tl.load(live_rows + first_listed + slot)
    slot = slot.to(tl.int64)
    request = flat // layers
    out = partials + flat.to(tl.int64) * (candidates + 2)
    t = tl.load(temperature + request)
    if block == 0:
        peak = tl.full([], -float("inf"), tl.float32)
        total = tl.full([], 0.0, tl.float64)
        scale = tl.load(row_scale + slot)
        tile = tl.arange(0, TILES)
        for first in range(0, column_tiles, TILES):
            at = slot * column_tiles + first + tile
            maxima = tl.load(tile_max + at, mask=first + tile < column_tiles, other=-float("inf"))
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
        owned = real & (local >= 0) & (local < columns)
        lanes = tl.zeros([CANDIDATES, BLOCK_H], tl.float32)
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


def latent_partials(
    ids: Tensor, rows: LedRows, layers: int, first: int, head: LmHeadShard, workspace: StepWorkspace
) -> Tensor:
    """This rank's share of the latent posteriors.

    Args:
        ids: [B, K] int64 vocabulary ids of the candidates.
        layers: latent layers per request.
        first: index into the list of the window that was just gathered and multiplied; only its
            rows are written.
        head: this rank's shard; it has a weight.

    Returns:
        [B * layers, K + 2] f32 in the workspace: max, sum of exponentials, K logits, all over T;
        rows that are not listed hold anything.
    """
    batch, candidates = ids.shape
    weight = head.weight
    assert weight is not None
    assert weight.stride(1) == 1
    assert ids.is_contiguous()
    assert candidates <= workspace.candidates
    assert column_tiles(head.valid) <= workspace.tile_max.shape[1]
    out = workspace.partials[: batch * layers * (candidates + 2)].view(-1, candidates + 2)
    count = min(workspace.window, batch * layers - first)
    latent_partials_kernel[(count, 1 + triton.cdiv(candidates, _CANDIDATES_AT_ONCE))](
        weight=weight,
        **tensors(workspace, "latent_rows", "row_scale", "tile_max", "tile_sum"),
        **tensors(workspace, "live_rows", "live_count"),
        ids=ids,
        **tensors(rows, "temperature"),
        partials=out,
        first_listed=first,
        layers=layers,
        candidates=candidates,
        columns=head.valid,
        column_tiles=workspace.tile_max.shape[1],
        vocab_start=head.vocab_start,
        logit_scale=1.0 if head.logit_scale is None else head.logit_scale,
        softcap=1.0 if head.softcap is None else head.softcap,
        HIDDEN=weight.shape[1],
        WEIGHT_STRIDE=weight.stride(0),
        HAS_SOFTCAP=head.softcap is not None,
        TILES=_TILES_AT_ONCE,
        CANDIDATES=_CANDIDATES_AT_ONCE,
        BLOCK_H=_HIDDEN_AT_ONCE,
        num_warps=4,
    )
    return out
