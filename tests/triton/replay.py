"""Capture a step once and replay it: a CUDA graph on a GPU, and what one would do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction
from triton_cases import DEVICE

Result = TypeVar("Result")


def capture(step: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """What ``step`` returns, and a function that runs all of it again on the same memory."""
    step()  # compiles, allocates
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = step()
        return result, graph.replay
    tape = _Tape()
    original = InterpretedFunction.run

    def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
        tape.launch(lambda: original(kernel, *args, **kwargs))

    InterpretedFunction.run = run
    try:
        with tape:
            result = step()
    finally:
        InterpretedFunction.run = original
    return result, tape.replay


class _Tape(TorchDispatchMode):
    """Torch operations and kernel launches in order. Like a graph, a replay computes everything
    anew from the memory the capture saw, into the memory the capture wrote, and runs no Python of
    the step's own."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], None]] = []
        self._launching = False

    def launch(self, call: Callable[[], None]) -> None:
        self._launching = True
        call()
        self._launching = False
        self._calls.append(call)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._launching and not func.is_view and isinstance(out, torch.Tensor):

            def again() -> None:
                result = func(*args, **kwargs)
                if not func._schema.is_mutable:
                    out.copy_(result)

            self._calls.append(again)
        return out

    def replay(self) -> None:
        for call in self._calls:
            call()
