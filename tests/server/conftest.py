from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import chat_ids, gsm8k_problems
from transformers import AutoTokenizer

from led_sglang.default_model import write_random_qwen3

# A second thread only fights the servers for the cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny Qwen3, 12 layers, tied embeddings, float32: no rounding between server and oracle."""
    path = tmp_path_factory.mktemp("models") / "qwen3-tied"
    return write_random_qwen3(path, seed=1, dtype="float32")


@pytest.fixture(scope="session")
def untied_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without tied embeddings."""
    path = tmp_path_factory.mktemp("models") / "qwen3-untied"
    return write_random_qwen3(path, seed=2, dtype="float32", tie_embeddings=False)


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_path)


@pytest.fixture(scope="session")
def think_ids(tokenizer: Any) -> tuple[int, int]:
    """Ids of `<think>` and `</think>`."""
    start, end = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    return start, end


@pytest.fixture(scope="session")
def prompts(tokenizer: Any) -> list[Sequence[int]]:
    """GSM8K problems as chat prompts whose template has opened the think phase."""
    return [chat_ids(tokenizer, problem) for problem in gsm8k_problems()]
