"""Answers that must be the same, but for the order in which a matrix product sums."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import pytest


def assert_close(
    ours: Any,
    theirs: Any,
    *,
    relative: float = 2e-4,
    absolute: float = 1e-6,
    without: Set[str] = frozenset(),
    path: str = "",
) -> None:
    """Equal structure, texts and integers; floats up to a tolerance.

    Args:
        ours, theirs: parts of JSON answers.
        relative, absolute: tolerances of floats; the larger one holds.
        without: keys whose values may differ.
        path: where in the answers this is.
    """
    how: dict[str, Any] = {"relative": relative, "absolute": absolute, "without": without}
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), path
        for key in theirs.keys() - without:
            assert_close(ours[key], theirs[key], path=f"{path}.{key}", **how)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), path
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(one, other, path=f"{path}[{i}]", **how)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=relative, abs=absolute), path
    else:
        assert ours == theirs, path


def sampling_sets(answer: dict[str, Any]) -> list[dict[int, float]]:
    """The sets that tokens were drawn from, as `support` tells them; of two that tie either may
    come first. Empty where nobody asked."""
    meta = answer["meta_info"]
    pairs = zip(
        meta.get("output_token_sampling_mask") or (),
        meta.get("output_token_sampling_logprobs") or (),
        strict=True,
    )
    return [dict(zip(ids, logs, strict=True)) for ids, logs in pairs]
