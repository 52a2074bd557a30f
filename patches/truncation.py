"""The truncation check: SGLang itself shows at launch what its head reads at each captured depth.

For each captured h^l the decoder stack is ended at layer l and runs again on the same prompts. What
SGLang's logits processor receives then, every reduction and norm completed, must be norm(h^l). That
tells a stream that was captured one layer off, without its residual, with a stale one or unlike on
one rank. It says nothing of SGLang's arithmetic.
"""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from led_sglang.kernels import FinalNorm
from led_sglang.patches.lm_head import norm_of
from led_sglang.patches.short_prefill import Read

logger = logging.getLogger(__name__)

# Relative distance that rounding may put between norm(h^l) and what the head reads at l.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
# Two layers that the head reads this much alike are one: what lies between them does nothing.
_ALIKE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# The right layer must be closer than the nearest other one by this factor.
_FACTOR = 3.0


class Capturing(Protocol):
    """A capture that is installed in a model."""

    def paused(self) -> Any:
        """A context in which the model runs as if nothing were captured."""


@dataclass(frozen=True)
class Depth:
    """What the check found of one captured layer.

    Attributes:
        layer: l.
        own: relative distance of norm(h^l) from what the head reads at l, of the worst row.
        other: the same of the nearest other layer that the head does not read alike there.
        nearest: number of that layer; the model's L is what its head reads in the end.
    """

    layer: int
    own: float
    other: float
    nearest: int


@dataclass(frozen=True)
class Finding:
    """What the check found on this rank.

    Attributes:
        depths: the captured layers.
        bound: what `own` may be.
        unable: why nothing could be compared; None if it could.
        unread: why h^0 could not, or on a later pipeline stage the stream that enters it; None if
            it could, or is not captured.
        fault: why what is captured is no h^l, told without comparing; None otherwise.
    """

    depths: tuple[Depth, ...] = ()
    bound: float = 0.0
    unable: str | None = None
    unread: str | None = None
    fault: str | None = None

    def wrong(self) -> str | None:
        """One clause with figures on the worst layer that is not what the head reads; or None."""
        if self.fault is not None:
            return self.fault
        wrong = [d for d in self.depths if not self._right(d)]
        if not wrong:
            return None
        depth = max(wrong, key=lambda d: d.own)
        what = (
            f"ended at layer {depth.layer}, the model's own head reads something that differs from "
            f"norm(h^{depth.layer}) by {depth.own:.2g}, where {self.bound:.0e} is rounding"
        )
        if math.isinf(depth.other):
            return what
        nearest = f"h^{depth.nearest} as the nearest other layer differs by {depth.other:.2g}"
        return f"{what} and {nearest}"

    def _right(self, depth: Depth) -> bool:
        return depth.own <= self.bound and depth.own < depth.other / _FACTOR


def examine(
    stack: Any,
    capture: Capturing,
    norm: FinalNorm,
    layers: Sequence[int],
    hidden_size: int,
    prefill: Callable[[], Read],
    all_ranks: Callable[[bool], bool],
) -> Finding:
    """Compare each captured layer with what the head reads where the stack ends there.

    Args:
        stack: the module that runs the layers; of a pipeline, that of the last stage.
        capture: what hands out the layers.
        norm: the model's final norm.
        layers: the captured l, as they lie in `Read.captured`. One of them is not 0.
        hidden_size: H.
        prefill: the same short prefill at each call. Ranks wait in it for each other: all of them
            call it equally often.
        all_ranks: whether something is so on every rank; all of them ask it equally often.

    Returns:
        What this rank has found; nothing, where only other ranks have.
    """
    error = full = None
    try:
        full = prefill()
    except Exception as raised:  # models raise their own
        error = raised
    if not all_ranks(full is not None):
        return _unlike_plain(capture, prefill, error)
    assert full is not None
    seen = _told_at_once(full, len(layers), hidden_size)
    if not all_ranks(seen is None):
        return seen or Finding()
    assert full.captured is not None
    truths: dict[int, Tensor] = {}
    unread = None
    try:
        with capture.paused():
            for layer in layers:
                try:
                    truths[layer] = _read_at(stack, layer, prefill)
                except Exception as error:
                    if layer > getattr(stack, "start_layer", 0):
                        raise
                    unread = f"h^{layer}: its stack does not run without a layer ({said(error)})"
    except Exception as error:
        return Finding(unable=f"its stack cannot be ended at a layer ({said(error)})")
    if all(torch.equal(truth, full.head_input) for truth in truths.values()):
        return Finding(unable="its stack runs all layers where it is told to end earlier")
    captured = full.captured.view(-1, len(layers), hidden_size)
    normed = {layer: norm(captured[:, place]) for place, layer in enumerate(layers)}
    depths, bound = _compare(normed, truths, full.head_input, len(stack.layers))
    return Finding(depths, bound, unread=unread)


def _told_at_once(full: Read, layers: int, hidden_size: int) -> Finding | None:
    """What a prefill shows by its shapes alone."""
    if full.head_input.dtype not in _ROUNDING:
        return Finding(unable=f"its head reads {full.head_input.dtype}")
    if full.captured is None:
        return Finding(fault="it hands out no layers with a prefill")
    rows = full.head_input.shape[0]
    if tuple(full.captured.shape) != (rows, layers * hidden_size):
        wide = full.captured.numel() / (rows * layers)
        return Finding(
            fault=f"it hands out {wide:g} numbers a layer where the model is {hidden_size} wide"
        )
    return None


def _unlike_plain(
    capture: Capturing, prefill: Callable[[], Read], error: Exception | None
) -> Finding:
    """A prefill with capture has failed on a rank: whose fault it is, one without tells.

    Args:
        error: of this rank; None where it was another's.
    """
    try:
        with capture.paused():
            prefill()
    except Exception as plain:
        return Finding(unable=f"a short prefill fails before the server serves ({said(plain)})")
    if error is None:
        return Finding()
    return Finding(fault=f"a prefill fails while its layers are captured ({said(error)})")


def _read_at(stack: nn.Module, layer: int, prefill: Callable[[], Read]) -> Tensor:
    with ended_at(stack, layer):
        return prefill().head_input


@contextmanager
def ended_at(stack: Any, layer: int) -> Iterator[None]:
    """Let a decoder stack run its first layers alone.

    SGLang's classes go as far as `end_layer` says, which pipelines set, or through `layers`. A
    later stage of a pipeline goes by the former, and looks up its first layer in the latter.

    Args:
        stack: the module that runs the layers.
        layer: how many of them to run.
    """
    layers, ends = stack.layers, [n for n in ("end_layer", "_end_layer") if n in vars(stack)]
    before = {name: getattr(stack, name) for name in ends}
    norm = norm_of(stack).register_forward_hook(_with_first_residual)
    try:
        if not getattr(stack, "start_layer", 0):
            stack.layers = nn.ModuleList(layers[:layer])
        for name in ends:
            setattr(stack, name, layer)
        yield
    finally:
        norm.remove()
        stack.layers = layers
        for name, value in before.items():
            setattr(stack, name, value)


def _with_first_residual(norm: Any, given: tuple[Any, ...], output: Any) -> Any:
    """Without a layer there is no residual yet: SGLang's norms then return no pair."""
    if len(given) == 2 and given[1] is None and isinstance(output, Tensor):
        return output, given[0]
    return output


def _compare(
    normed: Mapping[int, Tensor], truths: Mapping[int, Tensor], last: Tensor, final: int
) -> tuple[tuple[Depth, ...], float]:
    """The distances of all layers that the head was read at, and what rounding may be of them.

    Args:
        normed: norm(h^l) as captured, by l.
        truths: what the head reads at l, by l.
        last: what it reads at `final`, the model's L.
    """
    bound, alike = _ROUNDING[last.dtype], _ALIKE[last.dtype]
    reads = {**truths, final: last}
    shown = {**normed, final: last}
    depths = []
    for layer, truth in truths.items():
        others = {
            other: _distance(shown[other], truth)
            for other, read in reads.items()
            if _distance(read, truth) > alike
        }
        nearest = min(others, key=lambda other: others[other], default=layer)
        own = _distance(normed[layer], truth)
        depths.append(Depth(layer, own, others.get(nearest, math.inf), nearest))
    return tuple(depths), bound


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative distance of rows [B, H], of the worst; infinite where a number is missing."""
    gap = (ours.float() - theirs.float()).norm(dim=-1) / theirs.float().norm(dim=-1)
    worst = float(gap.max())
    return worst if math.isfinite(worst) else math.inf


def said(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def widest_input(stack: Any, prefill: Callable[[], Read]) -> float:
    """The most numbers a token that enter a layer as `hidden_states`; 0 where none are seen.

    Args:
        stack: the module that runs the layers.
        prefill: a short prefill.
    """
    seen = [0.0]

    def note(layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = [named["hidden_states"]] if "hidden_states" in named else arguments
        streams = [x for x in given if isinstance(x, Tensor) and x.is_floating_point()]
        # A batch of transformers' has one dimension more.
        seen.extend(stream.numel() for stream in streams[:1])

    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in stack.layers]
    try:
        tokens = prefill().tokens
    finally:
        for handle in handles:
            handle.remove()
    return max(seen) / tokens


class Meter:
    """Time and memory of what runs inside."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._device = device

    def __enter__(self) -> Meter:
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        self._start, self._before = time.perf_counter(), self._peak()
        return self

    def __exit__(self, *_: Any) -> None:
        self._seconds = round(time.perf_counter() - self._start, 3)
        self._bytes = max(self._peak() - self._before, 0)

    def cost(self) -> tuple[float, int]:
        """Seconds, and bytes at the worst moment beyond what was in use before."""
        return self._seconds, self._bytes

    def _peak(self) -> int:
        if self._on_gpu:
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
