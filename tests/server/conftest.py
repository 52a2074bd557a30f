"""The models that the server tests serve, and prompts for them.

A file marked `served_models` runs on each model it names; the others on the random tied one:

    pytestmark = pytest.mark.served_models("tied", "trained")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import chat_ids, gsm8k_problems, held_out_problems
from transformers import AutoTokenizer

from led_sglang.models.bundled import bundled_model
from led_sglang.models.random_qwen3 import write_random_qwen3

# A second thread only fights the servers for the cores.
torch.set_num_threads(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("served_models")
    if mark and "model_path" in metafunc.fixturenames:
        metafunc.parametrize("model_path", mark.args, indirect=True, scope="session")


@pytest.fixture(scope="session")
def tied_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny Qwen3, 12 layers, tied embeddings, float32: no rounding between server and oracle."""
    path = tmp_path_factory.mktemp("models") / "qwen3-tied"
    return write_random_qwen3(path, seed=1, dtype="float32")


@pytest.fixture(scope="session")
def untied_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without tied embeddings."""
    path = tmp_path_factory.mktemp("models") / "qwen3-untied"
    return write_random_qwen3(path, seed=2, dtype="float32", tie_embeddings=False)


@pytest.fixture(scope="session")
def model_path(request: pytest.FixtureRequest) -> Path:
    """The model that a test serves: a random one, or the trained one the package brings."""
    name = getattr(request, "param", "tied")
    if name == "trained":
        return bundled_model()
    path: Path = request.getfixturevalue(f"{name}_model_path")
    return path


@pytest.fixture(scope="session")
def trained(model_path: Path) -> bool:
    return model_path == bundled_model()


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_path)


@pytest.fixture(scope="session")
def think_ids(tokenizer: Any) -> tuple[int, int]:
    """Ids of `<think>` and `</think>`."""
    start, end = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    return start, end


@pytest.fixture(scope="session")
def prompts(tokenizer: Any, trained: bool) -> list[Sequence[int]]:
    """Twenty chat prompts whose template has opened the think phase.

    GSM8K problems, for the trained model problems of its own that it was not trained on.
    """
    problems = held_out_problems() if trained else gsm8k_problems()
    return [chat_ids(tokenizer, problem) for problem in problems]
