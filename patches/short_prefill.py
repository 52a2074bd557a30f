"""A short prefill outside the server's loop, for what a launch checks of the model's forward."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.scheduler_components.dp_attn import prepare_mlp_sync_batch_raw
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, PPProxyTensors
from sglang.srt.runtime_context import get_parallel, get_schedule
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.utils.common import require_mlp_sync, require_mlp_tp_gather
from torch import Tensor

from led_sglang.patches.lm_head import causal_lm

# Four prompts, 18 tokens; a prefill of one row would look like a decode step to some kernels.
_LENGTHS = (3, 4, 5, 6)
_ABSENT = object()


@dataclass(frozen=True)
class Read:
    """What a prefill brings for the last token of each prompt.

    Attributes:
        head_input: [B, H], what SGLang's logits processor reads.
        captured: [B, C * H], the captured layers as LED receives them; None without any.
        tokens: of all prompts.
    """

    head_input: Tensor
    captured: Tensor | None
    tokens: int


class _NoCache(SimpleNamespace):
    """A prefix cache that holds nothing, as SGLang's allocation asks of it."""

    def supports_swa(self) -> bool:
        return False

    def supports_mamba(self) -> bool:
        return False

    def supports_prefix_sharing(self) -> bool:
        return False

    def maybe_hand_to_session(self, request: Any) -> None: ...


class ShortPrefill:
    """The same few prompts, prefilled eagerly as often as asked.

    Every run begins with empty pools and leaves them so; nothing is sampled.

    Args:
        runner: SGLang's model runner; its pools and attention backends exist.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        lengths = _LENGTHS[: max(1, min(len(_LENGTHS), int(runner.req_to_token_pool.size)))]
        # Ordinary tokens: special ones stand at the ends of a vocabulary.
        vocabulary = int(runner.model_config.vocab_size)
        first, width = vocabulary // 8, max(vocabulary // 2, 1)
        self._prompts = [
            [first + (31 * i + 7 * j * j + 3 * j) % width for j in range(length)]
            for i, length in enumerate(lengths)
        ]

    @torch.no_grad()
    def run(self) -> Read:
        """One prefill; every rank that computes the model's layers together calls it alike."""
        runner = self._runner
        try:
            batch = self._batch()
            read = _HeadInput(causal_lm(runner.model).logits_processor)
            with read, torch.random.fork_rng(devices=_devices(runner.device)):
                output = runner._forward_raw(batch, self._from_earlier_stages()).logits_output
        finally:
            runner.req_to_token_pool.clear()
            runner.token_to_kv_pool_allocator.clear()
        ends = torch.tensor([len(prompt) for prompt in self._prompts]).cumsum(0)
        rows = read.hidden[(ends - 1).to(read.hidden.device)]
        captured = output.hidden_states
        return Read(rows, None if captured is None else captured.clone(), int(ends[-1]))

    def _from_earlier_stages(self) -> PPProxyTensors | None:
        """What the last pipeline stage takes for the others' work: any numbers do, as long as they
        are the same each time. None on the only stage."""
        runner = self._runner
        if get_parallel().pp_size == 1:
            return None
        generator = torch.Generator().manual_seed(1)
        shape = (sum(map(len, self._prompts)), int(runner.model_config.hidden_size))
        streams = {
            name: torch.randn(shape, generator=generator).to(runner.device, runner.dtype)
            for name in ("hidden_states", "residual")
        }
        indices = runner.get_pp_proxy_topk_size()  # of a sparse attention that shares them
        if indices is not None:
            empty = torch.zeros(shape[0], indices, dtype=torch.int32, device=runner.device)
            streams["topk_indices"] = empty
        return PPProxyTensors(streams)

    def _batch(self) -> Any:
        runner, sampling = self._runner, SamplingParams(temperature=0, max_new_tokens=1)
        requests = []
        for i, prompt in enumerate(self._prompts):
            request = Req(f"led-check-{i}", "", array("q", prompt), sampling)
            request.full_untruncated_fill_ids = request.origin_input_ids
            request.logprob_start_len = -1
            request.extend_end = len(prompt)
            requests.append(request)
        cache = _NoCache(
            page_size=get_schedule().page_size,
            device=runner.device,
            token_to_kv_pool_allocator=runner.token_to_kv_pool_allocator,
            req_to_token_pool=runner.req_to_token_pool,
        )
        batch = ScheduleBatch.init_new(
            reqs=requests,
            req_to_token_pool=runner.req_to_token_pool,
            token_to_kv_pool_allocator=runner.token_to_kv_pool_allocator,
            tree_cache=cache,
            model_config=runner.model_config,
            enable_overlap=False,
            spec_algorithm=runner.spec_algorithm,
        )
        batch.prepare_for_extend()
        if require_mlp_sync():
            prepare_mlp_sync_batch_raw(
                batch,
                model_runner=runner,
                get_idle_batch=None,
                disable_cuda_graph=True,
                require_mlp_tp_gather=require_mlp_tp_gather(),
                disable_overlap_schedule=get_schedule().disable_overlap_schedule,
                offload_tags=set(),
            )
        if batch.input_ids is None:  # left on the host until the forward stream takes them
            batch.input_ids = batch.prefill_input_ids_cpu.to(batch.device)
            batch.prefill_input_ids_cpu = None
        return ForwardBatch.init_new(batch, runner, return_hidden_states_before_norm=False)


class _HeadInput:
    """Notes the hidden states that a logits processor is called with, [tokens, H].

    Meanwhile it counts no captured layers: some prefills capture none.
    """

    hidden: Tensor

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __enter__(self) -> None:
        self._expected = self._processor.expected_aux_hidden_states
        self._processor.expected_aux_hidden_states = None
        self._handle = self._processor.register_forward_pre_hook(self._note, with_kwargs=True)

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()
        self._processor.expected_aux_hidden_states = self._expected

    def _note(self, processor: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.hidden = arguments[1] if len(arguments) > 1 else named["hidden_states"]


@contextmanager
def eagerly(runner: Any, eager_runner: Any) -> Iterator[None]:
    """Let SGLang's model runner prefill before its graphs are captured.

    Args:
        runner: SGLang's model runner.
        eager_runner: its runner without graphs.
    """
    given = {
        "eager_runner": eager_runner,
        "prefill_cuda_graph_runner": eager_runner,
        "decode_cuda_graph_runner": None,
    }
    before = {name: vars(runner).get(name, _ABSENT) for name in given}
    vars(runner).update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _ABSENT:
                delattr(runner, name)
            else:
                setattr(runner, name, value)


def _devices(device: Any) -> list[torch.device]:
    """The devices beside the CPU whose random numbers are to stay as they are."""
    return [] if torch.device(device).type == "cpu" else [torch.device(device)]
