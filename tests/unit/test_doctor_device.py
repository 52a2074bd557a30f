"""`led-sglang doctor --device`: a right step passes, every kind of wrong one is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from led_sglang.cli import main
from led_sglang.common.terminal import CommandError
from led_sglang.doctor.device import examine, speed
from led_sglang.doctor.device.finding import Finding
from led_sglang.doctor.device.shape import ON_A_CPU, Shape, of_model
from led_sglang.doctor.device.timers import Ceilings
from led_sglang.kernels import EagerStep, LedResult, LmHeadShard

CPU = torch.device("cpu")
TINY = Shape(40, 300, torch.bfloat16, depth=4)
EFFORT = examine.Effort(steps=4, repeats=1)


class Wrong(EagerStep):
    """Plain torch, whose results pass through `change` on their way out."""

    name = "cpu"
    reason = None

    def __init__(self, weight: Tensor, change: Callable[[LedResult], LedResult]) -> None:
        super().__init__(LmHeadShard(weight, 0, len(weight)), final_norm=examine.rms_norm)
        self._change = change

    def led_step(self, *given: Any) -> LedResult:
        return self._change(super().led_step(*given))


def findings(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[LedResult], LedResult]
) -> dict[str, Finding]:
    monkeypatch.setattr(examine, "prepare_step", lambda shape, weight: Wrong(weight, change))
    monkeypatch.setattr(examine, "_times", lambda *given: [])
    lines = examine.examine_device(CPU, TINY, EFFORT)
    return {line.check: line for line in lines if isinstance(line, Finding)}


def test_a_right_step_passes_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """The step that serves a CPU, as the command runs it."""
    flags = ["--hidden-size", "40", "--vocab-size", "300", "--depth", "4", "--steps", "6"]
    assert main(["doctor", "--device", "cpu", *flags]) == 0
    text = capsys.readouterr().out
    assert "shape: H 40, V 300, bfloat16, d 4, k 8" in text
    assert "| who computes | ok | cpu |" in text
    assert "6 steps" in text
    assert "FAIL" not in text
    judged = [line for line in text.splitlines() if "| ok |" in line]
    assert len(judged) == 8
    assert "nobody exploring" in text


def test_one_layer_has_no_latents_to_check() -> None:
    lines = list(examine.examine_device(CPU, replace(TINY, depth=1), EFFORT))
    assert not [x for x in lines if isinstance(x, Finding) and x.passed is False]


@pytest.mark.parametrize(
    ("named", "said", "change"),
    [
        ("as the oracle", "token", lambda r: replace(r, token_ids=r.token_ids.roll(1))),
        ("as the oracle", "side of the gate", lambda r: replace(r, explored=~r.explored)),
        ("as the oracle", "depth", lambda r: replace(r, depth=r.depth + r.explored.long())),
        (
            "as the oracle",
            "probability to explore",
            lambda r: replace(r, explore_probability=r.explore_probability / 2),
        ),
        (
            "as the oracle",
            "log q",
            lambda r: replace(r, behaviour_logprob=r.behaviour_logprob - 0.1),
        ),
        (
            "p^l, 8 exploring",
            "allowed",
            lambda r: replace(r, layer_probs=r.layer_probs * (1 + 1e-3)),
        ),
        (
            "p^l, 1 exploring",
            "inf",
            lambda r: replace(r, layer_probs=torch.full_like(r.layer_probs, torch.nan)),
        ),
        (
            "rows alone",
            "other bits",
            lambda r: replace(r, p1=r.p1 + (1e-7 if len(r.p1) > 20 else 0.0)),
        ),
    ],
)
def test_a_wrong_step_is_named(
    named: str,
    said: str,
    change: Callable[[LedResult], LedResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = findings(monkeypatch, change)
    assert found[named].passed is False
    assert said in found[named].figures


def test_steps_that_do_not_repeat_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []

    def once_wrong(result: LedResult) -> LedResult:
        calls.append(None)
        drift = 1e-6 * len(calls)
        return replace(result, layer_probs=result.layer_probs + drift)

    found = findings(monkeypatch, once_wrong)["repeatable to the bit"]
    assert found.passed is False
    assert found.figures.startswith("4 of 4 steps")


def test_a_check_that_breaks_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_large(result: LedResult) -> LedResult:
        if len(result.p1) == 32:
            raise RuntimeError("CUDA error: an illegal memory access\nmore")
        return result

    found = findings(monkeypatch, break_large)
    assert (
        found["p^l, 32 exploring"].figures == "RuntimeError: CUDA error: an illegal memory access"
    )
    assert found["as the oracle"].passed is True
    assert examine.failed(found.values())
    assert "| p^l, 32 exploring | **FAIL** |" in capsys.readouterr().out


def test_a_step_that_falls_back_to_torch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(shape: Shape, weight: Tensor) -> EagerStep:
        return EagerStep(
            LmHeadShard(weight, 0, len(weight)), final_norm=examine.rms_norm, reason="no compiler"
        )

    monkeypatch.setattr(examine, "prepare_step", eager)
    monkeypatch.setattr(examine, "_times", lambda *given: [])
    lines = [x for x in examine.examine_device(CPU, TINY, EFFORT) if isinstance(x, Finding)]
    assert lines[0] == Finding("who computes", False, "no compiler")


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["doctor", "--device", "cuda"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("led-sglang: there is no GPU that torch can use here")
    assert len(said.err.splitlines()) == 1


def test_too_little_memory_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(4e9), int(80e9)))
    with pytest.raises(CommandError, match=r"need 10\.\d GB of device memory and 4\.0 are free"):
        next(examine.examine_device(torch.device("cuda"), examine.ON_A_GPU, EFFORT))


def test_the_shape_of_a_model_is_read(tmp_path: Path) -> None:
    config: dict[str, Any] = {"hidden_size": 64, "vocab_size": 1000, "dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}))
    assert of_model(tmp_path, ON_A_CPU) == replace(
        ON_A_CPU, hidden=64, vocab=1000, dtype=torch.float16
    )
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"torch_dtype": "float8"}))
    assert of_model(tmp_path, ON_A_CPU).dtype == ON_A_CPU.dtype


@pytest.mark.parametrize("text", [None, "[1]", "{", '{"hidden_size": 8}', '{"text_config": 3}'])
def test_a_folder_that_states_no_shape(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CommandError, match=r"config\.json .*--hidden-size and --vocab-size$"):
        of_model(tmp_path, ON_A_CPU)


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("NVIDIA H200", 4.8e12),
        ("NVIDIA H20", 4.0e12),
        ("NVIDIA H100 80GB HBM3", 3.35e12),
        ("NVIDIA H100 PCIe", 2.0e12),
        ("NVIDIA A100-SXM4-80GB", 2.0e12),
        ("NVIDIA A100-SXM4-40GB", 1.555e12),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_roofline_of_a_card(name: str, copy: float | None) -> None:
    peak = speed.datasheet(name)
    assert (peak and peak.copy) == copy


def test_the_floor_is_the_weight_once_or_the_arithmetic() -> None:
    """KERNELS: Qwen3-4B on 4.3 TB/s and 790 TFLOP/s."""
    peak = Ceilings(copy=4.3e12, gemm=790e12)
    floors = [round(speed.floor_microseconds(examine.ON_A_GPU, n, peak)) for n in (0, 7, 112, 448)]
    assert floors == [0, 181, 181, 441]
