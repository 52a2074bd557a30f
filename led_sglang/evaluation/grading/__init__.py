"""From a completion to a verdict: its thinking, its answer or program, is it right."""

from __future__ import annotations
