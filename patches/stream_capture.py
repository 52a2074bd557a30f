"""Capture where SGLang's model class has no setter, or one that does not hand out h^l.

All ways mark layers before which the stream is read (layer i, 0-based, is entered by h^i) and
collect the marked streams of a forward in order. The streams leave the decoder stack as part of its
output and are given to the logits processor, which packs and prunes them as it does with those of a
model's own setter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from inspect import Signature, signature
from typing import Any

import torch
from torch import Tensor


class StreamCollector:
    """The marked streams of the forward that is running, lowest layer first.

    A prefill CUDA graph holds the decoder stack alone: it keeps what the stack's `forward` returns
    and runs none of its Python again. So the streams are returned beside the stack's own output,
    and taken off behind `forward`, which runs with and without a graph.

    Args:
        stack: the module that runs the layers.
        processor: the model's logits processor.
        marked: ascending numbers of the layers before which the stream is read.
    """

    def __init__(
        self, stack: torch.nn.Module, processor: torch.nn.Module, marked: list[int]
    ) -> None:
        self.marked = list(marked)
        self._streams: list[Tensor] = []
        # Of a stack's forward that the logits processor has not seen yet.
        self._left: list[Tensor] = []
        self._off = False
        self._installed = ExitStack()
        self.replace(stack, "forward", self._with_streams(stack.forward))
        self.keep(stack.register_forward_hook(self._take_off))
        self.keep(processor.register_forward_pre_hook(self._hand_over, with_kwargs=True))

    @property
    def off(self) -> bool:
        """Whether nothing is read for now."""
        return self._off

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The model's own forward, of which nothing is read."""
        self._off = True
        try:
            yield
        finally:
            self._off = False

    def remove(self) -> None:
        """Take everything out of the model that capturing has put there."""
        self._installed.close()

    def keep(self, handle: Any) -> None:
        """Note a hook of torch's, to be removed with the rest."""
        self._installed.callback(handle.remove)

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Give an object another method, until `remove`."""
        own = vars(owner).get(name)
        setattr(owner, name, replacement)
        if own is None:
            self._installed.callback(delattr, owner, name)
        else:
            self._installed.callback(setattr, owner, name, own)

    def take(self, stream: Tensor, *, owned: bool = False) -> None:
        """Keep a stream [..., H]; one that is not `owned` may be overwritten, hence copied."""
        self._streams.append(stream if owned else stream.clone())

    def _with_streams(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def forward_with_streams(*arguments: Any, **named: Any) -> tuple[Any, list[Tensor]]:
            self._streams = []
            output = forward(*arguments, **named)
            streams, self._streams = self._streams, []
            if len(streams) not in (0, len(self.marked)):  # none in an idle rank's empty forward
                raise RuntimeError(
                    f"LED captured {len(streams)} of the {len(self.marked)} layers before "
                    f"{self.marked}"
                )
            return output, streams

        return forward_with_streams

    def _take_off(self, stack: Any, arguments: Any, output: tuple[Any, list[Tensor]]) -> Any:
        own, self._left = output
        return own

    def _hand_over(
        self, processor: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        streams, self._left = self._left, []
        if not streams:
            return arguments, named
        return arguments[:4], {**named, "aux_hidden_states": streams}


def capture_at_boundaries(layers: Any, collector: StreamCollector) -> None:
    """Ask the attention boundary of each marked layer for the stream it receives.

    Raises:
        AttributeError: a marked layer has no such boundary.
    """
    for index in collector.marked:
        boundary = layers[index].attn_boundary
        collector.replace(boundary, "prepare", _with_capture(boundary.prepare, collector))


def _with_capture(prepare: Callable[..., Any], collector: StreamCollector) -> Callable[..., Any]:
    def prepare_and_capture(hidden_states: Any, forward_batch: Any, **call: Any) -> Any:
        if collector.off:
            return prepare(hidden_states, forward_batch, **call)
        return prepare(hidden_states, forward_batch, **{**call, "capture": collector.take})

    return prepare_and_capture


def capture_layer_inputs(layers: Any, collector: StreamCollector) -> None:
    """Read what enters each marked layer: `hidden_states`, and `residual` still to be added."""

    def read(given: dict[str, Any]) -> None:
        residual = given.get("residual")
        rows = given["hidden_states"].flatten(0, -2)  # transformers' layers take a batch of one
        collector.take(rows if residual is None else rows + residual, owned=residual is not None)

    _before_marked_layers(layers, collector, read)


def capture_whole_inputs(layers: Any, collector: StreamCollector) -> None:
    """Read the `hidden_states` that enter each marked layer; a residual beside them is stale."""

    def read(given: dict[str, Any]) -> None:
        collector.take(given["hidden_states"].flatten(0, -2))

    _before_marked_layers(layers, collector, read)


def capture_snapshots(layers: Any, collector: StreamCollector) -> None:
    """Ask for a copy of the stream before each marked layer, whether or not the layer attends.

    Raises:
        AttributeError: the layers have no boundaries.
    """
    # Any boundary will do: the stream is the batch's. Layers of other pipeline stages have none.
    boundaries = (getattr(layer, "entry_boundary", None) for layer in layers)
    boundary = next((boundary for boundary in boundaries if boundary is not None), None)
    if boundary is None:
        raise AttributeError("no layer has an entry_boundary")

    def read(given: dict[str, Any]) -> None:
        given["hidden_states"], stream = boundary.capture_output(
            given["hidden_states"], given["forward_batch"]
        )
        collector.take(stream, owned=True)

    _before_marked_layers(layers, collector, read)


def _before_marked_layers(
    layers: Any, collector: StreamCollector, read: Callable[[dict[str, Any]], None]
) -> None:
    """Run `read` on the named arguments of each marked layer, and pass on what it makes of them."""
    for index in collector.marked:
        parameters = signature(layers[index].forward)

        def before(
            layer: Any,
            arguments: tuple[Any, ...],
            named: dict[str, Any],
            parameters: Signature = parameters,
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if collector.off:
                return None
            given = parameters.bind(*arguments, **named)
            read(given.arguments)
            return given.args, given.kwargs

        collector.keep(layers[index].register_forward_pre_hook(before, with_kwargs=True))
