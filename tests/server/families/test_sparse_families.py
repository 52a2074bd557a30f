"""Mixtures of experts and hybrids: every captured latent and every token equal transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from families.hybrid import HYBRID
from families.proof import check, prove
from families.sparse import SPARSE

FAMILIES = SPARSE | HYBRID


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_and_tokens(tmp_path: Path, family: str) -> None:
    check(family, prove(FAMILIES[family], tmp_path))


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_two_ranks(tmp_path: Path, family: str) -> None:
    check(f"{family} --tp 2", prove(FAMILIES[family], tmp_path, "--tp", "2"))
