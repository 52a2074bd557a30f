"""A whole step out of its parts, in plain torch: the think phase before them, a summary after."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..phase import ThinkPhase
from ..types import (
    Decided,
    Draws,
    FinalPosterior,
    LedLimits,
    LedResult,
    LedRows,
    NoiseStream,
    StepNoise,
)

# `Phase.THINK`: without delimiters all of an answer is thought.
_THINK = 1


class StepByParts:
    """`decide` and `settle` of a step that has the other methods of `Step`."""

    def final_posterior(self, logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
        """See `Step.final_posterior`."""
        raise NotImplementedError

    def draw_noise(
        self,
        stream: NoiseStream,
        seeds: Tensor,
        has_seed: Tensor,
        positions: Tensor,
        candidate_ids: Tensor,
    ) -> StepNoise:
        """See `Step.draw_noise`."""
        raise NotImplementedError

    def led_step(
        self,
        final: FinalPosterior,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        noise: StepNoise,
    ) -> LedResult:
        """See `Step.led_step`."""
        raise NotImplementedError

    def decide(
        self,
        logits: Tensor,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        draws: Draws,
        phase: ThinkPhase | None,
    ) -> Decided:
        """See `Step.decide`."""
        led = rows.owns
        if phase is not None:
            thinks = phase.thinking | rows.thinks
            rows = replace(rows, owns=led & (thinks | rows.random_gate), thinks=thinks)
        final = self.final_posterior(logits, rows, limits)
        noise = self.draw_noise(
            draws.stream, draws.seeds, draws.has_seed, draws.positions, final.ids
        )
        result = self.led_step(final, latents, rows, limits, noise)
        result = replace(result, gate_draw=noise.gate)
        phases = torch.full_like(result.depth, _THINK) if phase is None else phase.phases
        # fp32, as p1 is: torch promotes bools and integers to it.
        columns = (led, rows.thinks & led, result.explored, result.depth, result.p1, phases)
        summary = torch.stack([*columns, result.behaviour_logprob], dim=1)
        return Decided(result, rows.owns, summary)

    def settle(
        self,
        token_ids: Tensor,
        decided: Decided,
        phase: ThinkPhase | None,
        *,
        takes: bool = True,
    ) -> None:
        """See `Step.settle`."""
        if takes:
            picks = decided.result.token_ids
            token_ids.copy_(torch.where(decided.owned, picks, token_ids.long()))
        if phase is not None:
            phase.finish(token_ids)
