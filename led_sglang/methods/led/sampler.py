"""Latent Exploration Decoding (docs/method.md#one-led-step)."""

from __future__ import annotations

from torch import Tensor

from led_sglang.kernels import Draws
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
        decided = step.decide(
            context.logits,
            context.latents,
            batch.rows(table.greedy, context.temperature),
            batch.limits,
            Draws(model.noise, table.seeds, table.has_seed, context.positions.long()),
            context.phase,
        )

        def settle(token_ids: Tensor, takes: bool) -> None:
            step.settle(token_ids, decided, context.phase, takes=takes)

        result, behaviour = decided.result, None
        if batch.answers_q:
            behaviour = Behaviour(
                result.candidate_ids,
                result.behaviour_probs,
                result.behaviour_logprob,
                batch.columns["reports_q"],
            )
        record = LedRecord.of(decided, trace=batch.trace)
        return Picks(decided.owned, result.token_ids, record, behaviour, settle)
