import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import kernel_cases
import pytest
import torch

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _find_benchmarks() -> None:
    """`import benchmarks`, without the checkout's `kernels` as a package of that bare name."""
    spec = importlib.util.spec_from_file_location(
        "benchmarks", _BENCHMARKS / "__init__.py", submodule_search_locations=[str(_BENCHMARKS)]
    )
    assert spec is not None
    sys.modules.setdefault("benchmarks", importlib.util.module_from_spec(spec))


_find_benchmarks()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["torch", "cpu"])
def each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What `kernel_cases.step_for` makes: plain torch, or the step compiled for a CPU."""
    monkeypatch.setattr(kernel_cases, "path", request.param)
    return request.param
