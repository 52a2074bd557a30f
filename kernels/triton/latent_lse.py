"""Exact logsumexp of W h / T over this rank's columns, for the live latent rows only.

See docs/method.md#latent-posteriors.

Each program walks over (column tile, row tile) pairs and leaves one (max, sum of exponentials) per
pair; no locks, no atomics, and the logits never reach memory. The number of live rows is read on
the device.

A row's result must not depend on the batch around it, but the batch decides which row tile runs,
and with it the order in which threads add. So the sum of a tile is made exact: exponentials are
rounded to a fixed point first, and integers add up the same in any order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..types import LmHeadShard
from .tiles import BLOCK_COLUMNS, architecture, column_tiles, programs, row_tiles, tile_for
from .workspace import StepWorkspace, tensors

# Exponentials are at most 1; 16 of them at 2**26 each fit an int32. What is rounded away is at most
# 2**-27 of the largest per column: 1e-6 of a tile's sum, if every other column were that small.
_FIXED_POINT_BITS = tl.constexpr(26)
_GROUP = tl.constexpr(16)

# No row count is above the last row tile's range.
_NO_LIMIT = 2**31 - 1


@triton.jit
def soft_cap(z, cap):
    """cap * tanh(z / cap); the Taylor series near 0, where 1 - exp(-2y) cancels."""
    y = z / cap
    square = y * y
    series = 62.0 / 2835.0 - square * (1382.0 / 155925.0)
    series = 2.0 / 15.0 + square * (-17.0 / 315.0 + square * series)
    series = y * (1.0 + square * (-1.0 / 3.0 + square * series))
    decay = tl.exp(-2.0 * tl.abs(y))
    magnitude = (1.0 - decay) / (1.0 + decay)
    exact = tl.where(y < 0.0, -magnitude, magnitude)
    return cap * tl.where(tl.abs(y) < 0.25, series, exact)


@triton.jit(
    do_not_specialize=["first", "window", "columns", "column_tiles", "logit_scale", "softcap"]
)
def latent_lse_kernel(
    weight,  # [columns, HIDDEN], or its descriptor
    latent_rows,  # [window, HIDDEN], or its descriptor
    row_scale,  # [window] f32, log2(e) / T
    live_count,  # [1] int32
    tile_max,  # [window, column_tiles] f32
    tile_sum,  # [window, column_tiles] f32
    first,
    window,
    columns,
    column_tiles,
    logit_scale,
    softcap,
    HIDDEN: tl.constexpr,
    WEIGHT_STRIDE: tl.constexpr,
    MORE_THAN: tl.constexpr,
    AT_MOST: tl.constexpr,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    count = tl.minimum(tl.load(live_count) - first, window)
    if count <= MORE_THAN or count > AT_MOST:
        return
    tiles_of_rows = tl.cdiv(count, ROWS)
    # Row tiles are the fast index: programs that run together share a tile of the weight in L2.
    for pair in tl.range(tl.program_id(0), column_tiles * tiles_of_rows, tl.num_programs(0)):
        column_tile = pair // tiles_of_rows
        first_column = column_tile * BLOCK_V
        first_row = (pair % tiles_of_rows) * ROWS
        column = first_column + tl.arange(0, BLOCK_V)
        row = first_row + tl.arange(0, ROWS)
        z = tl.zeros([BLOCK_V, ROWS], tl.float32)
        for first_hidden in tl.range(0, HIDDEN, BLOCK_H, num_stages=STAGES):
            if DESCRIPTORS:
                w = weight.load([first_column, first_hidden])
                h = latent_rows.load([first_row, first_hidden])
            else:
                at = first_hidden + tl.arange(0, BLOCK_H)
                w = tl.load(
                    weight + column.to(tl.int64)[:, None] * WEIGHT_STRIDE + at[None, :],
                    mask=(column < columns)[:, None] & (at < HIDDEN)[None, :],
                    other=0.0,
                )
                h = tl.load(
                    latent_rows + row.to(tl.int64)[:, None] * HIDDEN + at[None, :],
                    mask=(row < count)[:, None] & (at < HIDDEN)[None, :],
                    other=0.0,
                )
            if UPCAST:
                w = w.to(tl.float32)
                h = h.to(tl.float32)
            z = tl.dot(w, h.T, z, input_precision="ieee")

        z = z * logit_scale
        if HAS_SOFTCAP:
            z = soft_cap(z, softcap)
        z = tl.where((column < columns)[:, None], z, -float("inf"))
        peak = tl.max(z, 0)
        shift = tl.where(peak == -float("inf"), 0.0, peak)
        scale = tl.load(row_scale + row, mask=row < count, other=1.0)
        exponent = tl.fma(
            z - shift[None, :],
            tl.broadcast_to(scale[None, :], [BLOCK_V, ROWS]),
            tl.full([BLOCK_V, ROWS], _FIXED_POINT_BITS, tl.float32),
        )
        fixed = (tl.exp2(exponent) + 0.5).to(tl.int32)
        groups = tl.sum(tl.reshape(fixed, [BLOCK_V // _GROUP, _GROUP, ROWS]), 1)
        total = tl.sum(groups.to(tl.int64), 0).to(tl.float32) * (2.0**-_FIXED_POINT_BITS)
        out = row.to(tl.int64) * column_tiles + column_tile
        tl.store(tile_max + out, peak, mask=row < count)
        tl.store(tile_sum + out, total, mask=row < count)


def wants_descriptors(weight: Tensor) -> bool:
    """Whether the copy engine of sm_90 may read this weight: its rows must start on 16 bytes."""
    return (
        weight.is_cuda
        and architecture(weight.device) >= 90
        and weight.data_ptr() % 16 == 0
        and weight.stride(0) * weight.element_size() % 16 == 0
        and weight.shape[1] * weight.element_size() % 16 == 0
    )


def latent_lse(
    workspace: StepWorkspace,
    head: LmHeadShard,
    *,
    first: int,
    at_most: int,
    descriptors: bool | None = None,
) -> None:
    """The logsumexp of one window as partials: per row and tile of columns, the largest logit and
    the sum of exp((logit - largest) / T).

    Args:
        workspace: holds the gathered rows; takes tile_max and tile_sum. Rows beyond its live count
            are neither computed nor written.
        head: this rank's shard; it has a weight.
        first: index of the window into the list.
        at_most: bound on the rows of this window.
        descriptors: whether to read by descriptors; None chooses by `head.weight`.
    """
    weight, latent_rows = head.weight, workspace.latent_rows
    assert weight is not None, "the kernel needs the weight itself"
    assert weight.stride(1) == 1
    assert latent_rows.dtype == weight.dtype, (latent_rows.dtype, weight.dtype)
    assert latent_rows.shape[1] == weight.shape[1]
    assert at_most <= latent_rows.shape[0]
    tiles = column_tiles(head.valid)
    assert workspace.tile_max.shape[1] == tiles
    if tiles == 0:
        return
    if descriptors is None:
        descriptors = wants_descriptors(weight)
    hidden = weight.shape[1]
    more_than = 0
    for rows in row_tiles(weight.dtype):
        if more_than >= at_most:
            break
        last = rows == row_tiles(weight.dtype)[-1]
        tile = tile_for(hidden, rows, architecture(weight.device), weight.dtype)
        w: Tensor | TensorDescriptor = weight
        x: Tensor | TensorDescriptor = latent_rows
        if descriptors:
            w = TensorDescriptor.from_tensor(weight[: head.valid], [BLOCK_COLUMNS, tile.block])
            x = TensorDescriptor.from_tensor(latent_rows, [rows, tile.block])
        latent_lse_kernel[(programs(weight.device, tile),)](
            weight=w,
            latent_rows=x,
            **tensors(workspace, "row_scale", "live_count", "tile_max", "tile_sum"),
            first=first,
            window=latent_rows.shape[0],
            columns=head.valid,
            column_tiles=tiles,
            logit_scale=1.0 if head.logit_scale is None else head.logit_scale,
            softcap=1.0 if head.softcap is None else head.softcap,
            HIDDEN=hidden,
            WEIGHT_STRIDE=weight.stride(0),
            MORE_THAN=more_than,
            AT_MOST=_NO_LIMIT if last else rows,
            BLOCK_V=BLOCK_COLUMNS,
            ROWS=rows,
            BLOCK_H=tile.block,
            STAGES=tile.stages,
            HAS_SOFTCAP=head.softcap is not None,
            DESCRIPTORS=descriptors,
            UPCAST=not weight.is_cuda and weight.dtype != torch.float32,
            num_warps=4,
        )
        more_than = rows
