"""The think phase of a step's rows, on the device (docs/method.md#think-phase), in plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# In place of a row's first state: it keeps the state of its slot.
KEEP = -1


@dataclass(frozen=True)
class DeviceTables:
    """An automaton over token ids as look-up tables.

    Attributes:
        token_class: [V + 1] int64, the class of each token id; the last entry stands for every id
            outside the vocabulary. int64 although uint8 would hold it: torch reads a uint8 index
            as a mask, so a smaller table would cost a cast in every step.
        transitions: [num_states, num_classes] int64.
        thinks: [num_states] bool.
        phases: [num_states] int64.
    """

    token_class: Tensor
    transitions: Tensor
    thinks: Tensor
    phases: Tensor

    def advance(self, state: Tensor, token_ids: Tensor) -> Tensor:
        """States [B] int64 after one more token a row; gathers only, no host sync.

        Args:
            state: [B] int64, states of the automaton.
            token_ids: [B] int64 or int32; an id outside the vocabulary is no delimiter token.
        """
        # -1 indexes the last entry, so both ends clamp to the "outside" entry and never to a real
        # token (`</think>` may well be the last id of a vocabulary).
        outside = self.token_class.shape[0] - 1
        return self.transitions[state, self.token_class[token_ids.clamp(-1, outside)]]

    def thinking(self, state: Tensor) -> Tensor:
        """[B] bool: whether the next token of rows in `state` [B] int64 is thought."""
        return self.thinks[state]


@dataclass(frozen=True)
class ThinkPhase:
    """Where the rows of one step stand; `finish` moves their slots on.

    Attributes:
        tables: the automaton.
        states: [slots] int64, the state of every request slot.
        slots: [B] int64, those of the rows.
        initial: [B] int64, the state of a row that was just prefilled, else `KEEP`; None: all keep.
    """

    tables: DeviceTables
    states: Tensor
    slots: Tensor
    initial: Tensor | None

    @cached_property
    def before(self) -> Tensor:
        """[B] int64: states before this step's token; read before anything finishes the step."""
        states = self.states[self.slots]
        if self.initial is None:
            return states
        return torch.where(self.initial == KEEP, states, self.initial)

    @cached_property
    def thinking(self) -> Tensor:
        """[B] bool: whether this step's token is thought."""
        return self.tables.thinking(self.before)

    @cached_property
    def phases(self) -> Tensor:
        """[B] int64: the phase in which this step's token is drawn."""
        return self.tables.phases[self.before]

    def thinks_after(self, token_ids: Tensor) -> Tensor:
        """[B] bool: whether the rows still think once they have sampled these tokens."""
        return self.tables.thinking(self.tables.advance(self.before, token_ids))

    def finish(self, token_ids: Tensor) -> None:
        """Move every row's slot on by the token it sampled, [B]."""
        self.states[self.slots] = self.tables.advance(self.before, token_ids.long())
