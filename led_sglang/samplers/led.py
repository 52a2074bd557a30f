"""Latent Exploration Decoding (SPEC section 2)."""

from __future__ import annotations

from dataclasses import replace

from led_sglang import kernels
from led_sglang.samplers.base import StepContext


class Led:
    """Samples from the entropy-richest mix of the last layers when the model is unsure."""

    name = "led"

    def step(self, context: StepContext) -> kernels.LedResult:
        """SPEC section 2, steps 1 to 7, for every row; see `Method.step`."""
        table, rows = context.table, context.rows
        final = kernels.final_posterior(context.logits, rows, table.limits)
        noise = context.noise.draw(table, final.ids, context.positions)
        result = kernels.led_step(
            final,
            context.latents,
            rows,
            table.limits,
            context.model.head,
            noise,
            final_norm=context.model.final_norm,
            all_gather=context.model.all_gather,
        )
        return replace(result, gate_draw=noise.gate)
