"""SoftThinking's part of a batch: its rows' parameters, as the kernels take them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from led_sglang.kernels.eager.soft_thinking import SoftLimits, SoftNoise, SoftRows
from led_sglang.methods.rows import Row, RowTable
from led_sglang.methods.soft_thinking.params import SOFT_SAMPLERS

_NOISE = dict(zip(SOFT_SAMPLERS, SoftNoise, strict=True))
_DIRICHLET = SOFT_SAMPLERS[SoftNoise.DIRICHLET]
assert list(SoftNoise) == list(range(len(SOFT_SAMPLERS)))


@dataclass(frozen=True)
class SoftBatch:
    """What a batch's composition decides for all its steps.

    Attributes:
        index: [D] int64, places of the soft rows.
        columns: of `SOFT_COLUMNS` and the requests' own filters, [D] each.
        limits: sizes of a step.
    """

    index: Tensor
    columns: dict[str, Tensor]
    limits: SoftLimits

    @classmethod
    def of(cls, table: RowTable) -> SoftBatch:
        """Read a batch's rows once."""
        index = table.places_of(*SOFT_SAMPLERS)
        columns = table.columns(SOFT_SAMPLERS[0]) | table.filters
        return cls(
            index,
            {name: values[index] for name, values in columns.items()},
            _limits(table.rows_of(*SOFT_SAMPLERS)),
        )

    def rows(self, temperature: Tensor) -> SoftRows:
        """The kernels' view of one step at `temperature` [B] f32."""
        names = ("top_k", "top_p", "min_p", "max_topk", "noise", "noise_value")
        return SoftRows(
            temperature=temperature[self.index], **{name: self.columns[name] for name in names}
        )


def _limits(rows: list[Row]) -> SoftLimits:
    kinds = {_NOISE[row.params.noise] for row in rows}
    # Without a top_k, Dirichlet noise draws for the whole vocabulary.
    whole = any(row.top_k <= 0 and row.params.noise == _DIRICHLET for row in rows)
    return SoftLimits(
        width=max(row.params.max_topk for row in rows),
        depth=2**31 - 1 if whole else max(1, *(row.top_k for row in rows)),
        gumbel=SoftNoise.GUMBEL in kinds,
        dirichlet=SoftNoise.DIRICHLET in kinds,
    )
