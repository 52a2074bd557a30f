"""Notes what a step would launch on a GPU, and launches nothing: no GPU is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from led_sglang.kernels.triton import support

_BACKEND = make_backend(GPUTarget("cuda", 90, 32))
_NO_WORK = {"aten::detach", "aten::_unsafe_view", "aten::promote_types", "aten::new_empty"}


class Recorder(TorchDispatchMode):
    """launches: (kernel, the key under which Triton would look for compiled code) in order.
    operations: torch operations that do something on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[tuple[str, str]] = []
        self.operations: list[str] = []

    @property
    def kernels(self) -> list[str]:
        return [name for name, _ in self.launches]

    def run(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        binder = create_function_from_signature(kernel.signature, kernel.params, _BACKEND)
        _, specialization, options = binder(*args, **kwargs)
        self.launches.append((kernel.__name__, f"{specialization} {options}"))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func._schema.name not in _NO_WORK:
            self.operations.append(func._schema.name)
        return out


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """CPU tensors pass for a GPU's; kernels leave whatever their outputs held."""
    recorder = Recorder()
    monkeypatch.setattr(support, "device_reason", lambda device: None)

    def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
        recorder.run(kernel, *args, **kwargs)

    monkeypatch.setattr(JITFunction, "run", run)
    with recorder:
        yield recorder
