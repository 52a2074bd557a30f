"""The LED parameters of a batch's rows, on the host and packed on the device.

A row enters when its request is prefilled and moves with it through filters and merges; nothing is
uploaded in a decode step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from led_sglang.kernels import Gate, LedLimits, LedRows
from led_sglang.params import LedParams


@dataclass(frozen=True, slots=True)
class Row:
    """One request. `params` is None for a request that LED leaves alone."""

    params: LedParams | None = None
    greedy: bool = False
    seed: int | None = None


PLAIN_ROW = Row()

_COLUMNS = (
    "is_led",
    "greedy",
    "depth",
    "candidates",
    "candidate_top_p",
    "floor",
    "final_norm",
    "normalize_layers",
    "release_layers",
    "gate",
    "gate_value",
    "release_preset",
    "think_only",
    "projects",
    "has_seed",
)


def _pack(row: Row) -> list[float]:
    p = row.params
    if p is None:
        # depth and candidates of a plain row stay in range: kernels compute, then discard them
        return [0.0, 1.0, 1.0, 1.0, 1.0, *[0.0] * (len(_COLUMNS) - 5)]
    return [
        1.0,
        float(row.greedy),
        float(p.depth),
        float(p.candidates),
        p.candidate_top_p,
        p.floor,
        float(p.final_norm),
        float(p.normalize_layers),
        float(p.layers == "release"),
        float(Gate[p.gate.upper()]),
        p.gate_value,
        float(p.preset == "release"),
        float(p.think_only),
        float(p.projects),
        float(row.seed is not None),
    ]


@dataclass(frozen=True)
class RowTable:
    """Rows of a batch: `rows` on the host; `packed` [B, columns] f64 and `seeds` [B] int64."""

    rows: tuple[Row, ...]
    packed: Tensor
    seeds: Tensor

    @classmethod
    def build(cls, rows: Sequence[Row], device: torch.device | str, pin: bool) -> RowTable:
        """Upload once, without blocking the host where it can be avoided."""
        packed = torch.tensor([_pack(row) for row in rows], dtype=torch.float64, pin_memory=pin)
        seeds = torch.tensor([row.seed or 0 for row in rows], dtype=torch.int64, pin_memory=pin)
        return cls(
            tuple(rows),
            packed.to(device, non_blocking=True),
            seeds.to(device, non_blocking=True),
        )

    @classmethod
    def plain(cls, count: int, like: RowTable) -> RowTable:
        """`count` rows that LED leaves alone, on the same device."""
        packed = like.packed.new_zeros(count, len(_COLUMNS))
        packed[:, 1:5] = 1.0
        return cls((PLAIN_ROW,) * count, packed, like.seeds.new_zeros(count))

    def keep(self, indices: Sequence[int], device_indices: Tensor) -> RowTable:
        """The rows at `indices`, in that order."""
        return RowTable(
            tuple(self.rows[i] for i in indices),
            self.packed.index_select(0, device_indices),
            self.seeds.index_select(0, device_indices),
        )

    def join(self, other: RowTable) -> RowTable:
        """These rows, then the other's."""
        return RowTable(
            self.rows + other.rows,
            torch.cat([self.packed, other.packed]),
            torch.cat([self.seeds, other.seeds]),
        )

    @cached_property
    def any_led(self) -> bool:
        return any(row.params is not None for row in self.rows)

    @cached_property
    def any_trace(self) -> bool:
        return any(row.params is not None and row.params.trace for row in self.rows)

    @cached_property
    def any_behaviour(self) -> bool:
        return any(row.params is not None and row.params.projects for row in self.rows)

    @cached_property
    def any_seeded(self) -> bool:
        return any(row.params is not None and row.seed is not None for row in self.rows)

    @cached_property
    def limits(self) -> LedLimits:
        params = [row.params for row in self.rows if row.params is not None]
        return LedLimits(
            candidates=max((p.candidates for p in params), default=1),
            depth=max((p.depth for p in params), default=1),
            final_norm=any(p.final_norm for p in params),
            entropy=any(p.gate == "entropy" or p.trace for p in params),
        )

    @cached_property
    def _columns(self) -> dict[str, Tensor]:
        """Unpacked once per composition of the batch, not once per step."""
        column = dict(zip(_COLUMNS, self.packed.unbind(1), strict=True))
        whole = ("depth", "candidates", "gate")
        real = ("candidate_top_p", "floor", "gate_value")
        return {
            name: value.long() if name in whole else value.float() if name in real else value.bool()
            for name, value in column.items()
        }

    @property
    def is_led(self) -> Tensor:
        return self._columns["is_led"]

    @property
    def has_seed(self) -> Tensor:
        return self._columns["has_seed"]

    def led_rows(self, temperature: Tensor, thinking: Tensor) -> LedRows:
        """The kernels' view of a step.

        Args:
            temperature: [B] f32.
            thinking: [B] bool, from the phase machine.
        """
        c = self._columns
        thinks = thinking | ~c["think_only"]
        return LedRows(
            temperature=temperature,
            greedy=c["greedy"],
            depth=c["depth"],
            candidates=c["candidates"],
            candidate_top_p=c["candidate_top_p"],
            floor=c["floor"],
            final_norm=c["final_norm"],
            normalize_layers=c["normalize_layers"],
            release_layers=c["release_layers"],
            gate=c["gate"],
            gate_value=c["gate_value"],
            random_gate=c["release_preset"],
            # the authors' code keeps sampling the final layer's candidates after the think phase
            owns=c["is_led"] & (thinks | c["release_preset"]),
            thinks=thinks,
            projects=c["projects"],
        )
