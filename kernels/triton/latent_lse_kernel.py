"""The kernel of exact logsumexp of W h / T over this rank's columns, for the live latent rows only.

See docs/method.md#latent-posteriors.

Each program walks over (column tile, row tile) pairs and leaves one (max, sum of exponentials) per
pair; no locks, no atomics, and the logits never reach memory. The number of live rows is read on
the device.

A row's result must not depend on the batch around it, but the batch decides which row tile runs,
and with it the order in which threads add. So the sum of a tile is made exact: exponentials are
rounded to a fixed point first, and integers add up the same in any order.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Exponentials are at most 1; 16 of them at 2**26 each fit an int32. What is rounded away is at most
# 2**-27 of the largest per column: 1e-6 of a tile's sum, if every other column were that small.
_FIXED_POINT_BITS = tl.constexpr(26)
_GROUP = tl.constexpr(16)


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


@triton.jit
def _weight_block(
    weight,
    column,
    first_column,
    first_hidden,
    hidden,
    weight_stride,
    columns,
    BLOCK_H: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    if DESCRIPTORS:
        w = weight.load([first_column, first_hidden])
    else:
        at = first_hidden + tl.arange(0, BLOCK_H)
        w = tl.load(
            weight + column.to(tl.int64)[:, None] * weight_stride + at[None, :],
            mask=(column < columns)[:, None] & (at < hidden)[None, :],
            other=0.0,
        )
    return w.to(tl.float32) if UPCAST else w


@triton.jit
def _row_block(
    latent_rows,
    first_row,
    first_hidden,
    hidden,
    count,
    ROWS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    if DESCRIPTORS:
        h = latent_rows.load([first_row, first_hidden])
    else:
        row = first_row + tl.arange(0, ROWS)
        at = first_hidden + tl.arange(0, BLOCK_H)
        h = tl.load(
            latent_rows + row.to(tl.int64)[:, None] * hidden + at[None, :],
            mask=(row < count)[:, None] & (at < hidden)[None, :],
            other=0.0,
        )
    return h.to(tl.float32) if UPCAST else h


@triton.jit
def _leave(
    z,  # [BLOCK_V, ROWS] f32, products
    column,
    first_row,
    column_tile,
    row_scale,
    tile_max,
    tile_sum,
    count,
    columns,
    column_tiles,
    logit_scale,
    softcap,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
):
    row = first_row + tl.arange(0, ROWS)
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


@triton.jit
def _tiles_of(
    weight,
    first_rows,  # of the first product of a row tile
    second_rows,  # of the second one, which starts where the first ends
    row_scale,
    tile_max,
    tile_sum,
    count,
    hidden,
    weight_stride,
    columns,
    column_tiles,
    logit_scale,
    softcap,
    BLOCK_V: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    tiles_of_rows = tl.cdiv(count, FIRST + SECOND)
    # Row tiles are the fast index: programs that run together share a tile of the weight in L2.
    for pair in tl.range(tl.program_id(0), column_tiles * tiles_of_rows, tl.num_programs(0)):
        column_tile = pair // tiles_of_rows
        first_column = column_tile * BLOCK_V
        row = (pair % tiles_of_rows) * (FIRST + SECOND)
        column = first_column + tl.arange(0, BLOCK_V)
        z = tl.zeros([BLOCK_V, FIRST], tl.float32)
        if SECOND > 0:
            y = tl.zeros([BLOCK_V, SECOND], tl.float32)
        for at in tl.range(0, hidden, BLOCK_H, num_stages=STAGES):
            w = _weight_block(
                weight,
                column,
                first_column,
                at,
                hidden,
                weight_stride,
                columns,
                BLOCK_H,
                DESCRIPTORS,
                UPCAST,
            )
            h = _row_block(first_rows, row, at, hidden, count, FIRST, BLOCK_H, DESCRIPTORS, UPCAST)
            z = tl.dot(w, h.T, z, input_precision="ieee")
            if SECOND > 0:
                g = _row_block(
                    second_rows,
                    row + FIRST,
                    at,
                    hidden,
                    count,
                    SECOND,
                    BLOCK_H,
                    DESCRIPTORS,
                    UPCAST,
                )
                y = tl.dot(w, g.T, y, input_precision="ieee")
        _leave(
            z,
            column,
            row,
            column_tile,
            row_scale,
            tile_max,
            tile_sum,
            count,
            columns,
            column_tiles,
            logit_scale,
            softcap,
            BLOCK_V,
            FIRST,
            HAS_SOFTCAP,
        )
        if SECOND > 0:
            _leave(
                y,
                column,
                row + FIRST,
                column_tile,
                row_scale,
                tile_max,
                tile_sum,
                count,
                columns,
                column_tiles,
                logit_scale,
                softcap,
                BLOCK_V,
                SECOND,
                HAS_SOFTCAP,
            )


@triton.jit
def _half(rows16, rows32, rows64, rows128, ROWS: tl.constexpr):
    """The view of the latent rows that is read this many rows at a time."""
    if ROWS <= 16:
        return rows16
    elif ROWS == 32:
        return rows32
    elif ROWS == 64:
        return rows64
    else:
        return rows128


@triton.jit(
    do_not_specialize=["first", "columns", "column_tiles", "logit_scale", "softcap", "window"],
)
def latent_lse_kernel(
    first,
    weight,  # [columns, hidden], or its descriptor
    rows16,  # [window, hidden], or its descriptors by rows read at a time
    rows32,
    rows64,
    rows128,
    row_scale,  # [window] f32, log2(e) / T
    live_count,  # [1] int32
    tile_max,  # [window, column_tiles] f32
    tile_sum,  # [window, column_tiles] f32
    window,
    hidden,
    weight_stride,
    columns,
    column_tiles,
    logit_scale,
    softcap,
    TILES: tl.constexpr,  # `Table.flat`
    COUNT: tl.constexpr,  # tiles in it
    BLOCK_V: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    count = tl.minimum(tl.load(live_count) - first, window)
    for i in tl.static_range(0, 6 * COUNT, 6):
        if (count > TILES[i]) & (count <= TILES[i + 1]):
            _tiles_of(
                weight,
                _half(rows16, rows32, rows64, rows128, TILES[i + 2]),
                _half(rows16, rows32, rows64, rows128, TILES[i + 3]),
                row_scale,
                tile_max,
                tile_sum,
                count,
                hidden,
                weight_stride,
                columns,
                column_tiles,
                logit_scale,
                softcap,
                BLOCK_V,
                TILES[i + 2],
                TILES[i + 3],
                TILES[i + 4],
                TILES[i + 5],
                HAS_SOFTCAP,
                DESCRIPTORS,
                UPCAST,
            )
