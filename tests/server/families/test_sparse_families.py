"""Mixtures of experts and hybrids on real servers: latents and tokens equal transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from families.proof import check, prove
from families.sparse import SPARSE


@pytest.mark.parametrize("family", SPARSE)
def test_latents_and_tokens(tmp_path: Path, family: str) -> None:
    check(family, prove(SPARSE[family], tmp_path))


def test_two_ranks(tmp_path: Path) -> None:
    check("qwen3_moe --tp 2", prove(SPARSE["qwen3_moe"], tmp_path, "--tp", "2"))
