"""A whole step of a GPU server, from its batch to its statistics, on a GPU of fake tensors.

SGLang's own batch, sampler and result with this package's hooks in them: nothing makes the host
wait, and under the overlap scheduler's three streams nothing reads or overwrites what another
stream still uses.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_gpu import Races, Stream, Waits, fake_gpu
from gpu_loop import FLASHINFER, SETTINGS, Loop, hooked, renorm, serve
from sglang.srt import runtime_context
from sglang.srt.layers import sampler as sampler_module
from sglang.srt.model_executor import forward_batch_info
from sglang.srt.platforms import current_platform
from sglang.srt.server_args import ServerArgs
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._pytree import tree_leaves

from led_sglang.kernels.eager import soft_thinking
from led_sglang.kernels.triton import support
from led_sglang.methods.led.record import LedRecord
from led_sglang.methods.led.sampler import LedSampler as LedMethod
from led_sglang.methods.soft_thinking.record import SoftRecord
from led_sglang.models.bundled import bundled_model
from led_sglang.patches import batch_state, published
from led_sglang.patches import sampling as sampling_module
from led_sglang.patches.embedding import SoftInputs


@pytest.fixture(scope="module")
def context() -> Any:
    """SGLang's configuration of a process, as a server has it."""
    args = ServerArgs(model_path=str(bundled_model()), device="cpu")
    return runtime_context.create_context(args, role="scheduler")


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> int:
    """How many share the vocabulary."""
    return int(getattr(request, "param", 1))


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch, context: Any, ranks: int) -> Iterator[Loop]:
    group = SimpleNamespace(
        world_size=ranks,
        device_group=None,
        rank_in_group=0,
        all_gather_object=lambda value: [value] * ranks,
        _all_gather_into_tensor=lambda out, own: out.copy_(own.repeat(ranks, 1)),
    )
    monkeypatch.setattr(published, "settings_or_none", lambda: SETTINGS)
    monkeypatch.setattr(sampling_module, "settings_or_none", lambda: SETTINGS)
    monkeypatch.setattr(type(current_platform), "is_pin_memory_available", lambda *given: True)
    # Attempts of the Dirichlet draw are alike: more of them ask nothing else of the device.
    monkeypatch.setattr(soft_thinking, "_ATTEMPTS", 1)
    for name, kernel in FLASHINFER.items():
        monkeypatch.setattr(sampler_module, name, kernel, raising=False)
    monkeypatch.setattr(sampling_module, "top_p_renorm_prob", renorm)
    monkeypatch.setattr(forward_batch_info, "support_triton", lambda backend: True)
    monkeypatch.setattr(support, "device_reason", lambda device: None)
    with (
        runtime_context.override_platform(has_flashinfer=True),
        runtime_context.use_context(context),
        runtime_context.get_parallel().override(
            tp_group=group,
            attn_tp_group=group,
            tp_size=ranks,
            attn_tp_size=ranks,
            moe_tp_size=ranks,
            tp_rank=0,
            attn_tp_rank=0,
            attn_dp_rank=0,
            dp_rank=None,
        ),
        hooked(monkeypatch),
        fake_gpu(monkeypatch) as gpu,
    ):
        yield Loop(gpu, ranks)


@pytest.mark.parametrize(
    ("batch", "ranks"),
    [("led", 1), ("led", 2), ("dola", 2), ("soft", 1), ("regular", 1), ("all", 1), ("all", 2)],
    indirect=["ranks"],
)
def test_no_step_waits_and_no_stream_races(loop: Loop, batch: str, ranks: int) -> None:
    results = serve(loop, batch)
    for result in results:
        assert not result.next_token_ids.is_cuda
        for record in getattr(result.auxiliary_host_output, "_records", ()):
            tensors = [x for x in tree_leaves(vars(record)) if isinstance(x, Tensor)]
            assert tensors
            assert not any(x.is_cuda for x in tensors)
    step = loop.sampler.methods.step
    assert (step.name, step.reason) == ("triton", None)
    ours = [n for n in loop.gpu.launches[loop.launched :] if n != "compute_position_kernel"]
    assert bool(ours) == (batch in ("led", "all"))
    recorded = batch in ("led", "soft", "all")
    assert (results[1].auxiliary_host_output is not None) == recorded
    assert loop.gpu.downloads >= len(results)


def test_log_probabilities_wait_no_more(loop: Loop) -> None:
    results = serve(loop, "led", return_logprob=True)
    assert all(not r.logits_output.next_token_logprobs.is_cuda for r in results)


WAITS: dict[str, Callable[[Any], object]] = {
    "item": lambda c: c.logits.sum().item(),
    "tolist": lambda c: c.positions.tolist(),
    "bool": lambda c: bool(c.slots[0] > 0),
    "cpu": lambda c: c.logits.cpu(),
    "a pageable download": lambda c: c.logits.to("cpu", non_blocking=True),
    "a mask": lambda c: c.logits[c.logits > 0],
    "nonzero": lambda c: c.logits.nonzero(),
    "a scalar through an index": lambda c: c.logits.__setitem__(c.slots, 0.0),
    "an upload that blocks": lambda c: torch.tensor([1.0]).pin_memory().to("cuda"),
    "a pageable upload": lambda c: torch.tensor([1.0]).to("cuda", non_blocking=True),
    "a tensor made there": lambda c: torch.tensor([1.0], device="cuda"),
}


@pytest.mark.parametrize("fault", WAITS)
def test_a_step_that_waits_is_caught(
    fault: str, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LedMethod.step

    def step(self: Any, context: Any) -> Any:
        WAITS[fault](context)
        return original(self, context)

    monkeypatch.setattr(LedMethod, "step", step)
    with pytest.raises((Waits, DataDependentOutputException, DynamicOutputShapeException)):
        serve(loop, "led")


@pytest.mark.parametrize("name", ["pin_memory", "soft"])
def test_an_upload_that_is_not_page_locked_is_caught(
    name: str, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the batch's rows, and in the prefill of soft requests."""
    if name == "pin_memory":
        monkeypatch.setattr(batch_state, "is_pin_memory_available", lambda device: False)
    else:
        monkeypatch.setattr(SoftInputs, "_upload", lambda self, values: values.to("cuda"))
    with pytest.raises(Waits, match="upload"):
        serve(loop, "soft")


def _hand_out(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    """A record holds the step's own result, which the next step overwrites."""
    original = LedRecord.of

    def of(decided: Any, **named: Any) -> Any:
        return replace(original(decided, **named), summary=decided.result.token_ids)

    monkeypatch.setattr(LedRecord, "of", of)


def _hand_out_state(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    """A record holds a table that the next step writes into."""
    original = SoftRecord.copied

    def copied(self: Any, copy: Any) -> Any:
        return original(replace(self, ids=loop.sampler.methods._states["soft-thinking"].ids), copy)

    monkeypatch.setattr(SoftRecord, "copied", copied)


def _own_stream(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    """A method computes on a stream that waits for nothing."""
    original, side = LedMethod.step, Stream("side")

    def step(self: Any, context: Any) -> Any:
        with loop.gpu.on(side):
            context.logits.sum()
        return original(self, context)

    monkeypatch.setattr(LedMethod, "step", step)


def _no_wait(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    """The forward does not wait for what the schedule stream has made."""
    wait = loop.forward.wait_stream

    def wait_for_others(other: Stream) -> None:
        if other is not loop.schedule:
            wait(other)

    monkeypatch.setattr(loop.forward, "wait_stream", wait_for_others)


@pytest.mark.parametrize(
    ("plant", "batch", "said"),
    [
        (_hand_out, "led", "forward overwrites what copy still uses"),
        (_hand_out_state, "soft", "forward overwrites what copy still uses"),
        (_own_stream, "led", "side reads what forward still writes"),
        (_no_wait, "dola", "forward reads what schedule still writes"),
    ],
)
def test_a_race_is_caught(
    plant: Any, batch: str, said: str, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, loop)
    with pytest.raises(Races, match=said):
        serve(loop, batch)


def test_first_light_watches_functions_that_there_are() -> None:
    """Its plugin makes torch refuse waits in them, on a real GPU."""
    sys.path.append(str(Path(__file__).parents[2]))
    plugin = importlib.import_module("benchmarks.first_light.sync_plugin")
    for module, name, methods in plugin.WATCHED:
        assert set(methods) <= set(vars(getattr(importlib.import_module(module), name)))
