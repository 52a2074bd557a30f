"""Entropy and coverage of every layer, to choose an exploration depth (Figures 2 and 4)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from led_sglang.common.terminal import CommandError

if TYPE_CHECKING:
    from led_sglang.analysis.forward import LayerAnalysis
    from led_sglang.analysis.statistics import COVERAGE_SIZES, LayerTable, recommended_depth

__all__ = ["COVERAGE_SIZES", "AnalysisError", "LayerAnalysis", "LayerTable", "recommended_depth"]


class AnalysisError(CommandError):
    """The model or the input cannot be analysed; one sentence that says why."""


def __getattr__(name: str) -> Any:
    # Imported with their first use: they need torch, and `led-sglang analyze --help` does not.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "forward" if name == "LayerAnalysis" else "statistics"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
