"""Latent Exploration Decoding (docs/method.md#one-led-step)."""

from __future__ import annotations

from dataclasses import replace

from led_sglang.methods.base import Behaviour, LoadedModel, Picks, StepContext
from led_sglang.methods.led.record import LedRecord
from led_sglang.methods.led.rows import LedBatch


class LedSampler:
    """LED at work on a loaded model."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def step(self, context: StepContext) -> Picks:
        """The whole step for every row, and which rows are LED's; see `TokenSampler.step`."""
        model, step, table = self._model, self._model.step, context.table
        batch = table.once(LedBatch.of)
        rows = batch.rows(table.greedy, context.temperature, context.thinking)
        final = step.final_posterior(context.logits, rows, batch.limits)
        noise = step.draw_noise(
            model.noise, table.seeds, table.has_seed, context.positions.long(), final.ids
        )
        result = step.led_step(final, context.latents, rows, batch.limits, noise)
        record = LedRecord.of(
            replace(result, gate_draw=noise.gate),
            batch.mine,
            rows.thinks & batch.mine,
            context.phases,
            behaviour=batch.limits.behaviour,
            trace=batch.trace,
        )
        behaviour = None
        if batch.answers_q:
            behaviour = Behaviour(
                result.candidate_ids,
                result.behaviour_probs,
                result.behaviour_logprob,
                batch.columns["reports_q"],
            )
        return Picks(rows.owns, result.token_ids, record, behaviour)
