"""LED's part of a batch: its rows' parameters, as the kernels take them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from torch import Tensor

from led_sglang.kernels import Gate, LedLimits, LedRows
from led_sglang.methods.led.params import GATES, LED_COLUMNS, LedParams
from led_sglang.methods.rows import RowTable

_NAME = "led"
assert tuple(gate.name.lower() for gate in Gate) == GATES
# The columns that the kernels read under the same name.
_PASSED_ON = {column.name for column in LED_COLUMNS} & {field.name for field in fields(LedRows)}


@dataclass(frozen=True)
class LedBatch:
    """What a batch's composition decides for all its steps.

    Attributes:
        mine: [B] bool, the rows of LED requests.
        columns: of `LED_COLUMNS`, [B] each.
        limits: sizes of a step, and what none of the rows asks for.
        trace: whether a row wants all of each step's numbers.
        answers_q: whether a row's answer holds q.
    """

    mine: Tensor
    columns: dict[str, Tensor]
    limits: LedLimits
    trace: bool
    answers_q: bool
    _rows: list[LedRows] = field(init=False, default_factory=list, repr=False)

    @classmethod
    def of(cls, table: RowTable) -> LedBatch:
        """Read a batch's rows once."""
        mine = table.rows_of(_NAME)
        params: list[LedParams] = [row.params for row in mine]
        behaviour, trace = any(p.projects for p in params), any(p.trace for p in params)
        limits = LedLimits(
            candidates=max((p.candidates for p in params), default=1),
            depth=max((p.depth for p in params), default=1),
            final_norm=any(p.final_norm for p in params),
            entropy=trace or any(p.gate == "entropy" for p in params),
            behaviour=behaviour,
            greedy=any(row.greedy for row in mine),
            nucleus=any(p.candidate_top_p < 1.0 for p in params),
            floor=any(p.floor > 0.0 for p in params),
            normalize_layers=any(p.normalize_layers for p in params),
            gates=frozenset(Gate[p.gate.upper()] for p in params),
        )
        answers_q = any(p.answers_q for p in params)
        return cls(table.mask(_NAME), table.columns(_NAME), limits, trace, answers_q)

    def rows(self, greedy: Tensor, temperature: Tensor) -> LedRows:
        """The kernels' view of the batch: greedy [B] bool, temperature [B] f32.

        Steps that bring the same temperatures, as an object, get one and the same rows.
        """
        if not self._rows or self._rows[0].temperature is not temperature:
            rows = LedRows(
                temperature=temperature,
                greedy=greedy,
                # the authors' code draws the gate of greedy rows too, and keeps sampling the final
                # layer's candidates after the think phase
                random_gate=self.columns["release_preset"],
                owns=self.mine,
                thinks=~self.columns["think_only"],
                **{name: self.columns[name] for name in _PASSED_ON},
            )
            self._rows[:] = [rows]
        return self._rows[0]
