"""How a method's per-row parameters lie in a batch's packed tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Filters:
    """A request's own filters, which the engine applies too. `top_k` -1: the whole vocabulary."""

    top_k: int = -1
    top_p: float = 1.0
    min_p: float = 0.0


NO_FILTERS = Filters()


@dataclass(frozen=True)
class Columns:
    """The columns of one method.

    Attributes:
        kinds: name and type (bool, int or float) of each column, in order.
        plain: what rows of other methods hold: values a step can compute with, then discard.
        pack: the values of a row of the method, from its parameters.
    """

    kinds: Mapping[str, type]
    plain: Sequence[float]
    pack: Callable[[Any], Sequence[float]]

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Columns by name: [B] bool, int64 or f32, from [B, columns] f64."""
        return {
            name: column.bool()
            if kind is bool
            else column.long()
            if kind is int
            else column.float()
            for (name, kind), column in zip(self.kinds.items(), packed.unbind(1), strict=True)
        }
