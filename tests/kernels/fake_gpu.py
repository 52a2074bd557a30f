"""A GPU of fake tensors: what makes its host wait is refused, and so is a race between streams.

Tensors on `cuda` have sizes and no values, so that whatever asks for one raises. Triton's kernels
are noted and not run. Streams are simulated by vector clocks: an operation on one stream may touch
what another has written, and write what another has read, only if it waits for that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

ATEN = torch.ops.aten
_COPIES = {ATEN._to_copy.default, ATEN.copy_.default}
_MASKABLE = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
_READS = {ATEN._local_scalar_dense.default, ATEN.is_nonzero.default, ATEN.equal.default}


class Waits(AssertionError):
    """The host would wait for the device."""


class Races(AssertionError):
    """Two streams touch the same memory, and nothing orders them."""


@dataclass(eq=False)
class Stream:
    """A simulated stream; `seen` is how far it has waited for each of the others."""

    name: str
    time: int = 0
    seen: dict[Stream, int] = field(default_factory=dict)

    def wait_stream(self, other: Stream) -> None:
        """All that `other` has been given so far comes before what this one is given next."""
        for stream, time in [*other.seen.items(), (other, other.time)]:
            self.seen[stream] = max(self.seen.get(stream, 0), time)

    def before(self, stream: Stream, time: int) -> bool:
        """Whether that moment of another stream lies before what this one is given next."""
        return stream is self or self.seen.get(stream, 0) >= time


@dataclass
class _Memory:
    """Who touched a storage last; `tensor` keeps it, so that its address is no other's."""

    tensor: Tensor
    written: tuple[Stream, int] | None = None
    read: dict[Stream, int] = field(default_factory=dict)


class FakeGpu(TorchDispatchMode):
    """Watches every operation on the fake device.

    Attributes:
        default: the stream that work goes to outside of `on`.
        launches: names of Triton's kernels, in order.
        downloads: operations that copied to the host.
        may_wait: before the first step a server may.
    """

    def __init__(self) -> None:
        super().__init__()
        self.default = Stream("default")
        self.current = self.default
        self.launches: list[str] = []
        self.downloads = 0
        self.may_wait = True
        self._locked: list[Tensor] = []
        self._memory: dict[int, _Memory] = {}

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """Work goes to this stream."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def lock(self, values: Tensor) -> Tensor:
        """Page-lock a tensor of the host."""
        self._locked.append(values)
        return values

    def locked(self, values: Tensor) -> bool:
        """Whether it is, or is a view of one that is."""
        return any(values is x or values._base is x for x in self._locked)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.is_cuda for x in given) and not self.may_wait:
            self._refuse_waits(func, args)
        output = func(*args, **kwargs)
        made = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
        if self.may_wait:
            pass
        elif func in _COPIES:
            self._check_copy(func, args, kwargs, made[0])
        elif any(x.is_cuda for x in given) and not all(x.is_cuda for x in given):
            raise Waits(f"{func} of tensors on the CPU and the GPU")
        if not func.is_view:
            mutable = func._schema.is_mutable
            written = [args[0]] if mutable and args and isinstance(args[0], Tensor) else made
            self.touch([x for x in given if x.is_cuda], [x for x in written if x.is_cuda])
        return output

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        """In place of a launch. What a kernel writes is not told: all of it may be, but for
        what it is known to read alone."""
        self.launches.append(kernel.__name__)
        given = [getattr(x, "base", x) for x in (*args, *kwargs.values())]
        tensors = [x for x in given if isinstance(x, Tensor)]
        assert all(x.is_cuda for x in tensors), f"{kernel.__name__} reads memory of the host"
        self.touch(tensors, [x for x in tensors if _key(x) in self.scratch])

    # Storages that kernels may write: what was allocated while the step was bound.
    scratch: frozenset[int] = frozenset()

    def allocated(self, make: Callable[[], Any]) -> Any:
        """Run `make`; what it allocates on the device is scratch."""
        before = set(self._memory)
        made = make()
        self.scratch = frozenset(set(self._memory) - before)
        return made

    def touch(self, read: list[Tensor], written: list[Tensor]) -> None:
        """Note accesses of the current stream.

        Raises:
            Races: another stream's are not ordered before them.
        """
        stream = self.current
        stream.time += 1
        for tensor in read:
            memory = self._of(tensor)
            if memory.written is not None and not stream.before(*memory.written):
                raise Races(f"{stream.name} reads what {memory.written[0].name} still writes")
            memory.read[stream] = stream.time
        for tensor in written:
            memory = self._of(tensor)
            for other, time in [
                *memory.read.items(),
                *([memory.written] if memory.written else []),
            ]:
                if not stream.before(other, time):
                    raise Races(f"{stream.name} overwrites what {other.name} still uses")
            memory.written = stream, stream.time

    def _of(self, tensor: Tensor) -> _Memory:
        return self._memory.setdefault(_key(tensor), _Memory(tensor))

    def _refuse_waits(self, func: Any, args: Any) -> None:
        if func in _READS:
            raise Waits(f"{func} reads a value back")
        if func in _MASKABLE and any(i is not None and i.dtype == torch.bool for i in args[1]):
            raise Waits(f"{func} with a mask")

    def _check_copy(self, func: Any, args: Any, kwargs: dict[str, Any], made: Tensor) -> None:
        source = args[1] if func is ATEN.copy_.default else args[0]
        if source.device == made.device:
            return
        place = args[2] if len(args) > 2 else False
        host, way = (source, "an upload") if made.is_cuda else (made, "a download")
        if not kwargs.get("non_blocking", place):
            raise Waits(f"{way} that blocks")
        if not self.locked(host):
            raise Waits(f"{way} through pageable memory")
        self.downloads += not made.is_cuda


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _PinnedConstructors(TorchFunctionMode):
    """`pin_memory=True` needs a GPU: the tensors are noted as page-locked instead."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        pinned = kwargs.pop("pin_memory", False)
        made = func(*args, **kwargs)
        return self._gpu.lock(made) if pinned else made


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A Hopper card of fake tensors; within, tensors are fake and all they do is watched."""
    gpu, numbers = FakeGpu(), itertools.count(1)
    card = SimpleNamespace(multi_processor_count=132, major=9, minor=0)
    monkeypatch.setattr(JITFunction, "run", lambda kernel, *a, **k: gpu.launch(kernel, *a, **k))
    monkeypatch.setattr(Tensor, "pin_memory", lambda values: gpu.lock(values.clone()))
    monkeypatch.setattr(FakeTensor, "data_ptr", lambda tensor: 4096 * next(numbers))
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *device: gpu.current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *device: card)
    monkeypatch.setattr(torch.cuda, "Event", lambda **kind: SimpleNamespace(record=lambda: None))
    driver = SimpleNamespace(get_current_stream=lambda device: 0, get_current_device=lambda: 0)
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    with FakeTensorMode(allow_non_fake_inputs=True), gpu, _PinnedConstructors(gpu):
        yield gpu
