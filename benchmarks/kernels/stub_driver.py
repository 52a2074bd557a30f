"""Triton's NVIDIA driver without a GPU: kernels are compiled and launched as always, up to the last
call into CUDA, which is only counted.

So what the host does for a step can be measured, and every launch checked, on any machine. Tensors
stay in the CPU's memory; no kernel computes anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import triton.backends.nvidia.driver as nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


_PROPERTIES = {"max_shared_mem": 232448, "max_num_regs": 65536, "warpSize": 32}


class Stub:
    """What stands in for `triton.runtime.driver.active`.

    Attributes:
        counts: of `launches`, and of `encodes` of tensor maps.
        names: of the kernels launched, in order.
    """

    def __init__(self, architecture: int) -> None:
        self.counts: Counter[str] = Counter()
        self.utils = self
        self.launcher_cls = nvidia.CudaLauncher
        self._target = GPUTarget("cuda", architecture, 32)
        self._names: dict[int, str] = {}
        self.names: list[str] = []

    def clear(self) -> None:
        """Forget what was counted."""
        self.counts.clear()
        self.names.clear()

    def launch(self, *given: Any) -> None:
        """The last call into the driver; its fifth argument is the kernel's handle."""
        self.counts["launches"] += 1
        self.names.append(self._names[given[4]])

    def fill_tma_descriptor_tiled(self, *given: Any) -> object:
        self.counts["encodes"] += 1
        return object()

    fill_tma_descriptor = fill_tma_descriptor_tiled

    def build_signature_metadata(self, signature: Any) -> bytes:
        return b""

    def load_binary(self, name: str, *given: Any) -> tuple[int, int, int, int, int]:
        handle = len(self._names) + 1
        self._names[handle] = name
        return (0, handle, 40, 0, 1024)

    def unload_module(self, *given: Any) -> None: ...

    def get_device_properties(self, device: int) -> dict[str, int]:
        return _PROPERTIES

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 7

    def get_current_target(self) -> GPUTarget:
        return self._target

    def allocate_default_profile_scratch(self, *given: Any) -> None: ...
