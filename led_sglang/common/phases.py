"""The phases of a request, and the names by which answers show them."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """Where a request is; a token's phase is that of the state *before* it is sampled."""

    BEFORE = 0
    THINK = 1
    RESPONSE = 2


PHASE_NAMES = tuple(phase.name.lower() for phase in Phase)
