"""What a launch says about who computes LED's steps."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from led_sglang.kernels import LmHeadShard, support
from led_sglang.patches import kernel_path

from led_sglang import cpu_kernels

SETTINGS: Any = SimpleNamespace(depth=8, captured=tuple(range(8)))


def choose(device: str, hidden: int = 64, dtype: torch.dtype = torch.bfloat16) -> str | None:
    runner = SimpleNamespace(
        device=device,
        dtype=torch.bfloat16,
        req_to_token_pool=SimpleNamespace(req_to_token=torch.empty(4, 0)),
        model_config=SimpleNamespace(vocab_size=100),
    )
    head = LmHeadShard(torch.zeros(100, hidden, dtype=dtype), 0, 100)
    return kernel_path.choose(head, runner, SETTINGS, None)


@pytest.fixture(autouse=True)
def _one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 1)
    monkeypatch.setattr(kernel_path, "_served_by", "")


def test_on_a_cpu_the_compiled_step_serves(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "led_sglang"):
        assert choose("cpu") is None
    cpu_kernels.withdraw()
    assert [r.levelname for r in caplog.records if r.name.startswith("led_sglang")] == ["INFO"]
    assert kernel_path.served_by() == "cpu"


def test_where_it_does_not_compile_torch_serves_a_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(cpu_kernels.readiness, "compiled_step", fail)
    with pytest.warns(RuntimeWarning, match="no space left"):
        reason = choose("cpu")
    assert "no space left" in str(reason)
    assert caplog.records[-1].levelname == "WARNING"
    assert kernel_path.served_by() == f"torch: {reason}"


@pytest.mark.parametrize(
    ("hidden", "dtype", "reason"),
    [
        (64, torch.float64, "the LM head is torch.float64; the kernels read bfloat16, float16"),
        (40_000, torch.bfloat16, "the hidden size is 40000; the kernels hold 1 to 32768"),
    ],
)
def test_what_the_kernels_cannot_hold_is_named_with_the_fallback(
    hidden: int,
    dtype: torch.dtype,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in (support, kernel_path):
        monkeypatch.setattr(module, "device_reason", lambda device: None)
    assert reason in str(choose("cuda:0", hidden, dtype))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "fall back to torch, which sends every row of the batch" in record.getMessage()
    assert reason in record.getMessage()


def test_a_failing_compiler_is_named_with_the_fallback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Triton without a GPU cannot launch, just as where ptxas fails."""
    for module in (support, kernel_path):
        monkeypatch.setattr(module, "device_reason", lambda device: None)
    with pytest.warns(RuntimeWarning, match="kernel topk_gate failed on cpu"):
        reason = choose("cuda:0")
    assert "kernel topk_gate failed" in str(reason)
    assert "kernel topk_gate failed" in caplog.records[-1].getMessage()
    assert kernel_path.served_by().startswith("torch: kernel topk_gate failed")
