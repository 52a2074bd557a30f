"""Colours and markers of the figures."""

from __future__ import annotations

# Seven hues that read on white and on near-black, and for most colour-blind readers.
COLOURS = ("#4c8bd6", "#e07b39", "#2fa37c", "#b06fc4", "#d1495b", "#a08c2c", "#7f8794")
GRID = "#dde2eb"
_MARKERS = ("o", "s", "^", "D", "v")


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]
