"""SoftThinking and its variants: the next input is a mixture (docs/method.md#soft-thinking)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from led_sglang.kernels import noise_origins
from led_sglang.kernels.eager.soft_thinking import SoftLimits, soft_mixture
from led_sglang.params import SOFT_SAMPLERS
from led_sglang.samplers.base import Picks, StepContext
from led_sglang.samplers.rows import RowTable
from led_sglang.samplers.soft_rows import soft_limits, soft_rows
from led_sglang.soft_telemetry import SoftRecord


class SoftThinking:
    """Emits the heaviest token of a mixture and feeds the mixture back, while thinking."""

    samplers: tuple[str, ...] = SOFT_SAMPLERS

    def step(self, context: StepContext) -> Picks:
        """The mixtures of one step, and the cold stop; see `Method.step`."""
        table, soft = context.table, context.soft
        assert soft is not None, "the server allocates it where a soft method is enabled"
        index, limits = table.once(_places), table.once(_limits)
        columns = table.once(_columns)
        slots = context.slots[index]
        seeds, positions = noise_origins(
            context.noise, table.seeds, table.has_seed, context.positions.long()
        )
        mixture = soft_mixture(
            context.logits[index],
            soft_rows(columns, table.filters, context.temperature, index),
            limits,
            seeds[index],
            positions[index],
        )
        thinks = context.thinking[index]
        stop = _cold_stop(
            streak=soft.streak[slots],
            low=mixture.entropy < columns["entropy_threshold"][index],
            may_stop=thinks & (columns["entropy_threshold"][index] > 0),
            length=columns["length_threshold"][index],
            end=context.think_end,
            logits=context.logits[index],
        )
        tokens = torch.where(stop.forced, stop.token_ids, mixture.ids[:, 0])
        owned = torch.zeros_like(context.thinking).index_copy(0, index, thinks)
        everyone = torch.zeros_like(context.positions).index_copy(0, index, tokens)
        # The token that ends the thought and a forced one are fed as themselves.
        active = thinks & ~stop.forced & context.thinks_after(everyone)[index]
        streak = torch.where(thinks, stop.streak, 0)
        soft.store(slots, mixture.ids, mixture.weights, active, streak)
        record = SoftRecord(
            index=index,
            phases=context.phases[index],
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
        forced,
        token_ids,
        torch.where(forced, torch.where(unfinished, -(out + 1), 0), count),
    )


def _places(table: RowTable) -> Tensor:
    return table.places_of(*SOFT_SAMPLERS)


def _columns(table: RowTable) -> dict[str, Tensor]:
    return table.columns("soft")


def _limits(table: RowTable) -> SoftLimits:
    filters = [row.filters for row in table.rows if row.sampler in SOFT_SAMPLERS]
    return soft_limits(table.params_of(*SOFT_SAMPLERS), filters)
