"""A batch's rows: what each request asked for, on the host and in one packed tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from led_sglang.methods.base import Method
from led_sglang.methods.parameter import Column, unpack

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Row:
    """One request; `params` is None for a `regular` one.

    Its own filters are those that the engine applies too; `top_k` -1: the whole vocabulary.
    """

    sampler: str = "regular"
    params: Any = None
    greedy: bool = False
    seed: int | None = None
    top_k: int = -1
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def regular(self) -> bool:
        """Whether the engine alone samples it."""
        return self.sampler == "regular"


REGULAR_ROW = Row()
# A top_k that filters nothing, whatever the vocabulary.
_ALL = float(2**31 - 1)
# Columns of every row, made of the `Row` itself.
_COMMON = (
    Column("greedy", bool, 1.0, lambda row: row.greedy),
    Column("has_seed", bool, 0.0, lambda row: row.seed is not None),
    Column("top_k", int, _ALL, lambda row: row.top_k if row.top_k > 0 else _ALL),
    Column("top_p", float, 1.0, lambda row: row.top_p),
    Column("min_p", float, 0.0, lambda row: row.min_p),
)


@dataclass(frozen=True)
class Layout:
    """Where the packed tensor of a batch holds what.

    The number of a row's sampler comes first (0: `regular`), then the common columns, then those of
    each method.

    Attributes:
        samplers: names of all samplers; the place of a name is its number.
        blocks: of each sampler, its method's columns and the place of the first of them.
        neutral: the values of a `regular` row.
    """

    samplers: tuple[str, ...]
    blocks: dict[str, tuple[tuple[Column, ...], int]]
    neutral: tuple[float, ...]

    @classmethod
    def of(cls, methods: Iterable[Method]) -> Layout:
        """The layout of all the methods that a process knows."""
        samplers = ["regular"]
        blocks: dict[str, tuple[tuple[Column, ...], int]] = {}
        neutral = [0.0, *(column.neutral for column in _COMMON)]
        for method in methods:
            samplers += method.samplers
            blocks |= dict.fromkeys(method.samplers, (method.columns, len(neutral)))
            neutral += [column.neutral for column in method.columns]
        return cls(tuple(samplers), blocks, tuple(neutral))

    def pack(self, row: Row) -> Sequence[float]:
        """The numbers of one row."""
        if row.regular:
            return self.neutral
        columns, first = self.blocks[row.sampler]
        values = list(self.neutral)
        values[0] = self.samplers.index(row.sampler)
        values[1 : 1 + len(_COMMON)] = [float(column.value(row)) for column in _COMMON]
        own = [float(column.value(row.params)) for column in columns]
        values[first : first + len(own)] = own
        return values


def upload(values: Tensor, device: torch.device | str, pin: bool) -> Tensor:
    """A host tensor on `device`; page-locked, its copy does not wait for the device's queue."""
    return (values.pin_memory() if pin else values).to(device, non_blocking=True)


@dataclass(frozen=True)
class Repeated:
    """`RowTable.once`'s way to a table with each row `times` times: those of drafted nodes."""

    times: int

    def __call__(self, table: RowTable) -> RowTable:
        places = [place for place in range(len(table.rows)) for _ in range(self.times)]
        return table.keep(places, table.upload(torch.tensor(places, dtype=torch.int64)))


@dataclass(frozen=True)
class RowTable:
    """Rows of a batch.

    Attributes:
        rows: on the host.
        packed: [B, columns] f64, as `layout` says.
        seeds: [B] int64.
        pin: uploads go through page-locked memory.
        layout: of `packed`.
    """

    rows: tuple[Row, ...]
    packed: Tensor
    seeds: Tensor
    pin: bool
    layout: Layout
    _derived: dict[Callable[..., Any], Any] = field(init=False, default_factory=dict, repr=False)

    @classmethod
    def build(
        cls, rows: Sequence[Row], layout: Layout, device: torch.device | str, pin: bool
    ) -> RowTable:
        """Upload once, without blocking the host where it can be avoided."""
        packed = torch.tensor([layout.pack(row) for row in rows], dtype=torch.float64)
        seeds = torch.tensor([row.seed or 0 for row in rows], dtype=torch.int64)
        return cls(
            tuple(rows), upload(packed, device, pin), upload(seeds, device, pin), pin, layout
        )

    def regular(self, count: int) -> RowTable:
        """Another table, of `count` rows that the engine alone samples, on the same device."""
        packed = self.upload(torch.tensor(self.layout.neutral, dtype=torch.float64))
        packed = packed.repeat(count, 1)
        seeds = self.seeds.new_zeros(count)
        return replace(self, rows=(REGULAR_ROW,) * count, packed=packed, seeds=seeds)

    def keep(self, indices: Sequence[int], device_indices: Tensor) -> RowTable:
        """The rows at `indices`, in that order."""
        return replace(
            self,
            rows=tuple(self.rows[i] for i in indices),
            packed=self.packed.index_select(0, device_indices),
            seeds=self.seeds.index_select(0, device_indices),
        )

    def join(self, other: RowTable) -> RowTable:
        """These rows, then the other's."""
        return replace(
            self,
            rows=self.rows + other.rows,
            packed=torch.cat([self.packed, other.packed]),
            seeds=torch.cat([self.seeds, other.seeds]),
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
        """The samplers of the rows, `regular` left out."""
        return frozenset(row.sampler for row in self.rows if not row.regular)

    def rows_of(self, *samplers: str) -> list[Row]:
        """The rows of these samplers."""
        return [row for row in self.rows if row.sampler in samplers]

    def places_of(self, *samplers: str) -> Tensor:
        """[D] int64: places of the rows of these samplers."""
        places = [i for i, row in enumerate(self.rows) if row.sampler in samplers]
        return self.upload(torch.tensor(places, dtype=torch.int64))

    @cached_property
    def _common(self) -> dict[str, Tensor]:
        return unpack(_COMMON, self.packed[:, 1 : 1 + len(_COMMON)])

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

    @property
    def regular_rows(self) -> Tensor:
        """[B] bool: the rows that the engine alone samples."""
        return self.packed[:, 0] == 0

    def mask(self, *samplers: str) -> Tensor:
        """[B] bool: the rows of these samplers."""
        number = self.packed[:, 0]
        mask = torch.zeros_like(number, dtype=torch.bool)
        for name in samplers:
            mask |= number == self.layout.samplers.index(name)
        return mask

    def columns(self, sampler: str) -> dict[str, Tensor]:
        """The columns of a sampler's method by name, [B] each."""
        columns, first = self.layout.blocks[sampler]
        return unpack(columns, self.packed[:, first : first + len(columns)])
