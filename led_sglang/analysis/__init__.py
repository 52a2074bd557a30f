"""Entropy and coverage of every layer, to choose an exploration depth (Figures 2 and 4)."""

from __future__ import annotations

from led_sglang.analysis.forward import AnalysisError, LayerAnalysis
from led_sglang.analysis.statistics import COVERAGE_SIZES, LayerTable, recommended_depth

__all__ = [
    "COVERAGE_SIZES",
    "AnalysisError",
    "LayerAnalysis",
    "LayerTable",
    "recommended_depth",
]
