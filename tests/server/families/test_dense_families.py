"""Dense families on real servers: every captured latent and every token equal transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from families.dense import DENSE
from families.proof import check, prove


@pytest.mark.parametrize("family", DENSE)
def test_latents_and_tokens(tmp_path: Path, family: str) -> None:
    check(family, prove(DENSE[family], tmp_path))


def test_two_ranks(tmp_path: Path) -> None:
    check("llama --tp 2", prove(DENSE["llama"], tmp_path, "--tp", "2"))
