"""The Triton kernels, in Triton's interpreter on a CPU (TRITON_INTERPRET=1) or on a CUDA device.

The switch must be set before Triton is imported, so tests/kernels/test_kernel_interpreted.py runs
this folder in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    from led_sglang.doctor.device.interpreter import speed_up

    speed_up()


# Gloo ranks share no GPU; and without one, these tests belong to the interpreter alone.
collect_ignore = [] if INTERPRETED else ["test_triton_shards.py"]
if not INTERPRETED and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if not INTERPRETED and here in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty holds NaN (integers: the largest)."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small vocabularies take several splits too, and the interpreter sorts fewer keys."""
    from led_sglang.kernels.triton import posterior

    if INTERPRETED:
        monkeypatch.setattr(posterior, "SPLIT_COLUMNS", 512)
        monkeypatch.setattr(posterior, "GROUP_COLUMNS", 8)
