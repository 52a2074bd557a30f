from collections.abc import Iterator

import pytest
import torch

from led_sglang import cpu_kernels


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["torch", "cpu"])
def each_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """What ``impl="auto"`` takes on a CPU: plain torch, or the step compiled for it."""
    if request.param == "cpu":
        assert cpu_kernels.prewarm() is None
    yield request.param
    cpu_kernels.withdraw()
