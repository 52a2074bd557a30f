"""Bound kernels hand the driver what Triton's own launches would, and nothing is done twice.

The driver is a stub; the kernels are those of test_kernel_compile, found in Triton's cache.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton.backends.nvidia.driver as nvidia

from benchmarks.kernels.host import HostProblem, cost
from benchmarks.kernels.stub_driver import Stub, stubbed
from led_sglang.kernels.triton import launch
from led_sglang.kernels.triton.launch import Kernel

ALL = [
    *("split_statistics_kernel", "merge_splits_kernel", "gate_kernel", "gather_latents_kernel"),
    *("latent_lse_kernel", "latent_partials_kernel", "combine_kernel", "settle_kernel"),
]


@pytest.fixture
def stub() -> Iterator[Stub]:
    launch._say_slow.cache_clear()
    with stubbed() as driver, torch.inference_mode():
        yield driver


def problem() -> HostProblem:
    return HostProblem(2560, 151936, 256, candidates=8)


@pytest.mark.parametrize(("batch", "regular"), [(1, 0), (8, 0), (5, 3), (64, 0), (256, 0)])
def test_a_server_step_is_eight_launches_and_nothing_else(
    batch: int, regular: int, stub: Stub
) -> None:
    """Of LED requests alone and beside others: no torch operation, no tensor map encoded."""
    step = problem().step_of(batch, regular=regular)
    found = cost(step, batch, stub, rounds=1, steps=1)
    assert found.kernels == ALL
    assert found.operations == []
    assert found.encodes == 0


class LauncherOf36:
    """As Triton 3.6 calls its launchers, over those of the Triton that is installed."""

    def __init__(self, source: Any, metadata: Any) -> None:
        inner = nvidia.CudaLauncher(source, metadata)
        types = tuple(source.signature.values())
        maps = iter(metadata.tensordesc_meta or [])
        self._maps = [next(maps) if t.startswith("tensordesc") else None for t in map(str, types)]
        self.global_scratch_size = self.profile_scratch_size = 0
        self.launch_cooperative_grid, self.launch_pdl = False, False
        self.launch = inner.launch
        launcher = nvidia.triton.runtime.driver.active.utils.launch
        if metadata.tensordesc_meta:

            def encoding(*args: Any) -> Any:
                final = list(args[:13])
                for tensor_map, arg in zip(self._maps, args[13:], strict=True):
                    made = tensor_map and nvidia.make_tensordesc_arg(arg, tensor_map, None)
                    final += made or [arg]
                return launcher(*final)

            self.launch = encoding
        else:
            self.launch = launcher

    def __call__(
        self, gridX: int, gridY: int, gridZ: int, stream: Any, function: Any, *args: Any
    ) -> None:
        self.launch(gridX, gridY, gridZ, stream, function, False, False, None, None, *args)


def handed(step: Callable[[], None], stub: Stub) -> list[tuple[Any, ...]]:
    """What the driver is handed for a step, call by call."""
    step()
    stub.clear()
    step()
    assert stub.names == ALL
    return list(stub.calls)


def plain(argument: Any) -> Any:
    """An argument, whichever way it came: addresses for tensors, one name for tensor maps."""
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr()
    return "tensor map" if type(argument) is object else argument


def unbind_all() -> None:
    for kernel in gc.get_objects():
        if type(kernel) is Kernel:
            kernel._launch = None


@pytest.mark.parametrize("launcher", [nvidia.CudaLauncher, LauncherOf36])
def test_the_driver_is_handed_what_triton_would_hand_it(launcher: Any, stub: Stub) -> None:
    stub.launcher_cls = launcher
    step = problem().step_of(3)
    bound = handed(step, stub)
    assert stub.counts["encodes"] == 0
    unbind_all()
    slow = handed(step, stub)
    assert stub.counts["encodes"] > 0
    for ours, tritons, name in zip(bound, slow, ALL, strict=True):
        if launcher is nvidia.CudaLauncher:
            *ours, _, our_types, our_own = ours
            *tritons, _, types, own = tritons
            assert our_types == types
        else:
            ours, our_own, tritons, own = ours[:13], ours[13:], tritons[:13], tritons[13:]
        # Hooks of profilers are left out.
        pairs = zip(ours, tritons, strict=True)
        assert not [(a, b) for a, b in pairs if a is not None and a != b], name
        # Constants come last. The summary, combine's third, is in fresh memory.
        same = [plain(a) == plain(b) for a, b in zip(our_own, own, strict=False)]
        assert all(same[3:] if name == "combine_kernel" else same), (name, same)
        assert len(our_own) > 6, name


class OtherLauncher(nvidia.CudaLauncher):
    def __call__(self, grid: Any, *args: Any, **kwargs: Any) -> None:
        super().__call__(grid, *args, **kwargs)


def test_another_launcher_is_served_slowly_and_said_once(
    stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    stub.launcher_cls = OtherLauncher
    with caplog.at_level(logging.WARNING):
        step = problem().step_of(3)
        handed(step, stub)
    assert stub.counts["encodes"] > 0
    (said,) = [r.getMessage() for r in caplog.records if r.name == launch.logger.name]
    assert "(TypeError: its launcher takes (grid, args, kwargs))" in said
    assert "slower launches" in said
