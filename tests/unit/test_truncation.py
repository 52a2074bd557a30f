"""The truncation check on a small stack: right captures pass, and none made wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from led_sglang.patches import capture as capture_module
from led_sglang.patches import proven_capture
from led_sglang.patches.proven_capture import Report, Verdict
from led_sglang.patches.short_prefill import Read
from led_sglang.patches.truncation import Finding, ended_at, examine, widest_input
from led_sglang.settings import LaunchRefused

LAYERS, HIDDEN, ROWS = 6, 16, 4
CAPTURED = (0, 2, 3, 5)


class Layer(nn.Module):
    """Adds a branch, and leaves it to the next reader to do so, as SGLang's fused norms do."""

    def __init__(self, index: int, still: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(index)
        self.weight = torch.randn(HIDDEN, HIDDEN, generator=generator) / 4 * (not still)

    def forward(self, hidden_states: Tensor, residual: Any) -> tuple[Tensor, Tensor]:
        stream = hidden_states if residual is None else hidden_states + residual
        return torch.tanh(stream @ self.weight), stream


class Norm(nn.Module):
    """Returns the sum beside its norm where there is a residual, as SGLang's do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.rand(HIDDEN, generator=torch.Generator().manual_seed(9)) + 0.5

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        stream = x if residual is None else x + residual
        normed = self.weight * stream * (stream.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return normed if residual is None else (normed, stream)


class Stack(nn.Module):
    """Counts its layers by `layers`, or by `end_layer` beside it."""

    def __init__(self, counted: str, still: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(i, i in still) for i in range(LAYERS))
        self.counted = counted
        if counted != "layers":
            self.end_layer = LAYERS
        self.norm = Norm()
        self.all_layers = list(self.layers)

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Any]]]:
        """What the head reads, and what has entered each layer."""
        layers = {
            "layers": list(self.layers),
            "end_layer": [self.layers[i] for i in range(getattr(self, "end_layer", 0))],
            "neither": self.all_layers,
        }[self.counted]
        branch, residual, entered = x, None, []
        for layer in layers:
            entered.append((branch, residual))
            branch, residual = layer(branch, residual)
        normed, _ = self.norm(branch, residual)
        return normed, entered


Entered = list[tuple[Tensor, Any]]


def right(entered: Entered, layer: int) -> Tensor:
    branch, residual = entered[layer]
    return branch if residual is None else branch + residual


def one_layer_off(entered: Entered, layer: int) -> Tensor:
    return right(entered, layer + 1 if layer < LAYERS - 1 else layer - 1)


def branch_only(entered: Entered, layer: int) -> Tensor:
    return entered[layer][0]


def residual_only(entered: Entered, layer: int) -> Tensor:
    branch, residual = entered[layer]
    return branch if residual is None else residual


def stale_residual(entered: Entered, layer: int) -> Tensor:
    return right(entered, layer) + residual_only(entered, layer)


def not_a_number(entered: Entered, layer: int) -> Tensor:
    return right(entered, layer) * (torch.nan if layer == 3 else 1)


class Capturing:
    def __init__(self) -> None:
        self.on = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.on = False
        yield
        self.on = True


def found(
    way: Callable[[Any, int], Tensor] = right,
    stack: Stack | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Finding:
    """What the check finds of a stack whose layers are captured this way."""
    stack, capture = stack or Stack("layers"), Capturing()
    x = torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(1))

    def prefill() -> Read:
        head_input, entered = stack(x)
        if not capture.on:
            return Read(head_input.to(dtype), None, ROWS)
        captured = torch.cat([way(entered, layer) for layer in CAPTURED], dim=1)
        return Read(head_input.to(dtype), captured.to(dtype), ROWS)

    finding = examine(stack, capture, norm or stack.norm, CAPTURED, HIDDEN, prefill, bool)
    assert capture.on
    assert len(stack.layers) == LAYERS
    assert getattr(stack, "end_layer", LAYERS) == LAYERS
    return finding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("counted", ["layers", "end_layer"])
def test_right_layers_pass(counted: str, dtype: torch.dtype) -> None:
    finding = found(stack=Stack(counted), dtype=dtype)
    assert finding.wrong() is None
    assert finding.unable is None
    assert [depth.layer for depth in finding.depths] == list(CAPTURED)
    assert all(depth.own <= finding.bound for depth in finding.depths)
    assert all(depth.other > 0.1 for depth in finding.depths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "way", [one_layer_off, branch_only, residual_only, stale_residual, not_a_number]
)
def test_wrong_layers_are_found_with_figures(way: Any, dtype: torch.dtype) -> None:
    finding = found(way, dtype=dtype)
    wrong = finding.wrong()
    assert wrong is not None
    assert "the model's own head reads something that differs from norm(h^" in wrong
    assert "as the nearest other layer differs by" in wrong
    print(wrong)


def test_a_missing_norm_is_found() -> None:
    assert "differs from norm(h^" in (found(norm=lambda x: x).wrong() or "")


def test_layers_that_do_nothing_are_no_other_layers() -> None:
    finding = found(stack=Stack("layers", still=(2, 5)))  # h^3 is h^2, and h^6 is h^5
    assert finding.wrong() is None
    assert all(depth.other > 0.1 for depth in finding.depths)
    assert found(one_layer_off, Stack("layers", still=(2, 5))).wrong() is not None


def test_a_stack_that_cannot_be_ended_is_said_to_be() -> None:
    finding = found(stack=Stack("neither"))
    assert finding.wrong() is None
    assert finding.unable == "its stack runs all layers where it is told to end earlier"


def test_a_stack_that_does_not_run_without_layers_leaves_out_the_embeddings() -> None:
    stack = Stack("end_layer")
    forward = stack.forward

    def without_layers(x: Tensor) -> Any:
        if stack.end_layer == 0:
            raise ValueError("too many values to unpack (expected 2)")
        return forward(x)

    stack.forward = without_layers
    finding = found(stack=stack)
    assert finding.unread == (
        "h^0: its stack does not run without a layer (ValueError: too many values to unpack "
        "(expected 2))"
    )
    assert [depth.layer for depth in finding.depths] == [2, 3, 5]
    assert finding.wrong() is None
    assert found(branch_only, stack).wrong() is not None


def test_too_wide_or_missing_streams_are_faults() -> None:
    wide = found(lambda entered, layer: right(entered, layer).repeat(1, 4))
    assert wide.wrong() == "it hands out 64 numbers a layer where the model is 16 wide"


@pytest.mark.parametrize("always", [True, False])
def test_a_prefill_that_fails_is_the_captures_fault_if_it_runs_without(always: bool) -> None:
    capture = Capturing()

    def prefill() -> Read:
        if always or capture.on:
            raise ValueError("no such layer\nand more")
        return Read(torch.zeros(ROWS, HIDDEN), None, ROWS)

    stack = Stack("layers")
    finding = examine(stack, capture, stack.norm, CAPTURED, HIDDEN, prefill, bool)
    said = finding.unable if always else finding.wrong()
    assert said is not None
    assert "ValueError: no such layer" in said
    assert (finding.wrong() is None) is always


def test_a_stack_is_whole_again_after_an_error() -> None:
    stack = Stack("end_layer")
    sizes = []

    def run() -> None:
        with ended_at(stack, 2):
            sizes.append((len(stack.layers), stack.end_layer))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    assert [*sizes, (len(stack.layers), stack.end_layer)] == [(2, 2), (LAYERS, LAYERS)]


def test_the_widest_stream_between_layers() -> None:
    stack = Stack("layers")
    x = torch.zeros(ROWS, HIDDEN)
    assert widest_input(stack, lambda: Read(stack(x)[0], None, ROWS)) == HIDDEN
    several = torch.zeros(ROWS * 4, HIDDEN)
    assert widest_input(stack, lambda: Read(stack(several)[0], None, ROWS)) == 4 * HIDDEN


class Ranks:
    """SGLang's group, whose other rank has found this."""

    def __init__(self, other: tuple[str | None, str | None]) -> None:
        self.other = other

    def all_gather_object(self, mine: Any) -> list[Any]:
        return [mine, self.other]


SETTINGS: Any = SimpleNamespace(
    architecture="LlamaForCausalLM", truncation_check="on", unproven=False, captured=CAPTURED
)


def proven(other: tuple[str | None, str | None], mine: Finding) -> Report:
    """The report of a rank that has found one thing, and its neighbour another."""
    runner = SimpleNamespace(
        device="cpu", model=SimpleNamespace(), model_config=SimpleNamespace(hidden_size=HIDDEN)
    )
    parallel = SimpleNamespace(tp_group=Ranks(other), tp_rank=0, pp_size=1)
    with (
        mock.patch.multiple(
            proven_capture,
            get_parallel=lambda: parallel,
            get_model=lambda: SimpleNamespace(is_startup_weight_load_overlap=False),
            decoder_stack=mock.DEFAULT,
            final_norm=mock.DEFAULT,
            ShortPrefill=mock.DEFAULT,
        ),
        mock.patch.object(proven_capture, "examine", return_value=mine),
    ):
        return proven_capture.prove(runner, SETTINGS, mock.Mock())


def test_ranks_decide_together() -> None:
    good = found()
    report = proven((None, None), good)
    assert report.skipped is None
    assert report.layers is not None
    assert sorted(report.layers) == list(CAPTURED)
    assert set(report.shown()["layers"]) == {"h^0", "h^2", "h^3", "h^5"}
    with pytest.raises(LaunchRefused) as refused:
        proven((found(branch_only).wrong(), None), good)
    sentence = str(refused.value)
    assert (
        "layers of LlamaForCausalLM: as dflash captures them, on rank 1 ended at layer" in sentence
    )
    assert "--led-truncation-check off" in sentence
    assert "--sampler regular" in sentence


def test_what_one_rank_cannot_check_none_has_checked(caplog: pytest.LogCaptureFixture) -> None:
    report = proven((None, "its stack cannot be ended"), found())
    assert report.skipped == "on rank 1 its stack cannot be ended"
    assert report.layers is None
    assert "LED's captured layers are not checked: on rank 1" in caplog.text


def test_switched_off_nothing_is_examined() -> None:
    settings: Any = SimpleNamespace(architecture="Qwen2ForCausalLM", truncation_check="off")
    with mock.patch.object(proven_capture, "examine") as examined:
        report = proven_capture.prove(mock.Mock(), settings, mock.Mock())
    examined.assert_not_called()
    assert report == Report("off", "eagle3")
    assert report.shown()["layers"] is None


class Installed:
    """A capture that says when it is taken out of the model."""

    def __init__(self, log: list[str], method: str) -> None:
        self._log, self.method = log, method

    def remove(self) -> None:
        self._log.append(self.method)


def tried(faults: dict[str, str | None], width: float = HIDDEN) -> tuple[Any, list[str]]:
    """The choice of a way on a model that is captured so, and what was taken out of it."""
    removed: list[str] = []
    model = SimpleNamespace()
    runner = SimpleNamespace(model=model, model_config=SimpleNamespace(hidden_size=HIDDEN))

    def install(method: str, *_: Any) -> Installed:
        if faults[method] == "absent":
            raise AttributeError("no such setter")
        return Installed(removed, method)

    def examined(runner: Any, settings: Any, capture: Installed) -> Verdict:
        return Verdict(faults[capture.method], None, None, {})

    settings: Any = SimpleNamespace(architecture="NewForCausalLM", captured=(2, 3), num_layers=6)
    with (
        mock.patch.object(capture_module, "capture_by", install),
        mock.patch.multiple(
            proven_capture,
            _examined=examined,
            decoder_stack=mock.DEFAULT,
            ShortPrefill=mock.DEFAULT,
            widest_input=lambda *_: width,
        ),
    ):
        method, _ = proven_capture.first_proven(runner, settings)
    kept: Any = proven_capture.capture_of(model)
    assert kept.method == method
    return method, removed


def test_the_first_proven_way_stays_in_the_model() -> None:
    faults = {"dflash": "absent", "eagle3": "is one layer off", "boundary": None}
    assert tried(faults) == ("boundary", ["eagle3"])


def test_without_a_proven_way_the_launch_ends_with_what_each_has_shown() -> None:
    faults = dict.fromkeys(("dflash", "eagle3", "boundary", "layer_input"), "absent")
    with pytest.raises(LaunchRefused) as refused:
        tried({**faults, "whole_input": "differs by 0.9"})
    sentence = str(refused.value)
    assert "layers of NewForCausalLM: no way to capture them holds: dflash: not offered" in sentence
    assert "; whole_input: differs by 0.9; serve another model" in sentence


def test_several_streams_are_not_tried() -> None:
    with pytest.raises(LaunchRefused, match="pass on 64 numbers a token where one stream has 16"):
        tried({}, width=4 * HIDDEN)


@pytest.mark.parametrize(("answers", "runs"), [([False], 2), ([True, False], 1)])
def test_a_rank_runs_no_prefill_that_another_one_leaves_out(answers: list[bool], runs: int) -> None:
    """Another rank's prefill failed, and is run without the capture; or it brought other shapes."""
    stack, capture, begun = Stack("layers"), Capturing(), []

    def prefill() -> Read:
        begun.append(capture.on)
        captured = torch.zeros(ROWS, len(CAPTURED) * HIDDEN) if capture.on else None
        return Read(torch.zeros(ROWS, HIDDEN), captured, ROWS)

    def all_ranks(here: bool) -> bool:
        assert here
        return answers.pop(0)

    finding = examine(stack, capture, stack.norm, CAPTURED, HIDDEN, prefill, all_ranks)
    assert finding == Finding()
    assert begun == [True, False][:runs]
