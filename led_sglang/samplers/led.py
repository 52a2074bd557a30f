"""Latent Exploration Decoding (SPEC section 2)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from led_sglang import kernels
from led_sglang.samplers.base import Picks, StepContext
from led_sglang.samplers.led_rows import led_limits, led_rows
from led_sglang.samplers.rows import RowTable
from led_sglang.telemetry import StepRecord

_NAME = "led"


class Led:
    """Samples from the entropy-richest mix of the last layers when the model is unsure."""

    samplers: tuple[str, ...] = (_NAME,)

    def step(self, context: StepContext) -> Picks:
        """SPEC section 2, steps 1 to 7, for every row; see `Method.step`."""
        table = context.table
        mine, limits = table.once(_mask), table.once(_limits)
        rows = led_rows(
            table.once(_columns), mine, table.greedy, context.temperature, context.thinking
        )
        final = kernels.final_posterior(context.logits, rows, limits)
        noise = context.noise.draw(table, final.ids, context.positions)
        result = kernels.led_step(
            final,
            context.latents,
            rows,
            limits,
            context.model.head,
            noise,
            final_norm=context.model.final_norm,
            all_gather=context.model.all_gather,
        )
        record = StepRecord.of(
            replace(result, gate_draw=noise.gate),
            mine,
            rows.thinks & mine,
            context.phases,
            behaviour=table.once(_any_projects),
            trace=table.once(_any_trace),
        )
        return Picks(rows.owns, result.token_ids, record)


def _mask(table: RowTable) -> Tensor:
    return table.mask(_NAME)


def _columns(table: RowTable) -> dict[str, Tensor]:
    return table.columns(_NAME)


def _limits(table: RowTable) -> kernels.LedLimits:
    return led_limits(table.params_of(_NAME), table.any_greedy(_NAME))


def _any_projects(table: RowTable) -> bool:
    return any(params.projects for params in table.params_of(_NAME))


def _any_trace(table: RowTable) -> bool:
    return any(params.trace for params in table.params_of(_NAME))
