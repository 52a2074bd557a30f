"""What a launch says about who computes LED's steps."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from led_sglang.kernels import LmHeadShard, Step
from led_sglang.kernels import step as choice
from led_sglang.kernels.cpu import step as cpu_step
from led_sglang.kernels.step import ANOTHER_RANK
from led_sglang.kernels.triton import support
from led_sglang.patches import kernel_path, methods_at_work, statistics
from led_sglang.patches.self_check import Report
from led_sglang.patches.statistics import Serving

SETTINGS: Any = SimpleNamespace(depth=8, captured=tuple(range(8)))


def choose(
    device: str, hidden: int = 64, dtype: torch.dtype = torch.bfloat16, group: Any = None
) -> Step:
    runner = SimpleNamespace(
        device=device,
        dtype=torch.bfloat16,
        req_to_token_pool=SimpleNamespace(req_to_token=torch.empty(4, 0)),
        model_config=SimpleNamespace(vocab_size=100),
        spec_algorithm=SimpleNamespace(is_none=lambda: True),
    )
    # FakeTensorMode: a GPU that is not there
    where = device if torch._guards.detect_fake_mode() else "cpu"
    head = LmHeadShard(torch.zeros(100, hidden, dtype=dtype, device=where), 0, 100)
    group = group or SimpleNamespace(rank_in_group=0, all_gather_object=lambda sent: [sent])
    return kernel_path.choose(
        head, runner, SETTINGS, group, final_norm=lambda x: x, all_gather=None
    )


@pytest.fixture
def _any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (support, choice):
        monkeypatch.setattr(module, "device_reason", lambda device: None)


def test_on_a_cpu_the_compiled_step_serves(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "led_sglang"):
        step = choose("cpu")
    assert (step.name, step.reason) == ("cpu", None)
    assert [r.levelname for r in caplog.records if r.name.startswith("led_sglang")] == ["INFO"]


def test_where_it_does_not_compile_torch_serves_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    def fail() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(cpu_step, "compile_all", fail)
    step = choose("cpu")
    assert step.name == "torch"
    assert "no space left" in str(step.reason)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(step.reason) in record.getMessage()
    assert not recwarn.list, "said twice"


@pytest.mark.parametrize(
    ("hidden", "dtype", "reason"),
    [
        (64, torch.float64, "the LM head is torch.float64; the kernels read bfloat16, float16"),
        (40_000, torch.bfloat16, "the hidden size is 40000; the kernels hold 1 to 32768"),
    ],
)
@pytest.mark.usefixtures("_any_device")
def test_what_the_kernels_cannot_hold_is_named_with_the_fallback(
    hidden: int, dtype: torch.dtype, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    step = choose("cuda:0", hidden, dtype)
    assert step.name == "torch"
    assert reason in str(step.reason)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "fall back to torch, which sends every row of the batch" in record.getMessage()
    assert reason in record.getMessage()


@pytest.mark.usefixtures("_any_device")
def test_a_failing_compiler_is_named_with_the_fallback(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """Triton without a GPU cannot launch, just as where ptxas fails."""
    step = choose("cuda:0")
    assert step.name == "torch"
    assert "kernel posterior failed on cpu" in str(step.reason)
    (record,) = caplog.records
    assert "kernel posterior failed" in record.getMessage()
    assert not recwarn.list, "said twice"


def test_a_gpu_that_is_too_old_is_named_with_the_fallback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with FakeTensorMode():
        step = choose("cuda:0")
    assert step.name == "torch"
    (record,) = caplog.records
    assert "the device is sm_75; the kernels need sm_80" in record.getMessage()


@pytest.mark.usefixtures("_any_device")
@pytest.mark.parametrize("rank", [0, 1])
def test_the_cause_of_another_rank_is_named_once(
    rank: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Rank 1 alone cannot run the kernels."""

    def gather(sent: Any) -> list[Any]:
        if isinstance(sent, bool):
            return [True, False]
        return [ANOTHER_RANK, "ptxas says no"]

    group = SimpleNamespace(rank_in_group=rank, all_gather_object=gather)
    step = choose("cpu", group=group)
    assert (step.name, step.reason) == ("torch", "ptxas says no")
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said == (["LED steps run in torch: ptxas says no."] if rank == 0 else [])


def test_server_info_says_what_fell_back_since_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step of a GPU names its reason with the first step that the kernels cannot take."""
    settings = MagicMock(latent_layers=(3, 2), enabled=("led",), boundary_ids=())
    monkeypatch.setattr(statistics, "settings_or_none", lambda: settings)
    monkeypatch.setattr(statistics, "_machine", lambda scheduler: {})
    monkeypatch.setattr(statistics, "samples_here", lambda: True)
    monkeypatch.setattr(methods_at_work, "samples_here", lambda: True)
    step = SimpleNamespace(name="triton", reason=None, projected=None)
    methods: Any = methods_at_work.MethodsAtWork.__new__(methods_at_work.MethodsAtWork)
    methods.bound = SimpleNamespace(model=SimpleNamespace(step=step))
    methods._serving = Serving("triton", None, Report("on", "nothing", 0.5), False)
    runner = SimpleNamespace(sampler=SimpleNamespace(methods=methods))
    controller = SimpleNamespace(
        scheduler=SimpleNamespace(tp_worker=MagicMock(model_runner=runner))
    )

    def shown() -> str:
        result = SimpleNamespace(internal_state={})
        statistics._show_in_server_info(result, controller, None)
        led = result.internal_state["led"]
        assert led["self_check"] == {"mode": "on", "finding": "nothing", "seconds": 0.5}
        kernels: str = led["kernels"]
        return kernels

    assert shown() == "triton"
    step.reason = "latents are torch.float32, not torch.bfloat16: such steps run in torch"
    assert shown() == f"triton: {step.reason}"
