"""The example of docs/adding.md: a method that takes the n-th likeliest token.

It is a folder of its own and one line in the registry, which `serve.py` writes for the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from led_sglang.methods.base import LoadedModel, Method, Picks, StepContext
from led_sglang.methods.parameter import columns_of, parameter
from led_sglang.methods.values import integer


@dataclass(frozen=True, slots=True)
class NthLikeliestParams:
    """One request's settings."""

    place: int = parameter(
        1, integer(1, 8), values="1 .. 8", meaning="1 takes the likeliest token", neutral=1.0
    )


class NthLikeliest(Method):
    """Takes the n-th likeliest token in every step."""

    samplers = ("nth-likeliest",)
    params = NthLikeliestParams
    columns = columns_of(NthLikeliestParams)

    def bind(self, model: LoadedModel, state: Any) -> NthLikeliestSampler:
        """See `Method.bind`."""
        return NthLikeliestSampler()


class NthLikeliestSampler:
    """The method at work."""

    def step(self, context: StepContext) -> Picks:
        """See `TokenSampler.step`."""
        place = context.table.columns("nth-likeliest")["place"]
        likeliest = context.logits.topk(8, dim=1).indices
        token_ids = likeliest.gather(1, place[:, None] - 1)[:, 0]
        return Picks(context.table.mask("nth-likeliest"), token_ids)
