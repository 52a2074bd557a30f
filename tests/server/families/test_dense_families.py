"""Dense families and vision models: every captured latent and every token equal transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from families.dense import DENSE
from families.proof import check, prove
from families.vision import VISION

FAMILIES = DENSE | VISION


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_and_tokens(tmp_path: Path, family: str) -> None:
    check(family, prove(FAMILIES[family], tmp_path))


@pytest.mark.parametrize("family", ["llama", "gemma4"])
def test_two_ranks(tmp_path: Path, family: str) -> None:
    check(f"{family} --tp 2", prove(FAMILIES[family], tmp_path, "--tp", "2"))
