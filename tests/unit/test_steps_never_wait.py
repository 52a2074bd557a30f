"""Every method's part of a step on a GPU, with fake tensors: nothing in it makes the host wait.

A fake CUDA tensor has no value, so what asks for one raises. Refused besides: tensors of the CPU in
operations of the GPU (a scalar that is assigned through an index is one, and moving it waits), and
uploads from memory that is not page-locked, or that block.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from led_sglang.kernels import EagerStep, LmHeadShard, NoiseStream
from led_sglang.launch_options import latent_layers, resolve_dola_layers
from led_sglang.methods.base import LoadedModel, LogitsContext, StepContext, TokenSampler
from led_sglang.methods.registry import METHODS, sampler_names
from led_sglang.methods.request import parse_request
from led_sglang.methods.rows import Layout, Row, RowTable
from led_sglang.methods.soft_thinking.record import SoftHistory
from led_sglang.methods.soft_thinking.state import SoftState
from led_sglang.patches import embedding as embedding_module
from led_sglang.patches.embedding import SoftInputs
from led_sglang.phase import KEEP, PhaseTracker, StepInputs, ThinkAutomaton
from led_sglang.settings import ServerSettings

V, H, SLOTS, LAYERS = 97, 16, 12, 12
SETTINGS = ServerSettings(
    sampler="led",
    enabled=sampler_names(),
    depth=4,
    candidates=8,
    layers="paper",
    think_only=True,
    architecture="Qwen3ForCausalLM",
    num_layers=LAYERS,
    latent_layers=latent_layers(LAYERS, 4),
    dola_layers=resolve_dola_layers(None, LAYERS, tied=True),
    tied_embeddings=True,
    preset="default",
    think_start="<think>",
    think_end="</think>",
    think_start_ids=(1,),
    think_end_ids=(2, 3),
    boundary_ids=(),
)
ATEN = torch.ops.aten
_MASKABLE = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}


class NeverWait(TorchDispatchMode):
    """Refuses operations that mix devices, uploads that block and indexing with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.locked: list[Tensor] = []

    def pin(self, values: Tensor) -> Tensor:
        """In place of `Tensor.pin_memory`, which needs a GPU."""
        locked = values.clone()
        self.locked.append(locked)
        return locked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
        if func is ATEN._to_copy.default and given[0].device != made[0].device:
            assert made[0].is_cuda, "copied to the host"
            assert kwargs.get("non_blocking"), "an upload that blocks"
            assert any(given[0] is x for x in self.locked), "an upload from pageable memory"
        elif any(x.is_cuda for x in given):
            assert all(x.is_cuda for x in given), f"{func} of tensors on the CPU and the GPU"
        if func in _MASKABLE:
            masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
            assert not masks, f"{func} with a mask"
        return output


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Any:
    mode = NeverWait()
    monkeypatch.setattr(Tensor, "pin_memory", lambda values: mode.pin(values))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield mode


CUSTOM: dict[str, list[dict[str, Any]]] = {
    "led": [
        {},
        {"trace": True, "gate": "entropy", "gate_entropy": 1.0},
        {"final_norm": True, "candidate_top_p": 0.9},
    ],
    "dola": [{}, {"layers": "low"}],
    "soft-thinking": [{"max_topk": 3}, {"trace": True}],
    "soft-thinking-gumbel": [{}],
    "soft-thinking-dirichlet": [{"alpha": 2.0}],
}


def rows_of(samplers: list[str]) -> list[Row]:
    """Rows of the samplers with and without seeds and filters, and one that is `regular`."""
    rows = [Row()]
    for name in samplers:
        for i, group in enumerate(CUSTOM[name]):
            custom = {"sampler": name, name: group}
            request = parse_request(custom, SETTINGS, foreign_keys=False)
            filters: dict[str, Any] = {"top_k": 20, "top_p": 0.9, "min_p": 0.1} if i % 2 else {}
            rows.append(Row(name, request.params, seed=5 if i % 2 else None, **filters))
    return rows


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype, device="cuda")


def loaded_model() -> LoadedModel:
    head = LmHeadShard(on_gpu(V, H, dtype=torch.bfloat16), 0, V)
    return LoadedModel(
        head=head,
        step=EagerStep(head, final_norm=lambda x: x * 2),
        all_gather=None,
        shard_widths=(V,),
        noise=NoiseStream(on_gpu(1, dtype=torch.int64), on_gpu(1, dtype=torch.int64)),
        place_of=on_gpu(LAYERS + 1, dtype=torch.int64),
        think_end=on_gpu(2, dtype=torch.int64),
    )


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.samplers[0])
def test_step_of_every_method(mode: NeverWait, method: Any) -> None:
    model, state = loaded_model(), method.allocate(SLOTS, "cuda")
    at_work = method.bind(model, state)
    tracker = PhaseTracker(ThinkAutomaton((1,), (2, 3)), SLOTS, V, "cuda")
    with mode:
        layout = Layout.of(METHODS)
        table = RowTable.build(rows_of(list(method.samplers)), layout, "cuda", pin=True)
        places = range(len(table.rows) - 1)
        kept = table.keep(places, table.upload(torch.tensor(list(places))))
        table = kept.join(kept.regular(2))
        batch = len(table.rows)
        slots = table.upload(torch.arange(batch))
        initial = table.upload(torch.tensor([KEEP] * batch))
        step = StepInputs(slots, initial)
        logits, streams = on_gpu(batch, V), on_gpu(batch, LAYERS, H, dtype=torch.bfloat16)
        tokens = table.upload(torch.zeros(batch, dtype=torch.int64))
        states, thinking, phases = tracker.begin(step)
        if isinstance(at_work, TokenSampler):
            picks = at_work.step(
                StepContext(
                    logits=logits,
                    latents=streams,
                    positions=slots,
                    slots=slots,
                    temperature=on_gpu(batch),
                    thinking=thinking,
                    phases=phases,
                    thinks_after=lambda ids: tracker.thinks_after(states, ids),
                    table=table,
                )
            )
            tokens = torch.where(picks.owned, picks.token_ids, tokens)
        else:
            at_work.change(LogitsContext(logits, streams, table))
        tracker.finish(step, states, tokens)


def test_prefill_of_soft_requests(mode: NeverWait, monkeypatch: pytest.MonkeyPatch) -> None:
    """New requests clear their slots; a retracted one brings its mixtures."""
    history = SoftHistory()
    entry = {
        "phases": np.ones(1, dtype=np.int64),
        "entropy": np.ones(1, dtype=np.float32),
        "forced": np.zeros(1, dtype=bool),
        "active": np.ones(1, dtype=bool),
        "streak": np.zeros(1, dtype=np.int64),
        "ids": np.array([[3, 5]]),
        "weights": np.array([[0.5, 0.5]], dtype=np.float32),
    }
    for position in range(2):
        history.add(entry, 0, position)
    monkeypatch.setattr(embedding_module, "_history", lambda req: req.history)
    inputs: Any = SoftInputs.__new__(SoftInputs)
    inputs.state, inputs._pin = SoftState.allocate(SLOTS, "cuda"), True
    inputs.embedding = lambda ids: on_gpu(len(ids), H)
    requests = [
        SimpleNamespace(history=None, origin_input_ids=[1, 2]),
        SimpleNamespace(history=history, origin_input_ids=[1, 2, 4]),
    ]
    with mode:
        forward = SimpleNamespace(
            extend_prefix_lens_cpu=[0, 0],
            extend_seq_lens_cpu=[2, 5],
            req_pool_indices=on_gpu(2, dtype=torch.int64),
            replace_embeds=None,
        )
        inputs.restore(SimpleNamespace(reqs=requests), forward)
    assert forward.replace_embeds.shape == (2, H)
    assert forward.replace_positions.is_cuda


def test_the_guard_would_notice(mode: NeverWait) -> None:
    there = on_gpu(4)
    index = on_gpu(2, dtype=torch.int64)
    for wait in (
        lambda: there.__setitem__(index, 0.0),
        lambda: torch.tensor([1.0]).to("cuda"),
        lambda: torch.tensor([1.0]).to("cuda", non_blocking=True),
        lambda: torch.tensor([1.0]).pin_memory().to("cuda"),
        lambda: there[there > 0],
        lambda: there.cpu(),
    ):
        with mode, pytest.raises((AssertionError, DynamicOutputShapeException)):
            wait()
