"""The soft step: a mixture of embeddings, and the cold stop (docs/method.md#soft-thinking)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from led_sglang.kernels import noise_origins
from led_sglang.kernels.eager.soft_thinking import soft_mixture
from led_sglang.methods.base import LoadedModel, Picks, StepContext
from led_sglang.methods.soft_thinking.record import SoftRecord
from led_sglang.methods.soft_thinking.rows import SoftBatch
from led_sglang.methods.soft_thinking.state import SoftState


class SoftSampler:
    """SoftThinking at work on a loaded model."""

    def __init__(self, model: LoadedModel, state: SoftState) -> None:
        self._model, self._state = model, state

    def step(self, context: StepContext) -> Picks:
        """The mixtures of one step, and the cold stop; see `TokenSampler.step`."""
        state, table = self._state, context.table
        batch = table.once(SoftBatch.of)
        index, columns = batch.index, batch.columns
        slots, logits = context.slots[index], context.logits[index]
        seeds, positions = noise_origins(
            self._model.noise, table.seeds, table.has_seed, context.positions.long()
        )
        mixture = soft_mixture(
            logits, batch.rows(context.temperature), batch.limits, seeds[index], positions[index]
        )
        phase = context.phase
        # Without delimiters all of an answer is thought.
        thinking = torch.ones_like(table.has_seed) if phase is None else phase.thinking
        phases = torch.ones_like(context.positions) if phase is None else phase.phases
        thinks = thinking[index]
        stop = _cold_stop(
            streak=state.streak[slots],
            low=mixture.entropy < columns["entropy_threshold"],
            may_stop=thinks & (columns["entropy_threshold"] > 0),
            length=columns["length_threshold"],
            end=self._model.think_end,
            logits=logits,
        )
        tokens = torch.where(stop.forced, stop.token_ids, mixture.ids[:, 0])
        owned = torch.zeros_like(thinking).index_copy(0, index, thinks)
        everyone = torch.zeros_like(context.positions).index_copy(0, index, tokens)
        # The token that ends the thought and a forced one are fed as themselves.
        after = thinking if phase is None else phase.thinks_after(everyone)
        active = thinks & ~stop.forced & after[index]
        streak = torch.where(thinks, stop.streak, 0)
        state.store(slots, mixture.ids, mixture.weights, active, streak)
        record = SoftRecord(
            index=index,
            phases=phases[index],
            entropy=mixture.entropy,
            forced=stop.forced,
            active=active,
            streak=streak,
            ids=mixture.ids,
            weights=mixture.weights,
        )
        return Picks(owned, everyone, record)


@dataclass(frozen=True)
class _Stop:
    forced: Tensor  # [D] bool: this step emits a token of the think end
    token_ids: Tensor  # [D] int64, that token
    streak: Tensor  # [D] int64 for the slot, see `SoftState`


def _cold_stop(
    *, streak: Tensor, low: Tensor, may_stop: Tensor, length: Tensor, end: Tensor, logits: Tensor
) -> _Stop:
    """Low entropy for `length` consecutive steps, this one counted, forces the think end."""
    count = torch.where(low, streak.clamp(min=0) + 1, 0)
    out = (-streak).clamp(min=0)  # tokens of the think end forced so far
    token_ids = end[out.clamp(max=len(end) - 1)]
    # A grammar that forbids the token keeps the last word.
    allowed = logits.gather(1, token_ids[:, None])[:, 0] > -torch.inf
    forced = may_stop & allowed & ((out > 0) | (count >= length))
    unfinished = out + 1 < len(end)
    return _Stop(
        forced, token_ids, torch.where(forced, torch.where(unfinished, -(out + 1), 0), count)
    )
