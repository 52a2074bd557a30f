"""The verification of drafts: all but the `regular` requests draw their own token at each node.

A draft is accepted as far as its tokens are those that were drawn. Noise is keyed by seed, position
and token, so a request with a seed draws what it would have drawn without drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sglang.kernels.ops.sampling import softmax
from sglang.srt.layers.dp_attention import is_dp_attention_enabled
from sglang.srt.runtime_context import get_parallel
from sglang.srt.speculative import eagle_utils
from torch import Tensor

from led_sglang.kernels import noise_origins
from led_sglang.kernels.draft_tree import DraftTree
from led_sglang.methods.regular import SeededRows
from led_sglang.methods.rows import Repeated, RowTable
from led_sglang.patches.batch_state import SAMPLER_ATTRIBUTE, table_of
from led_sglang.patches.batch_step import BatchStep
from led_sglang.patches.hooks import hook
from led_sglang.patches.sampling import LedSampler
from led_sglang.phase import StepInputs

# LogitsProcessorOutput: (step, accepted nodes), from the verification to its log-probabilities.
_VERIFIED_ATTRIBUTE = "led_verified"

# Predicted tokens [B * D], accepted tokens of each request [B], accepted nodes [B, A], all int32.
Verified = tuple[Tensor, Tensor, Tensor]


@hook("speculative.eagle_utils.eagle_sample", "AROUND")
def _verify(
    original: Callable[..., Verified],
    verify_input: Any,
    batch: Any,
    logits_output: Any,
    *arguments: Any,
    **named: Any,
) -> Verified:
    table = None if batch.forward_mode.is_idle() else table_of(batch.sampling_info)
    if table is None or not len(table.rows):
        return original(verify_input, batch, logits_output, *arguments, **named)
    sampler: LedSampler = getattr(batch.sampling_info, SAMPLER_ATTRIBUTE)
    nodes = table.once(Repeated(verify_input.draft_token_num))
    sampler.methods.change_logits(logits_output, nodes)
    draws_all = not any(row.regular for row in table.rows)
    # It applies penalties, bias and grammars to the logits, in place.
    with _spared(batch.sampling_info, draws_all):
        theirs = original(verify_input, batch, logits_output, *arguments, **named)
    ours = _draw(sampler, nodes, verify_input, batch, logits_output)
    if draws_all:
        return ours
    regular = table.regular_rows
    by_node = regular.repeat_interleave(verify_input.draft_token_num)
    return (
        torch.where(by_node, theirs[0], ours[0]),
        torch.where(regular, theirs[1], ours[1]),
        torch.where(regular[:, None], theirs[2], ours[2]),
    )


@contextmanager
def _spared(sampling_info: Any, spared: bool) -> Iterator[None]:
    """Have the engine take the likeliest tokens, its shortest way, where none of its is used."""
    greedy = sampling_info.is_all_greedy
    sampling_info.is_all_greedy = greedy or spared
    try:
        yield
    finally:
        sampling_info.is_all_greedy = greedy


def _draw(
    sampler: LedSampler, nodes: RowTable, verify_input: Any, batch: Any, logits_output: Any
) -> Verified:
    """Draw at every node, follow the drafts, and move the think phases on."""
    info, tracker = batch.sampling_info, sampler.methods.bound.tracker
    logits, width = logits_output.next_token_logits, verify_input.draft_token_num
    candidates = verify_input.draft_token.view(-1, width)
    slots = batch.req_pool_indices
    phase = None
    if tracker is not None:
        links = verify_input.retrieve_next_token, verify_input.retrieve_next_sibling
        phase = tracker.begin_drafts(slots, DraftTree(candidates.long(), *links))
    inputs = StepInputs(slots.repeat_interleave(width), None)
    step = BatchStep(inputs, nodes, verify_input.positions, phase)
    temperature = sampler.temperatures.of(info.temperatures, width)
    sampler.methods.decide(step, logits_output, logits, temperature)
    tokens = _drawn_by_the_engines_rules(sampler, step, logits, temperature)
    step.take_over(tokens)
    group = get_parallel().attn_tp_group if is_dp_attention_enabled() else get_parallel().tp_group
    if group.world_size > 1:
        group.broadcast(tokens, src=0)
    step.finish(tokens, group.world_size > 1)

    predicted = torch.zeros_like(tokens, dtype=torch.int32)
    shape = len(candidates), verify_input.max_tree_depth
    accepted = torch.full(shape, -1, dtype=torch.int32, device=tokens.device)
    count = torch.empty(len(candidates), dtype=torch.int32, device=tokens.device)
    predicted, accepted, count = eagle_utils.verify_tree_greedy_func(
        predicts=predicted,
        accept_index=accepted,
        accept_token_num=count,
        candidates=candidates,
        retrieve_index=verify_input.retrieve_index,
        retrieve_next_token=verify_input.retrieve_next_token,
        retrieve_next_sibling=verify_input.retrieve_next_sibling,
        target_predict=tokens.view(-1, width),
        topk=verify_input.tree_topk,
    )
    on_the_way = accepted.clamp(min=0).long()
    if tracker is not None and phase is not None:
        tracker.commit(slots, phase, on_the_way.gather(1, count.long()[:, None])[:, 0])
    sampler.methods.publish(step, logits_output, logits, on_the_way)
    setattr(logits_output, _VERIFIED_ATTRIBUTE, (step, on_the_way))
    return predicted, count + 1, accepted


def _drawn_by_the_engines_rules(
    sampler: LedSampler, step: BatchStep, logits: Tensor, temperature: Tensor
) -> Tensor:
    """[B * D] int64 tokens under the requests' own filters, for nodes that no method owns."""
    tokens = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    drawn = step.table.once(SeededRows.of_drafts)
    if drawn is None:
        return tokens
    if logits.device.type == "cpu":  # where a look at the nodes costs nothing
        owned = torch.stack([picks.owned for picks in step.picks]) if step.picks else None
        if owned is not None:
            drawn = drawn.among(~owned.any(0))
            if not drawn:
                return tokens
    table = step.table
    seeds, positions = noise_origins(
        sampler.methods.bound.model.noise, table.seeds, table.has_seed, step.positions
    )
    probs = softmax(logits, temperatures=temperature[:, None])
    return drawn.with_seeds(seeds).pick(probs, positions, tokens, sampler.top_p)


@hook("layers.logprob_processor.compute_spec_logprobs", "AFTER")
def _report(result: None, batch: Any, logits_output: Any, predict: Tensor, **named: Any) -> None:
    """Log-probabilities of the accepted tokens, which the engine has looked up as ever."""
    verified = getattr(logits_output, _VERIFIED_ATTRIBUTE, None)
    if verified is not None:
        step, nodes = verified
        logprobs = step.reported_logprobs(logits_output.next_token_logprobs, nodes)
        logits_output.next_token_logprobs = logprobs
