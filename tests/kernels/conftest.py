from collections.abc import Iterator

import kernel_cases
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["torch", "cpu"])
def each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What `kernel_cases.step_for` makes: plain torch, or the step compiled for a CPU."""
    monkeypatch.setattr(kernel_cases, "path", request.param)
    return request.param
