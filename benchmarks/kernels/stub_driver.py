"""Triton's NVIDIA driver without a GPU: kernels are compiled and launched as always, up to the last
call into CUDA, which is only counted.

So what the host does for a step can be measured, and every launch checked, on any machine. Tensors
stay in the CPU's memory; no kernel computes anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import triton.backends.nvidia.driver as nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from led_sglang.kernels.triton import (
    combine,
    gate,
    gather,
    latent_lse,
    noise,
    partials,
    posterior,
    settle,
    step,
    support,
)
from led_sglang.kernels.triton.tiles import Chip

_PROPERTIES = {"max_shared_mem": 232448, "max_num_regs": 65536, "warpSize": 32}


class Stub:
    """What stands in for `triton.runtime.driver.active`.

    Attributes:
        counts: of `encodes` of tensor maps.
        names: of the kernels launched, in order.
        calls: their launches' arguments.
    """

    def __init__(self, architecture: int) -> None:
        self.counts: Counter[str] = Counter()
        self.utils = self
        self.launcher_cls = nvidia.CudaLauncher
        self._target = GPUTarget("cuda", architecture, 32)
        self._names: dict[int, str] = {}
        self.names: list[str] = []
        self.calls: list[tuple[Any, ...]] = []

    def clear(self) -> None:
        """Forget what was counted."""
        self.counts.clear()
        self.names.clear()
        self.calls.clear()

    def launch(self, *given: Any) -> None:
        """The last call into the driver; its fifth argument is the kernel's handle."""
        self.calls.append(given)
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


MODULES = (posterior, noise, gate, gather, latent_lse, partials, combine, settle)
_ARCHITECTURES = {"sm_80": 80, "sm_90": 90, "h20": 90}
_MULTIPROCESSORS = {"sm_80": 108, "sm_90": 132, "h20": 78}


def kernels() -> dict[str, JITFunction[Any]]:
    """The step's kernels by name."""
    found = (function for module in MODULES for function in vars(module).values())
    return {f.__name__: f for f in found if isinstance(f, JITFunction) and "kernel" in f.__name__}


def compiled() -> dict[str, list[Any]]:
    """What has been compiled, by the kernel's name: Triton's `CompiledKernel`s."""
    return {
        name: list(function.device_caches[0][0].values()) for name, function in kernels().items()
    }


@contextmanager
def stubbed(card: str = "sm_90") -> Iterator[Stub]:
    """Steps that are made inside pass CPU tensors for those of a GPU of this kind, see `Chip`."""
    stub = Stub(_ARCHITECTURES[card])
    chip = Chip(card, _MULTIPROCESSORS[card], 0)
    before = driver._active
    with ExitStack() as stack:
        for target, name, value in (
            # What Triton's launchers are made with: of 3.8, and of 3.6, which compiles each.
            (nvidia, "PyKernelArg", lambda nested_tuple, type: type),
            (nvidia, "compile_module_from_src", lambda **given: stub),
            (nvidia, "libcuda_dirs", list),
            (support, "device_reason", lambda device: None),
            (step, "chip_of", lambda device: chip),
        ):
            stack.enter_context(patch.object(target, name, value, create=True))
        driver.set_active(stub)
        try:
            yield stub
        finally:
            found = compiled()
            driver._active = before
            for name, function in kernels().items():
                for kernel in found[name]:
                    kernel.module = None  # there is none to unload
                function.device_caches.clear()  # made for this target
