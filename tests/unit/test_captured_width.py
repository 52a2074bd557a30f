"""What SGLang hands over as captured layers is looked at before it is taken for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from led_sglang.patches.captured_streams import streams_of
from led_sglang.patches.first_streams import FirstStreams

CAPTURED, HIDDEN, ROWS = 4, 16, 3


def captured(hidden_states: Tensor | None) -> Tensor:
    """What a step of `CAPTURED` layers makes of a forward's hidden states."""
    settings: Any = SimpleNamespace(captured=(3, 2, 1, 0), architecture="MiMoForCausalLM")
    output = SimpleNamespace(hidden_states=hidden_states)
    return streams_of(output, torch.empty(ROWS, 7), HIDDEN, settings)


def test_captured_layers_are_viewed_and_not_copied() -> None:
    hidden = torch.randn(ROWS, CAPTURED * HIDDEN)
    view = captured(hidden)
    assert view.shape == (ROWS, CAPTURED, HIDDEN)
    assert view.data_ptr() == hidden.data_ptr()


@pytest.mark.parametrize(
    "shape",
    [
        (ROWS, HIDDEN),  # the final layer alone: nothing was captured
        (ROWS, CAPTURED * HIDDEN // 2),
        (ROWS, 2 * CAPTURED * HIDDEN),
        (ROWS + 1, CAPTURED * HIDDEN),  # rows of another step
        (2 * ROWS, CAPTURED * HIDDEN // 2),
        None,
    ],
    ids=str,
)
def test_anything_else_ends_with_the_cause(shape: tuple[int, int] | None) -> None:
    with pytest.raises(RuntimeError) as failure:
        captured(None if shape is None else torch.randn(shape))
    message = str(failure.value)
    assert str(shape) in message
    assert "4 captured layers of width 16 for each of 3 rows" in message
    assert "MiMoForCausalLM" in message


def streams(change: dict[tuple[int, int, int], float], nan_row: int | None = None) -> FirstStreams:
    """Of layers 8 to 11, some numbers of which are others, as they arrive on the host."""
    captured, logits = torch.randn(ROWS, CAPTURED, HIDDEN), torch.randn(ROWS, 7)
    logits[0, 3] = -torch.inf  # masked by a grammar
    for place, value in change.items():
        captured[place] = value
    if nan_row is not None:
        logits[nan_row] = torch.nan
    return FirstStreams.of(captured, logits, (8, 9, 10, 11)).copied(torch.clone)


def test_streams_that_are_numbers_pass_and_so_do_requests_that_are_not() -> None:
    streams({}).commit(None, None)  # type: ignore[arg-type]
    broken = {(1, 2, 5): torch.nan, (1, 0, 0): torch.inf}
    streams(broken, nan_row=1).commit(None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_streams_that_are_no_numbers_end_the_server_and_are_named(value: float) -> None:
    places = {(0, 1, 15): value, (2, 3, 0): value}
    with pytest.raises(RuntimeError, match=r"in h\^9, h\^11 where the final logits are numbers"):
        streams(places, nan_row=1).commit(None, None)  # type: ignore[arg-type]
