"""What each pipeline stage does, and what the last one tells the first."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt import runtime_context
from sglang.srt.sampling.sampling_observer_pp import (
    PipelineParallelSamplingObserver,
    add_auxiliary_output_to_pp_tensors,
    pop_auxiliary_output_from_pp_tensors,
)
from sglang.srt.server_args import ServerArgs

from led_sglang.kernels.types import SUMMARY
from led_sglang.launch_layers import dola_layers_of_last_stage, resolve_depth
from led_sglang.methods.led.record import LedRecord
from led_sglang.models.bundled import bundled_model
from led_sglang.patches import stages
from led_sglang.patches.first_streams import FirstStreams
from led_sglang.patches.self_check import Report
from led_sglang.patches.stages import from_the_last_stage, stage_start
from led_sglang.patches.statistics import FromTheLastStage, Serving, StepStatistics
from led_sglang.settings import LaunchRefused

VARIABLE = "SGLANG_PP_LAYER_PARTITION"


@pytest.fixture(scope="module")
def context() -> Any:
    return runtime_context.create_context(
        ServerArgs(model_path=str(bundled_model()), device="cpu"), role="scheduler"
    )


@pytest.fixture
def at(context: Any) -> Iterator[Any]:
    """Puts this process at a place of a server of 2 stages, or of one, of 2 ranks."""
    with runtime_context.use_context(context):

        def place(stage: int, rank: int = 0, of: int = 2, **more: Any) -> Any:
            return runtime_context.get_parallel().override(
                tp_size=2,
                attn_tp_size=2,
                moe_tp_size=2,
                pp_size=of,
                pp_rank=stage,
                attn_tp_rank=rank,
                tp_rank=rank,
                **more,
            )

        yield place


@pytest.mark.parametrize(
    ("layers", "count", "partition", "start"),
    [
        (12, 1, None, 0),
        (12, 1, "5,7", 0),  # of a server that has no stages
        (12, 2, None, 6),
        (13, 2, None, 6),  # the last stages get what is left over
        (13, 4, None, 9),
        (12, 2, "4,8", 4),
        (12, 3, "5,6,1", 11),
    ],
)
def test_where_the_last_stage_begins(
    monkeypatch: pytest.MonkeyPatch, layers: int, count: int, partition: str | None, start: int
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if partition is not None:
        monkeypatch.setenv(VARIABLE, partition)
    assert stage_start(layers, count) == start


@pytest.mark.parametrize(
    ("count", "partition", "named"),
    [
        (13, None, "12 at most"),
        (2, "4", f"{VARIABLE} is '4'"),
        (2, "4,7", f"{VARIABLE} is '4,7'"),
        (2, "four,eight", f"{VARIABLE} is 'four,eight'"),
        (2, "12,0", "the last stage has no layer"),
    ],
)
def test_layers_that_cannot_be_divided(
    monkeypatch: pytest.MonkeyPatch, count: int, partition: str | None, named: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if partition is not None:
        monkeypatch.setenv(VARIABLE, partition)
    with pytest.raises(LaunchRefused) as refusal:
        stage_start(12, count)
    assert named in str(refusal.value)
    assert f"--pp-size {count}" in str(refusal.value)


def test_depth_ends_where_the_last_stage_begins() -> None:
    assert resolve_depth(None, 8, 12, 4) == (8, None)
    assert resolve_depth(8, 8, 12, 4) == (8, None)
    depth, notice = resolve_depth(None, 8, 12, 6)
    assert depth == 6
    assert notice == (
        f"depth 8 clamped to 6: the last pipeline stage begins at layer 6 of 12 ({VARIABLE} "
        "moves it)"
    )
    with pytest.raises(LaunchRefused, match=rf"--led-depth 7 .* layer 6 .* 1\.\.6; .*{VARIABLE}"):
        resolve_depth(7, 8, 12, 6)


def test_layers_of_dola_are_on_the_last_stage() -> None:
    default = (2, 4, 6, 8, 10)
    assert dola_layers_of_last_stage(None, default, 0) == (default, None)
    assert dola_layers_of_last_stage("6,8", (6, 8), 6) == ((6, 8), None)
    layers, notice = dola_layers_of_last_stage(None, default, 6)
    assert layers == (6, 8, 10)
    assert notice is not None
    assert "layers 6, 8, 10 alone" in notice
    assert VARIABLE in notice
    for given, asked, start in (("4,8", (4, 8), 6), (None, default, 11)):
        with pytest.raises(LaunchRefused, match=f"--dola-layers .*layer {start} .*{VARIABLE}"):
            dola_layers_of_last_stage(given, asked, start)


@pytest.mark.parametrize("error", [None, LaunchRefused("the head is odd; serve another model")])
def test_what_the_last_stage_makes_holds_on_all(at: Any, error: LaunchRefused | None) -> None:
    """Its refusal as well: a stage that waits for one that has ended would print a traceback."""
    told: list[Any] = []

    def make() -> str:
        if error is not None:
            raise error
        return "torch"

    def never() -> str:
        raise AssertionError("another stage has no part of it")

    def gather(own: Any) -> list[Any]:
        told.append(pickle.loads(pickle.dumps(own)))
        return [(None, None), told[0]]

    group = SimpleNamespace(world_size=2, all_gather_object=gather)
    for stage, called in ((1, make), (0, never)):
        with at(stage, pp_group=group):
            if error is None:
                assert from_the_last_stage(called) == "torch"
            else:
                with pytest.raises(LaunchRefused, match="the head is odd"):
                    from_the_last_stage(called)


@pytest.mark.parametrize(
    ("module", "name", "divides"),
    [
        ("qwen3", "Qwen3ForCausalLM", True),
        ("deepseek_v2", "DeepseekV3ForCausalLM", True),
        ("nemotron_nas", "DeciLMForCausalLM", True),
        ("gemma2", "Gemma2ForCausalLM", False),
        ("mimo", "MiMoForCausalLM", False),
    ],
)
def test_models_of_one_piece_are_refused(
    monkeypatch: pytest.MonkeyPatch, at: Any, module: str, name: str, divides: bool
) -> None:
    model_class = getattr(import_module(f"sglang.srt.models.{module}"), name)
    monkeypatch.setattr(stages, "settings_or_none", lambda: object())
    monkeypatch.setattr(stages, "get_model_architecture", lambda config: (model_class, name))
    runner = SimpleNamespace(is_draft_worker=False, model_config=None)
    with at(0):
        if divides:
            stages._refuse_models_of_one_piece(runner)
        else:
            with pytest.raises(SystemExit, match=f"cannot divide {name} .*--pp-size"):
                stages._refuse_models_of_one_piece(runner)


ROWS, LAYERS, CANDIDATES = 3, 2, 4


def records() -> list[Any]:
    """Of one step: LED's with a trace, and the first look at the captured layers."""
    trace = {
        "candidate_ids": torch.randint(0, 99, (ROWS, CANDIDATES)),
        "layer_probs": torch.rand(ROWS, LAYERS, CANDIDATES),
        "gate_draw": torch.rand(ROWS, 2)[:, 0],  # not contiguous
    }
    led = LedRecord(torch.rand(ROWS, len(SUMMARY)), trace, 5)
    return [led, FirstStreams(torch.tensor([True, False]), (6, 8))]


def sent(statistics: StepStatistics) -> dict[str, Any]:
    """By SGLang's channel; it cuts what divides by the number of ranks, on the device."""
    tensors: dict[str, Any] = {}
    add_auxiliary_output_to_pp_tensors(tensors, statistics)
    for value in tensors.values():
        assert value.is_contiguous()
        if value.dtype == torch.uint8:  # the one on the host
            assert value.numel() % 2
    return tensors


@pytest.mark.parametrize("reason", [None, "latents are torch.float32: such steps run in torch"])
def test_statistics_arrive_on_the_first_stage_as_they_left_the_last(
    at: Any, reason: str | None
) -> None:
    step: Any = SimpleNamespace(reason=reason, projected=torch.tensor([40]))
    made = records()
    with at(1):
        leaving = StepStatistics.of(made, step)
        assert leaving is not None
        step.projected += 2  # by the next step, before this one's statistics have left
        tensors = sent(leaving)
    serving = Serving("triton", None, Report("on"), False)
    observer = FromTheLastStage(serving)
    assert isinstance(observer, PipelineParallelSamplingObserver)
    with at(0):
        came: Any = pop_auxiliary_output_from_pp_tensors(tensors, observer)  # type: ignore[arg-type]
        assert tensors == {}
        came = came.copy_to_host(torch.clone)
    assert serving.reason == reason
    assert came._projected.tolist() == [40]
    led, (led_there, first_there) = made[0], came._records
    assert torch.equal(led.summary, led_there.summary)
    assert led.trace.keys() == led_there.trace.keys()
    for name, value in led.trace.items():
        assert torch.equal(value, led_there.trace[name])
    assert led_there.projected_rows == 5
    assert first_there.layers == (6, 8)
    assert first_there.finite.tolist() == [True, False]


def test_every_rank_of_the_last_stage_sends_the_same_tensors(at: Any) -> None:
    """Each rank sends a part of each: were it the first one alone, both stages would hang."""
    step: Any = SimpleNamespace(reason=None, projected=None)
    made = records()
    shapes = []
    for rank in (0, 1):
        with at(1, rank):
            leaving = StepStatistics.of(made, step)
            assert leaving is not None
            shapes.append({name: value.shape for name, value in sent(leaving).items()})
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 6  # the pickled rest, the summary, three of the trace, the first look
    with at(0, 1):  # does not answer, and keeps what every rank needs
        with at(1, 1):
            tensors = sent(leaving)
        came: Any = pop_auxiliary_output_from_pp_tensors(
            tensors,
            FromTheLastStage(Serving("cpu", None, Report("on"), False)),  # type: ignore[arg-type]
        )
    assert [type(record) for record in came._records] == [FirstStreams]


def test_one_stage_keeps_what_its_rank_needs(at: Any) -> None:
    step: Any = SimpleNamespace(reason=None, projected=None)
    led, first = records()
    for rank, given, kept in (
        (0, [led], [led]),
        (1, [led], None),
        (1, [led, first], [first]),
    ):
        with at(0, rank, of=1):
            statistics = StepStatistics.of(given, step)
        assert (statistics and statistics._records) == kept
