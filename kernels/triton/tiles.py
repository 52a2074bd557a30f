"""Tile shapes of the latent logsumexp: a small table, so that nothing is tuned while serving.

None of it has been measured yet. The table follows from shared memory, registers and the roofline;
for H20 and A100 it is predicted from their datasheets alone (`python -m benchmarks.kernels
predict`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

# Columns of the LM head per tile, on the matrix instruction's long side. 151936 / 128 = 1187 tiles
# is 8.99 waves of 132 multiprocessors and 10.99 of 108: next to nothing is lost to the last wave.
BLOCK_COLUMNS = 128

# The halves of a row tile that there are; each has a descriptor.
HALVES = (16, 32, 64, 128)

# Programs that stand in for a GPU's when there is none (Triton's interpreter).
_INTERPRETED_PROGRAMS = 3


@dataclass(frozen=True)
class RowTile:
    """Rows that share one tile of the weight: two products where no power of two fits.

    Attributes:
        first, second: rows of each product, of `HALVES`; second 0: there is one.
        block: elements of the hidden size taken at once.
        stages: blocks in flight.
    """

    first: int
    second: int
    block: int
    stages: int

    @property
    def rows(self) -> int:
        """Rows of the tile."""
        return self.first + self.second


@dataclass(frozen=True)
class Table:
    """The row tiles of one launch, ascending; the live row count takes the smallest that holds it,
    a larger one several of the last.

    Attributes:
        warps: of a program.
        programs: per multiprocessor, so that one streams weights while another reduces.
    """

    tiles: tuple[RowTile, ...]
    warps: int
    programs: int

    @property
    def flat(self) -> tuple[int, ...]:
        """As the kernel takes it: of each tile, the count of live rows that is too few for it, the
        largest it serves, first, second, block and stages."""
        flat: list[int] = []
        below = 0
        for tile in self.tiles:
            most = _NO_LIMIT if tile is self.tiles[-1] else tile.rows
            flat += [below, most, tile.first, tile.second, tile.block, tile.stages]
            below = tile.rows
        return tuple(flat)


def _tiles(*tiles: tuple[int, int, int, int]) -> tuple[RowTile, ...]:
    return tuple(RowTile(*tile) for tile in tiles)


# By card: steps of up to 128 latent rows, then those of more. Descriptors have one block size.
_NARROW = {
    "sm_90": _tiles(
        *((16, 0, 64, 4), (32, 0, 64, 4), (32, 16, 64, 4), (64, 0, 64, 4), (64, 32, 64, 3)),
        (128, 0, 64, 3),
    ),
    "sm_80": _tiles(
        *((16, 0, 64, 5), (32, 0, 64, 5), (32, 16, 64, 4), (64, 0, 64, 4), (64, 32, 32, 5)),
        (128, 0, 32, 5),
    ),
}
_WIDE = {
    "sm_90": _tiles((128, 64, 64, 4), (128, 128, 64, 3)),
    # 128 and 128 rows would spill registers there.
    "sm_80": _tiles((128, 64, 32, 4)),
}
# H20: from 37 rows on arithmetic is the limit, so every row of padding costs time.
_NARROW["h20"] = _tiles(
    *((16, 0, 64, 4), (32, 0, 64, 4), (32, 16, 64, 4), (64, 0, 64, 4), (64, 16, 64, 3)),
    *((64, 32, 64, 3), (128, 0, 64, 3)),
)
_WIDE["h20"] = _tiles((128, 32, 64, 4), (128, 64, 64, 4), (128, 128, 64, 3))

_TABLES = {
    card: (Table(_NARROW[card], warps=4, programs=2), Table(_NARROW[card] + _WIDE[card], 8, 1))
    for card in _NARROW
}

# fp32 products run on the ordinary units (tensor cores would round the operands to 10 bits).
_FP32 = Table(_tiles((16, 0, 16, 2), (32, 0, 16, 2)), warps=4, programs=2)

_NO_LIMIT = 2**31 - 1

# Multiprocessors of an H20; all other cards of its architecture have over 100.
_H20_MULTIPROCESSORS = 78


def column_tiles(columns: int) -> int:
    """Tiles of columns in a shard of this many: partials per row of the latent logsumexp."""
    return -(-columns // BLOCK_COLUMNS)


@dataclass(frozen=True)
class Chip:
    """What the launches need to know of a device.

    Attributes:
        card: the table's row: `sm_80`, `sm_90` or `h20`.
        multiprocessors: of the device.
        index: its number; None in Triton's interpreter.
    """

    card: str
    multiprocessors: int
    index: int | None

    @property
    def interpreted(self) -> bool:
        """There is no GPU."""
        return self.index is None

    @property
    def has_copy_engine(self) -> bool:
        """Tensors can be read by descriptors."""
        return self.card != "sm_80"


@cache
def chip_of(device: torch.device) -> Chip:
    """Of a device; one of a newer kind takes the table whose shared memory it has."""
    if device.type != "cuda":
        return Chip("sm_80", _INTERPRETED_PROGRAMS, None)
    count = int(torch.cuda.get_device_properties(device).multi_processor_count)
    card = "sm_80"
    # sm_12x has 100 KB a multiprocessor.
    if torch.cuda.get_device_capability(device)[0] in (9, 10, 11):
        card = "h20" if count <= _H20_MULTIPROCESSORS else "sm_90"
    index = torch.cuda.current_device() if device.index is None else device.index
    return Chip(card, count, index)


def row_tiles(dtype: torch.dtype, card: str = "sm_90") -> tuple[int, ...]:
    """Rows of the row tiles there are for a weight of this type, ascending."""
    return tuple(tile.rows for tile in table_for(card, _NO_LIMIT, dtype).tiles)


def table_for(card: str, at_most: int, dtype: torch.dtype) -> Table:
    """The row tiles of a step.

    Args:
        card: see `Chip`.
        at_most: latent rows of the step, if all its requests explored.
        dtype: of the LM head.
    """
    if dtype == torch.float32:
        return _FP32
    narrow, wide = _TABLES[card]
    return narrow if at_most <= narrow.tiles[-1].rows else wide
