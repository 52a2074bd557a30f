"""The rows of a batch: each request's method and parameters, on the host and packed on the device.

A row enters when its request is prefilled and moves with it through filters and merges; nothing is
uploaded in a decode step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from led_sglang.params import SAMPLERS, SOFT_SAMPLERS, MethodParams
from led_sglang.samplers.columns import NO_FILTERS, Columns, Filters
from led_sglang.samplers.led_rows import LED_COLUMNS
from led_sglang.samplers.soft_rows import SOFT_COLUMNS

_T = TypeVar("_T")

# Columns by the block's name, and the block of each method that has one.
_BLOCKS: dict[str, Columns] = {"led": LED_COLUMNS, "soft": SOFT_COLUMNS}
_BLOCK_OF = {"led": "led"} | dict.fromkeys(SOFT_SAMPLERS, "soft")
# A top_k that filters nothing, whatever the vocabulary.
_ALL = float(2**31 - 1)
# Columns of every row, in front of the methods' own.
_COMMON = Columns(
    kinds={
        "method": int,
        "greedy": bool,
        "has_seed": bool,
        "top_k": int,
        "top_p": float,
        "min_p": float,
    },
    plain=[float(SAMPLERS.index("regular")), 1.0, 0.0, _ALL, 1.0, 0.0],
    pack=lambda row: [
        float(SAMPLERS.index(row.sampler)),
        float(row.greedy),
        float(row.seed is not None),
        float(row.filters.top_k) if row.filters.top_k > 0 else _ALL,
        row.filters.top_p,
        row.filters.min_p,
    ],
)


@dataclass(frozen=True, slots=True)
class Row:
    """One request; `params` is None for a `regular` one."""

    sampler: str = "regular"
    params: MethodParams | None = None
    greedy: bool = False
    seed: int | None = None
    filters: Filters = NO_FILTERS

    @property
    def plain(self) -> bool:
        """Whether the engine alone samples it."""
        return self.sampler == "regular"


PLAIN_ROW = Row()
_PLAIN_VALUES = [*_COMMON.plain, *(v for block in _BLOCKS.values() for v in block.plain)]
_OFFSETS: dict[str, slice] = {}
_end = len(_COMMON.plain)
for _name, _block in _BLOCKS.items():
    _OFFSETS[_name] = slice(_end, _end + len(_block.plain))
    _end += len(_block.plain)


def _pack(row: Row) -> list[float]:
    if row.plain:
        return _PLAIN_VALUES
    values = [*_COMMON.pack(row)]
    for name, block in _BLOCKS.items():
        values += block.pack(row.params) if name == _BLOCK_OF.get(row.sampler) else block.plain
    return values


def upload(values: Tensor, device: torch.device | str, pin: bool) -> Tensor:
    """A host tensor on `device`; page-locked, its copy does not wait for the device's queue."""
    return (values.pin_memory() if pin else values).to(device, non_blocking=True)


@dataclass(frozen=True)
class RowTable:
    """Rows of a batch: `rows` on the host; `packed` [B, columns] f64 and `seeds` [B] int64.

    pin: uploads go through page-locked memory.
    """

    rows: tuple[Row, ...]
    packed: Tensor
    seeds: Tensor
    pin: bool
    _derived: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def build(cls, rows: Sequence[Row], device: torch.device | str, pin: bool) -> RowTable:
        """Upload once, without blocking the host where it can be avoided."""
        packed = torch.tensor([_pack(row) for row in rows], dtype=torch.float64)
        seeds = torch.tensor([row.seed or 0 for row in rows], dtype=torch.int64)
        return cls(tuple(rows), upload(packed, device, pin), upload(seeds, device, pin), pin)

    @classmethod
    def plain(cls, count: int, like: RowTable) -> RowTable:
        """`count` rows that the engine alone samples, on the same device."""
        packed = like.packed.new_empty(count, len(_PLAIN_VALUES))
        for column, value in enumerate(_PLAIN_VALUES):
            packed[:, column] = value
        return cls((PLAIN_ROW,) * count, packed, like.seeds.new_zeros(count), like.pin)

    def keep(self, indices: Sequence[int], device_indices: Tensor) -> RowTable:
        """The rows at `indices`, in that order."""
        return RowTable(
            tuple(self.rows[i] for i in indices),
            self.packed.index_select(0, device_indices),
            self.seeds.index_select(0, device_indices),
            self.pin,
        )

    def join(self, other: RowTable) -> RowTable:
        """These rows, then the other's."""
        return RowTable(
            self.rows + other.rows,
            torch.cat([self.packed, other.packed]),
            torch.cat([self.seeds, other.seeds]),
            self.pin,
        )

    def once(self, make: Callable[[RowTable], _T]) -> _T:
        """`make(self)`, computed once per composition of the batch and not once per step."""
        if make not in self._derived:
            self._derived[make] = make(self)
        result: _T = self._derived[make]
        return result

    def upload(self, values: Tensor) -> Tensor:
        """A host tensor on the table's device."""
        return upload(values, self.packed.device, self.pin)

    @cached_property
    def samplers(self) -> frozenset[str]:
        """The methods of the rows, `regular` left out."""
        return frozenset(row.sampler for row in self.rows if not row.plain)

    def places_of(self, *samplers: str) -> Tensor:
        """[D] int64: places of the rows of these methods."""
        places = [i for i, row in enumerate(self.rows) if row.sampler in samplers]
        return self.upload(torch.tensor(places, dtype=torch.int64))

    def params_of(self, *samplers: str) -> list[Any]:
        """Parameters of the rows of these methods."""
        return [row.params for row in self.rows if row.sampler in samplers]

    def any_seeded(self, *samplers: str) -> bool:
        """Whether a row of these methods has a seed."""
        return any(row.seed is not None for row in self.rows if row.sampler in samplers)

    def any_greedy(self, *samplers: str) -> bool:
        """Whether a row of these methods has temperature 0."""
        return any(row.greedy for row in self.rows if row.sampler in samplers)

    @cached_property
    def _common(self) -> dict[str, Tensor]:
        return _COMMON.unpack(self.packed[:, : len(_COMMON.plain)])

    @property
    def greedy(self) -> Tensor:
        """[B] bool: temperature 0."""
        return self._common["greedy"]

    @property
    def has_seed(self) -> Tensor:
        """[B] bool."""
        return self._common["has_seed"]

    @property
    def filters(self) -> dict[str, Tensor]:
        """top_k, top_p and min_p of every request, [B] each; top_k beyond V filters nothing."""
        return {name: self._common[name] for name in ("top_k", "top_p", "min_p")}

    def mask(self, *samplers: str) -> Tensor:
        """[B] bool: the rows of these methods."""
        method = self._common["method"]
        mask = torch.zeros_like(method, dtype=torch.bool)
        for name in samplers:
            mask |= method == SAMPLERS.index(name)
        return mask

    def columns(self, block: str) -> dict[str, Tensor]:
        """The columns of "led" or "soft" by name, [B] each."""
        return _BLOCKS[block].unpack(self.packed[:, _OFFSETS[block]])
