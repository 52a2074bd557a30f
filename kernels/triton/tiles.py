"""Tile shapes of the latent logsumexp: a small table, so that nothing is tuned while serving."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Columns of the LM head per tile, on the matrix instruction's long side. 151936 / 128 = 1187 tiles
# is 8.99 waves of 132 multiprocessors and 10.99 of 108: next to nothing is lost to the last wave.
BLOCK_COLUMNS = 128

# Rows per tile. Each is its own launch and exits at once unless the live row count is in its range:
# a 128-row tile for a handful of rows would be compute-bound where the weights' bandwidth is free.
ROW_TILES: tuple[int, ...] = (16, 32, 64, 128)

# Programs that stand in for a GPU's when there is none (Triton's interpreter).
_INTERPRETED_PROGRAMS = 3


@dataclass(frozen=True)
class Tile:
    """How the hidden size is walked through."""

    block: int  # elements of the hidden size
    stages: int
    programs: int  # per multiprocessor, so that one streams weights while another reduces


# (architecture, row tile, hidden size; None is any). Chosen by shared memory and registers, not yet
# by measurement: two or more programs fit a multiprocessor (228 KB on sm_90, 164 KB on sm_80).
_TILES: dict[tuple[int, int, int | None], Tile] = {
    (90, 16, None): Tile(block=64, stages=4, programs=3),
    (90, 32, None): Tile(block=64, stages=4, programs=2),
    (90, 64, None): Tile(block=64, stages=4, programs=2),
    (90, 128, None): Tile(block=64, stages=3, programs=2),
    (80, 16, None): Tile(block=64, stages=5, programs=2),
    (80, 32, None): Tile(block=64, stages=5, programs=2),
    (80, 64, None): Tile(block=64, stages=4, programs=2),
    (80, 128, None): Tile(block=32, stages=5, programs=2),
}

# fp32 products run on the ordinary units (tensor cores would round the operands to 10 bits).
_TILE_FP32 = Tile(block=16, stages=2, programs=2)
_ROW_TILES_FP32 = (16, 32)


def column_tiles(columns: int) -> int:
    """Tiles of columns in a shard of this many: partials per row of the latent logsumexp."""
    return -(-columns // BLOCK_COLUMNS)


def architecture(device: torch.device) -> int:
    """80 or 90: the table's column for this device. Newer devices take the newest column."""
    if device.type != "cuda":
        return 80
    return 90 if torch.cuda.get_device_capability(device)[0] >= 9 else 80


def row_tiles(dtype: torch.dtype) -> tuple[int, ...]:
    """Row tiles there are for a weight of this type, ascending."""
    return _ROW_TILES_FP32 if dtype == torch.float32 else ROW_TILES


def tile_for(hidden: int, row_tile: int, arch: int, dtype: torch.dtype) -> Tile:
    """The table's entry for the hidden size, or the one for any hidden size."""
    if dtype == torch.float32:
        return _TILE_FP32
    return _TILES.get((arch, row_tile, hidden)) or _TILES[arch, row_tile, None]


def programs(device: torch.device, tile: Tile) -> int:
    """Size of the persistent grid."""
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    properties = torch.cuda.get_device_properties(device)
    return int(properties.multi_processor_count) * tile.programs
