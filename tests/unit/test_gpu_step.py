"""A whole step of a GPU server, from its batch to its statistics, on a GPU of fake tensors.

SGLang's own batch, sampler and result with this package's hooks in them: nothing makes the host
wait, and under the overlap scheduler's three streams nothing reads or overwrites what another
stream still uses.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu, Races, Stream, Waits, fake_gpu
from sglang.srt import runtime_context
from sglang.srt.layers import sampler as sampler_module
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.model_executor import forward_batch_info
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.platforms import current_platform
from sglang.srt.plugins import hook_registry
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import ServerArgs
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from sglang.srt.utils.common import async_h2d
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._pytree import tree_leaves

from led_sglang.kernels.eager import soft_thinking
from led_sglang.kernels.triton import support
from led_sglang.launch_options import latent_layers, resolve_dola_layers
from led_sglang.methods.led.record import LedRecord
from led_sglang.methods.led.sampler import LedSampler as LedMethod
from led_sglang.methods.registry import sampler_names
from led_sglang.methods.reporting import RequestNotes
from led_sglang.methods.request import parse_request
from led_sglang.methods.soft_thinking.record import SoftHistory, SoftRecord
from led_sglang.models.bundled import bundled_model
from led_sglang.patches import batch_state, hooks, published
from led_sglang.patches import sampling as sampling_module
from led_sglang.patches.batch_state import keep_notes, notes_of
from led_sglang.patches.embedding import SoftInputs
from led_sglang.patches.sampling import LedSampler
from led_sglang.settings import ServerSettings

V, H, SLOTS, LAYERS = 1024, 64, 16, 12
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
    self_check="off",  # it reads what it computes, at launch
)
# Batches by what is in them: a sampler and its group for each request.
BATCHES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "led": [
        ("led", {}),
        ("led", {"trace": True, "gate": "entropy", "gate_entropy": 1.0}),
        ("led", {"final_norm": True, "candidate_top_p": 0.9, "behaviour_logprobs": True}),
    ],
    "dola": [("dola", {}), ("dola", {"layers": "low"})],
    "soft": [
        ("soft-thinking", {"max_topk": 3}),
        ("soft-thinking", {"trace": True}),
        ("soft-thinking-gumbel", {}),
        ("soft-thinking-dirichlet", {"alpha": 2.0}),
    ],
    # Seeds of `regular` requests count beside one of another method.
    "regular": [("regular", {}), ("dola", {})],
    "all": [("led", {}), ("dola", {}), ("soft-thinking", {}), ("soft-thinking-gumbel", {})],
}
# What a retracted soft request has fed back.
MIXTURE = {
    "phases": np.ones(1, dtype=np.int64),
    "entropy": np.ones(1, dtype=np.float32),
    "forced": np.zeros(1, dtype=bool),
    "active": np.ones(1, dtype=bool),
    "streak": np.zeros(1, dtype=np.int64),
    "ids": np.array([[3, 5]]),
    "weights": np.array([[0.5, 0.5]], dtype=np.float32),
}
# The hooks on a step's way; the others concern launches and requests.
STEP_HOOKS = ("SamplingBatchInfo.", "ForwardBatch.init_new", "ModelRunner.sample")


def request(sampler: str, group: dict[str, Any], number: int) -> Any:
    """A request as far as a batch reads it; every other one has a seed and filters."""
    more = {"sampling_seed": 5, "top_k": 20, "top_p": 0.9, "min_p": 0.1} if number % 2 else {}
    sampling = SamplingParams(temperature=0.6, **more)
    req: Any = Req(f"r{number}", "", [1, 7, 7], sampling)
    if sampler != "regular":
        custom = {"sampler": sampler, sampler: group}
        parsed = parse_request(custom, SETTINGS, foreign_keys=False)
        keep_notes(req, RequestNotes(sampler, parsed.params))
    return req


class Plain(SimpleNamespace):
    """What a feature that is off leaves: None."""

    def __getattr__(self, name: str) -> None:
        return None


class Loop:
    """The overlap scheduler's way of a batch, on three streams.

    As `Scheduler.event_loop_overlap` and `run_batch` have it: batches are made on the schedule
    stream, which waits for the forward before the last; a forward waits for the schedule stream;
    its result is copied on a stream of its own, which nothing waits for.
    """

    def __init__(self, gpu: FakeGpu, ranks: int) -> None:
        self.gpu = gpu
        self.schedule, self.forward, self.copy = map(Stream, ("schedule", "forward", "copy"))
        for stream in (self.schedule, self.forward, self.copy):
            stream.wait_stream(gpu.default)
        self.copy_stream, self.forward_stream = self.copy, self.forward
        self.enable_async_d2h_copy = False
        slots = SimpleNamespace(req_to_token=on_gpu(SLOTS, 8, dtype=torch.int32))
        shard = SimpleNamespace(org_vocab_start_index=0, org_vocab_end_index=V // ranks)
        weight = on_gpu(V // ranks, H, dtype=torch.bfloat16)
        head = SimpleNamespace(weight=weight, shard_indices=shard, quant_method=None)
        processor = SimpleNamespace(
            vocab_size=V, logit_scale=None, final_logit_softcapping=None, rl_on_policy_target=None
        )
        stack = nn.Module()
        stack.norm, stack.embed_tokens = nn.Identity(), Embedding()
        self.runner: Any = Plain(
            device="cuda",
            dtype=torch.bfloat16,
            model=SimpleNamespace(
                model=stack,
                lm_head=head,
                logits_processor=processor,
                config=SimpleNamespace(tie_word_embeddings=False),
            ),
            model_config=Plain(vocab_size=V, hidden_size=H),
            req_to_token_pool=slots,
            kv_index_translator=SimpleNamespace(
                own_plan=lambda batch: SimpleNamespace(bind=lambda *given, **named: None)
            ),
            ngram_embedding_manager=SimpleNamespace(
                enabled=False, update_after_decode=lambda **given: None
            ),
            prefill_attention_backend_str="triton",
            spec_algorithm=SpeculativeAlgorithm.NONE,
        )
        self.runner._preprocess_logits = ModelRunner._preprocess_logits.__get__(self.runner)
        self.sampler = LedSampler()
        self.runner.sampler = self.sampler

    @property
    def copy_stream_ctx(self) -> Any:
        return self.gpu.on(self.copy)

    def launch(self) -> None:
        """As a model runner does before the first request."""
        self.sampler.methods.allocate(self.runner)
        self.gpu.allocated(lambda: self.sampler.methods.bind(self.runner))
        for stream in (self.schedule, self.forward, self.copy):
            stream.wait_stream(self.gpu.default)
        self.gpu.may_wait = False
        self.launched = len(self.gpu.launches)

    def batch_of(self, reqs: list[Any], return_logprob: bool = False) -> Any:
        """A batch of requests about to be prefilled, made on the schedule stream."""
        batch: Any = ScheduleBatch(reqs=reqs, device="cuda")
        count = len(reqs)
        batch.forward_mode = ForwardMode.EXTEND
        batch.model_config = self.runner.model_config
        batch.spec_algorithm = SpeculativeAlgorithm.NONE
        batch.seq_lens, batch.orig_seq_lens = on_gpu(count, dtype=torch.int64), None
        batch.req_pool_indices = on_gpu(count, dtype=torch.int64)
        batch.out_cache_loc = on_gpu(3 * count, dtype=torch.int64)
        batch.seq_lens_cpu, batch.seq_lens_sum = None, 3 * count
        batch.input_ids = on_gpu(3 * count, dtype=torch.int64)
        batch.extend_lens, batch.prefix_lens = [3] * count, [0] * count
        batch.extend_num_tokens, batch.extend_logprob_start_lens = 3 * count, [3] * count
        batch.return_logprob = return_logprob
        batch.top_logprobs_nums, batch.token_ids_logprobs = [0] * count, [None] * count
        batch.sampling_info = SamplingBatchInfo.from_schedule_batch(batch, V)
        return batch

    def decode(self, batch: Any) -> None:
        """Turn it into its own next step."""
        batch.forward_mode = ForwardMode.DECODE
        batch.seq_lens = batch.seq_lens + 1
        batch.out_cache_loc = on_gpu(len(batch.reqs), dtype=torch.int64)
        batch.input_ids = on_gpu(len(batch.reqs), dtype=torch.int64)

    def run(self, batch: Any) -> GenerationBatchResult:
        """One forward, its sampling, and the copy of its result."""
        self.forward.wait_stream(self.schedule)
        with self.gpu.on(self.forward):
            kept, batch.sampling_info = batch.sampling_info, batch.sampling_info.copy_for_forward()
            step = ForwardBatch.init_new(batch, self.runner, return_hidden_states_before_norm=False)
            count = len(batch.reqs)
            output = LogitsProcessorOutput(
                next_token_logits=on_gpu(count, V),
                hidden_states=on_gpu(count, len(SETTINGS.captured) * H, dtype=torch.bfloat16),
            )
            soft = self.sampler.methods.soft_inputs
            if soft is not None and batch.forward_mode.is_decode():
                soft._enter(None, (), {"forward_batch": step})
                soft._embed(batch.input_ids)
                soft._leave()
            tokens = ModelRunner.sample(self.runner, output, step)
            batch.sampling_info = kept
            result = GenerationBatchResult(logits_output=output, next_token_ids=tokens)
            result.copy_done = torch.cuda.Event()
        Scheduler._copy_result_to_cpu(self, result, batch)  # type: ignore[arg-type]
        self.schedule.wait_stream(self.forward)
        return result


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype, device="cuda")


def renorm(probs: Tensor, limits: Tensor) -> Tensor:
    """flashinfer's kernels are opaque: sizes go in and out."""
    return torch.empty_like(probs)


def sample(probs: Tensor, *limits: Tensor, **options: Any) -> Tensor:
    """[B] int32."""
    return torch.empty_like(probs[:, 0], dtype=torch.int32)


FLASHINFER: dict[str, Any] = {
    "top_k_renorm_prob": renorm,
    "top_p_renorm_prob": renorm,
    "min_p_sampling_from_probs": sample,
    "top_k_top_p_sampling_from_probs": sample,
}


class Embedding(VocabParallelEmbedding):
    """As far as its look-up."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def _embed_local_shard(self, ids: Tensor) -> Tensor:
        return on_gpu(len(ids), H, dtype=torch.bfloat16)

    forward = _embed_local_shard


@contextmanager
def hooked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This package's hooks on a step's way, taken off again afterwards."""
    for symbol, kind, function in hooks._HOOKS:
        if not any(part in symbol.path for part in STEP_HOOKS):
            continue
        owner_path, _, name = symbol.path.rpartition(".")
        owner = pkgutil.resolve_name(owner_path)
        if symbol.path in hook_registry.HookRegistry._patched:
            continue
        original = vars(owner)[name]
        wrapped = hook_registry._wrap_fn(
            getattr(original, "__func__", original), function, hook_registry.HookType[kind]
        )
        is_class_method = isinstance(original, classmethod)
        monkeypatch.setattr(owner, name, classmethod(wrapped) if is_class_method else wrapped)
    yield


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


def requests_of(batch: str) -> list[Any]:
    """Each of a batch's requests with and without a seed and filters, and a `regular` one."""
    given = [*BATCHES[batch] * 2, ("regular", {})]
    reqs = [request(sampler, group, i) for i, (sampler, group) in enumerate(given)]
    for req in reqs[:1] if batch == "soft" else ():  # one of them has been retracted
        history = SoftHistory()
        history.add(MIXTURE, 0, 0)
        req.output_ids, notes_of(req).statistics = [3], history
    return reqs


def serve(loop: Loop, name: str, **options: Any) -> list[GenerationBatchResult]:
    """A prefill, two decode steps, some requests end, others join, two more steps."""
    loop.launch()
    with loop.gpu.on(loop.schedule):
        batch = loop.batch_of(requests_of(name), **options)
    results = [loop.run(batch)]
    for _ in range(2):
        with loop.gpu.on(loop.schedule):
            loop.decode(batch)
        results.append(loop.run(batch))
    with loop.gpu.on(loop.schedule):
        kept = list(range(len(batch.reqs) - 1))
        index = async_h2d(kept, dtype=torch.int64, device=torch.device("cuda"))
        batch.sampling_info.filter_batch(kept, index)
        batch.reqs, batch.seq_lens = batch.reqs[:-1], batch.seq_lens[index]
        batch.req_pool_indices = batch.req_pool_indices[index]
        more = loop.batch_of(requests_of("regular"), **options)
    results.append(loop.run(more))
    with loop.gpu.on(loop.schedule):
        batch.sampling_info.merge_batch(more.sampling_info)
        batch.reqs = batch.reqs + more.reqs
        batch.seq_lens = torch.cat([batch.seq_lens, more.seq_lens])
        batch.req_pool_indices = torch.cat([batch.req_pool_indices, more.req_pool_indices])
        batch.top_logprobs_nums = [0] * len(batch.reqs)
        batch.token_ids_logprobs = [None] * len(batch.reqs)
        loop.decode(batch)
    results.append(loop.run(batch))
    with loop.gpu.on(loop.schedule):
        loop.decode(batch)
    return [*results, loop.run(batch)]


@pytest.mark.parametrize(
    ("batch", "ranks"),
    [("led", 1), ("led", 2), ("dola", 2), ("soft", 1), ("regular", 1), ("all", 1)],
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
