"""The captured residual streams of a forward, as SGLang's output brings them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from led_sglang.settings import ServerSettings

# LogitsProcessorOutput: LED's streams, where `hidden_states` are what a drafter waits for.
STREAMS_ATTRIBUTE = "led_streams"
_COLUMNS_ATTRIBUTE = "led_columns"  # of a model: Columns


@dataclass(frozen=True)
class Columns:
    """Whose the captured streams are, where a drafter (EAGLE3) captures some too.

    Attributes:
        count: all streams.
        led, drafter: places of theirs, ascending; they may overlap.
    """

    count: int
    led: tuple[int, ...]
    drafter: tuple[int, ...]


def share_columns(model: Any, led: list[int], drafter: list[int]) -> list[int]:
    """Note whose the streams of a model are.

    Args:
        model: SGLang's.
        led, drafter: numbers of the layers, each.

    Returns:
        All layers, ascending.
    """
    layers = sorted({*led, *drafter})
    places = [tuple(sorted(map(layers.index, own))) for own in (led, drafter)]
    setattr(model, _COLUMNS_ATTRIBUTE, Columns(len(layers), *places))
    return layers


def columns_of(model: Any) -> Columns | None:
    """Whose the streams of a model are; None where all are LED's."""
    return getattr(model, _COLUMNS_ATTRIBUTE, None)


def streams_of(
    logits_output: Any, logits: Tensor, hidden_size: int, settings: ServerSettings
) -> Tensor:
    """[B, C, H], deepest layer first: a view of what SGLang captured.

    Args:
        logits_output: SGLang's, of the forward.
        logits: [B, V] of its rows.
        hidden_size: H.
        settings: of the server.

    Raises:
        RuntimeError: SGLang brings something else.
    """
    rows, captured = logits.shape[0], len(settings.captured)
    if captured == 0:
        return logits.new_empty(rows, 0, 1)
    shape = (rows, captured, hidden_size)
    hidden = getattr(logits_output, STREAMS_ATTRIBUTE, None)
    if hidden is None:
        hidden = logits_output.hidden_states
    got = None if hidden is None else tuple(hidden.shape)
    if got != (rows, shape[1] * shape[2]):
        raise RuntimeError(
            f"LED waits for {captured} captured layers of width {shape[2]} for each of {rows} "
            f"rows, and SGLang brings hidden states of shape {got}: the layers of "
            f"{settings.architecture} were not captured in this forward; start without "
            "LED (--sampler regular), or leave prefill graphs out "
            "(--disable-prefill-cuda-graph) if they are on"
        )
    view: Tensor = hidden.view(shape)
    return view
