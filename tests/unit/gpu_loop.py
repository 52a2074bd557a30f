"""The overlap scheduler's way of a batch on a GPU of fake tensors: SGLang's own batch, sampler and
result, with this package's hooks in them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu, Stream
from server_settings import SETTINGS as OF_EVERY_METHOD
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.plugins import hook_registry
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from sglang.srt.utils.common import async_h2d
from torch import Tensor, nn

from led_sglang.methods.reporting import RequestNotes
from led_sglang.methods.request import parse_request
from led_sglang.methods.soft_thinking.record import SoftHistory
from led_sglang.patches import hooks
from led_sglang.patches.batch_state import keep_notes, notes_of
from led_sglang.patches.sampling import LedSampler

V, H, SLOTS = 1024, 64, 16
# No self-check: it reads what it computes, at launch.
SETTINGS = replace(OF_EVERY_METHOD, think_end_ids=(2, 3), self_check="off")
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
