"""Latent Exploration Decoding (docs/method.md#notation)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from led_sglang.kernels import LedLimits
from led_sglang.samplers.base import Picks, StepContext
from led_sglang.samplers.led_rows import led_limits, led_rows
from led_sglang.samplers.rows import RowTable
from led_sglang.telemetry import StepRecord

_NAME = "led"


class Led:
    """Samples from the entropy-richest mix of the last layers when the model is unsure."""

    samplers: tuple[str, ...] = (_NAME,)

    def step(self, context: StepContext) -> Picks:
        """LED's step for every row of the batch; see `Method.step`."""
        table, step = context.table, context.step
        mine, limits = table.once(_mask), table.once(_limits)
        rows = led_rows(
            table.once(_columns), mine, table.greedy, context.temperature, context.thinking
        )
        final = step.final_posterior(context.logits, rows, limits)
        noise = step.draw_noise(
            context.noise, table.seeds, table.has_seed, context.positions.long(), final.ids
        )
        result = step.led_step(final, context.latents, rows, limits, noise)
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


def _limits(table: RowTable) -> LedLimits:
    return led_limits(table.params_of(_NAME), table.any_greedy(_NAME))


def _any_projects(table: RowTable) -> bool:
    return any(params.projects for params in table.params_of(_NAME))


def _any_trace(table: RowTable) -> bool:
    return any(params.trace for params in table.params_of(_NAME))
