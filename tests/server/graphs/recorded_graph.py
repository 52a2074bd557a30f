"""A CUDA graph's semantics on a CPU: Python runs once, its operations run again on the same memory.

`RecordedGraph` is what SGLang's graph backends use of `torch.cuda.CUDAGraph`. While it captures,
every operation is noted with the tensors it read and made; a replay runs them again and copies what
they return into the memory of the capture. Views need nothing: their memory is the same.

What a GPU would not forgive fails here: values that Python reads during a capture are refused, and
what a capture allocated is overwritten with NaN, or with indices beyond everything, before and
after each replay.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

# A graph has no node for these.
_ALLOCATIONS = (
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"),
)
# What a capturing stream forbids: a result on the host, or a shape that values decide.
_HOST_READS = (
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose"),
    *("nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
)
# Methods that hand values to Python, and of a CPU's tensor are no operation.
_HOST_METHODS = ("numpy", "tolist", "cpu", "__array__", "__dlpack__", "storage", "untyped_storage")
# Writes that read nothing of what they write to.
_PURE_WRITES = ("copy_", "fill_", "zero_", "index_put_", "index_fill_", "index_copy_", "scatter_")


class CaptureError(RuntimeError):
    """Something that a capturing CUDA stream would refuse, or that a replay would not repeat."""


@dataclass(frozen=True)
class _Node:
    function: Callable[..., Any]
    args: Any
    kwargs: Any
    # which of the flat results are copied, and where to
    copies: list[tuple[int, Tensor]]

    def run(self) -> None:
        results = self.function(*self.args, **self.kwargs)
        if not self.copies:
            return
        flat = tree_leaves(results)
        for index, target in self.copies:
            if flat[index].shape != target.shape:
                shapes = f"{tuple(flat[index].shape)}, not {tuple(target.shape)}"
                raise CaptureError(f"{self.function} gave {shapes}")
            target.copy_(flat[index])


@dataclass
class _Memory:
    """A storage that was allocated during the capture."""

    storage: torch.UntypedStorage
    floating: bool
    writer: str
    allocated_only: bool  # its first contents are whatever was there
    uses: int = 0  # the graph's own tensors that lie in it
    kept: bool = True  # something outside the graph refers to it after the capture

    def poison(self) -> None:
        _bytes(self.storage).fill_(0xFF if self.floating else 0x7F)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._graph.record_operation(func, args, kwargs or {})


class _HostMethods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _HOST_METHODS:
            raise CaptureError(f".{name}() hands the device to Python while a graph is captured")
        return func(*args, **(kwargs or {}))


def as_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that a graph holds as one node: one kernel on a GPU, or a collective.

    It must return new tensors, or write into its arguments; what it reads beside them must live as
    long as the graph.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        graph = RecordedGraph.capturing
        if graph is None:
            return function(*args, **kwargs)
        # Below autograd, as the recorder: a view would otherwise hold the tensor it views.
        below = torch._C._AutoDispatchBelowAutograd()
        with _disable_current_modes(), torch._C.DisableTorchFunction(), below:
            return graph.record_kernel(function, args, kwargs)

    return call


class RecordedGraph:
    """The part of `torch.cuda.CUDAGraph` that SGLang uses.

    Attributes:
        capturing: the graph that is recording, of this process.
        statistics: of all graphs of this process: `graphs`, `nodes`, `replays`.
    """

    capturing: ClassVar[RecordedGraph | None] = None
    statistics: ClassVar[Counter[str]] = Counter()

    def __init__(self, keep_graph: bool = False) -> None:
        if keep_graph:
            raise TypeError("there is no raw graph to keep")  # SGLang then does without
        self._nodes: list[_Node] = []
        self._memory: dict[int, _Memory] = {}
        # Memory from outside that was read, and what of it was written after that: as it was.
        self._read: set[int] = set()
        self._overwritten: dict[int, tuple[torch.UntypedStorage, Tensor]] = {}

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        if RecordedGraph.capturing is not None:
            raise CaptureError("a capture inside a capture")
        RecordedGraph.capturing = self
        self._modes = (_HostMethods(), _Recorder(self))
        for mode in self._modes:
            mode.__enter__()

    def capture_end(self) -> None:
        """End the recording, and see that a replay repeats it, bit for bit.

        Raises:
            CaptureError: it does not.
        """
        if RecordedGraph.capturing is not self:  # a failed capture is ended on its way out, too
            return
        self.abandon()
        for memory in self._memory.values():
            # The object in `memory` refers to it once more.
            count = torch._C._storage_Use_Count(memory.storage._cdata)
            memory.kept = count > memory.uses + 1
        self._verify()
        # A GPU runs nothing of a capture. What is kept may feed the segments of the same capture
        # that follow, so that it stays for now.
        self._poison(only_free=True)
        RecordedGraph.statistics.update(graphs=1, nodes=len(self._nodes))

    def abandon(self) -> None:
        """Stop recording."""
        for mode in reversed(self._modes):
            mode.__exit__(None, None, None)
        RecordedGraph.capturing = None

    def replay(self) -> None:
        if RecordedGraph.capturing is not None:
            raise CaptureError("a replay inside a capture")
        self._poison()
        self._run()
        # The allocator may have given this memory to the next graph of the pool.
        self._poison(only_free=True)
        RecordedGraph.statistics["replays"] += 1

    def instantiate(self) -> None: ...

    def reset(self) -> None:
        self._nodes.clear()
        self._memory.clear()

    def record_operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation of torch's and note it.

        Raises:
            CaptureError: it hands values to the host.
        """
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        shaped = (
            (torch.Tag.dynamic_output_shape in func.tags and name not in ("index", "where"))
            or (name == "where" and len(args) == 1)
            or (name == "repeat_interleave" and any(isinstance(a, Tensor) for a in args[1:]))
        )
        if name in _HOST_READS or masked or shaped:
            raise CaptureError(f"{func} reads the device while a graph is captured")
        given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
        written = [
            given[argument.name]
            for argument in func._schema.arguments
            if argument.alias_info is not None
            and argument.alias_info.is_write
            and argument.name in given
        ]
        self._note_memory(tree_leaves((args, kwargs)), written, name in _PURE_WRITES)
        is_view = not func._schema.is_mutable
        return self._add(func, str(func), args, kwargs, name in _ALLOCATIONS, is_view)

    def record_kernel(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function and note it as one node."""
        RecordedGraph.capturing = None  # kernels that it calls are no nodes of their own
        try:
            return self._add(function, function.__qualname__, args, kwargs, False, False)
        finally:
            RecordedGraph.capturing = self

    def _note_memory(self, given: list[Any], written: list[Any], pure: bool) -> None:
        """Keep the state that a graph steps forward: else a second run would start from another."""
        for tensor in written:
            if not isinstance(tensor, Tensor) or (key := _key(tensor)) in self._memory:
                continue
            if key not in self._overwritten and (not pure or key in self._read):
                storage = tensor.untyped_storage()
                self._overwritten[key] = storage, _bytes(storage).clone()
        outside = {_key(t) for t in given if isinstance(t, Tensor)} - self._memory.keys()
        self._read |= outside - {_key(t) for t in written if isinstance(t, Tensor)}

    def _add(
        self, function: Any, name: str, args: Any, kwargs: Any, allocation: bool, may_be_view: bool
    ) -> Any:
        given = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        results = function(*args, **kwargs)
        new = [
            (index, tensor)
            for index, tensor in enumerate(tree_leaves(results))
            if isinstance(tensor, Tensor) and _key(tensor) not in given
        ]
        for _, tensor in new:
            self._memory[_key(tensor)] = _Memory(
                tensor.untyped_storage(), tensor.is_floating_point(), _named(name), allocation
            )
        if allocation or (may_be_view and not new):
            return results
        args, kwargs = tree_map_only(Tensor, self._own, (args, kwargs))
        copies = [(index, self._own(tensor)) for index, tensor in new]
        self._nodes.append(_Node(function, args, kwargs, copies))
        return results

    def _own(self, tensor: Tensor) -> Tensor:
        """A tensor of the graph's own on the same memory, so that others' can be told from it."""
        if (memory := self._memory.get(_key(tensor))) is not None:
            memory.uses += 1
        own: Tensor = torch.ops.aten.alias.default(tensor)
        return own

    @torch.inference_mode()
    def _run(self) -> None:
        for node in self._nodes:
            node.run()

    @torch.inference_mode()
    def _poison(self, only_free: bool = False) -> None:
        for memory in self._memory.values():
            if not (only_free and memory.kept):
                memory.poison()

    @torch.inference_mode()
    def _verify(self) -> None:
        """Run it once more on what it read, and compare."""
        first = {key: _bytes(memory.storage).clone() for key, memory in self._memory.items()}
        for storage, before in self._overwritten.values():
            _bytes(storage).copy_(before)
        self._overwritten.clear()
        self._poison()
        self._run()
        for key, memory in self._memory.items():
            # An empty buffer may stay so in part; who reads that part gives another result.
            if not memory.allocated_only and not torch.equal(_bytes(memory.storage), first[key]):
                raise CaptureError(
                    f"a replay does not give what the capture gave in {memory.writer}: something "
                    "that is no operation of torch's wrote what it read"
                )


def _named(operation: str) -> str:
    """The operation, and who called it outside torch and this file."""
    callers: list[str] = []
    frame = sys._getframe(1)
    while frame.f_back is not None and len(callers) < 3:
        path = frame.f_code.co_filename
        if "/torch/" not in path and path != __file__:
            callers.append(f"{path.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return f"{operation} ({' < '.join(callers)})"


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    with torch.inference_mode():
        return torch.empty(0, dtype=torch.uint8).set_(storage)


@contextmanager
def capture(cuda_graph: RecordedGraph, **_: Any) -> Iterator[None]:
    """Stands in for `torch.cuda.graph`."""
    cuda_graph.capture_begin()
    try:
        yield
    except BaseException:
        cuda_graph.abandon()
        raise
    cuda_graph.capture_end()
