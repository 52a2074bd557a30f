"""What a draft model needs on the CPU platform beside `speculation`: drafting in several steps.

Step i is a decode batch with a row for each branch of each request, which reads what is committed
and what its branch has written in the steps before. Each piece takes the place of one of SGLang's,
with its arguments and its result.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from led_sglang.patches.cpu.attention import (
    BatchedTorchAttention,
    Rows,
    rows_of,
    tree_places,
)
from led_sglang.patches.cpu.operations import replace
from led_sglang.patches.cpu.speculation import extend_cache_locs, reconstruct_tree


def install() -> None:
    """Put the pieces in place, in the scheduler's process, before the worker that drafts exists."""
    from sglang.srt.managers import overlap_utils
    from sglang.srt.speculative import eagle_utils, eagle_worker_common, spec_utils
    from sglang.srt.speculative.draft_utils import DraftBackendFactory

    replace(DraftBackendFactory, "create_decode_backend", _attention_of_steps)
    replace(DraftBackendFactory, "create_draft_extend_backend", _the_runners_own)
    replace(eagle_worker_common, "assign_draft_cache_locs_contiguous_func", draft_slots)
    replace(eagle_worker_common, "fill_bonus_tokens_func", last_accepted)
    replace(eagle_utils, "build_tree_kernel_efficient_func", build_tree)
    replace(overlap_utils, "gather_spec_extras", gather)
    # Compiling it would take longer than the server's start.
    later = inspect.unwrap(spec_utils._select_top_k_tokens_later)
    replace(spec_utils, "_select_top_k_tokens_later", later)


def _attention_of_steps(self: Any) -> AttentionOfSteps:
    return AttentionOfSteps(self.draft_model_runner, self.topk, self.speculative_num_steps)


def _the_runners_own(self: Any) -> None:
    """Committed tokens are read into the draft model by the attention that reads its prompts."""


class AttentionOfSteps:
    """Attention of a draft, a backend for each step but the last, which only chooses tokens.

    Args:
        model_runner: SGLang's, of the draft model.
        topk: branches of a draft.
        steps: tokens of a branch.
    """

    def __init__(self, model_runner: Any, topk: int, steps: int) -> None:
        self.attn_backends = []
        for step in range(steps - 1):
            backend = AttentionOfStep(model_runner)
            backend.step, backend.steps, backend.topk = step, steps, topk
            self.attn_backends.append(backend)

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Mark the start of a draft."""
        for backend in self.attn_backends:
            backend.init_forward_metadata(forward_batch)


class AttentionOfStep(BatchedTorchAttention):
    """Attention of one step of a draft, 0-based."""

    step: int
    steps: int
    topk: int
    swa_out_cache_loc: Tensor | None  # KV slots under a sliding window, where there is one

    def init_forward_metadata(self, forward_batch: Any) -> None:
        super().init_forward_metadata(forward_batch)
        if self.swa_out_cache_loc is not None:  # of all steps
            self.swa_out_cache_loc = self.swa_out_cache_loc.view(-1, self.steps)[:, self.step]

    def _decoded(self, req_to_token: Tensor, requests: Tensor, lengths: Tensor) -> Rows:
        """A row for each branch; behind the committed tokens a request's branches lie in a line."""
        branches = torch.arange(self.topk).repeat(len(requests))[:, None]
        requests, lengths = (x.repeat_interleave(self.topk) for x in (requests, lengths))
        rows = rows_of(req_to_token, requests, lengths + self.step + 1)
        columns = lengths[:, None] + torch.arange(self.step + 1)
        own = req_to_token[requests[:, None], columns + branches * self.steps]
        rows.slots.scatter_(1, columns, own)
        return rows


def draft_slots(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    seq_lens: Tensor,
    out_cache_loc: Tensor,
    topk: int,
    num_cols: int,
    positions: Tensor | None = None,
    mrope: Tensor | None = None,
) -> None:
    """Fill `out_cache_loc` [B * topk * num_cols] with the KV slots behind the committed tokens."""
    assert positions is None
    assert mrope is None
    slots = extend_cache_locs(
        req_pool_indices=req_pool_indices,
        req_to_token=req_to_token,
        start_offset=seq_lens,
        end_offset=seq_lens,
        batch_size=len(seq_lens),
        draft_token_num=topk * num_cols,
        device=seq_lens.device,
    )
    out_cache_loc.copy_(slots)


def last_accepted(
    accept_tokens: Tensor,
    accept_lens: Tensor,
    bonus_tokens: Tensor,
    accept_stride: int,
    batch_size: int,
) -> None:
    """Fill `bonus_tokens` [B] with each request's last of `accept_tokens` [B, accept_stride]."""
    last = accept_lens.long()[:, None] - 1
    bonus_tokens.copy_(accept_tokens.view(batch_size, accept_stride).gather(1, last)[:, 0])


def gather(
    indices: Tensor,
    topk_p_buf: Tensor,
    topk_index_buf: Tensor,
    output_tokens_buf: Tensor,
    hidden_states_buf: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The rows `indices` [B] of what the step before has left for a drafter."""
    hidden_states = None if hidden_states_buf is None else hidden_states_buf[indices]
    return topk_p_buf[indices], topk_index_buf[indices], output_tokens_buf[indices], hidden_states


def build_tree(
    parent_list: Tensor,
    top_scores_index: Tensor,
    seq_lens: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    topk: int,
    spec_steps: int,
    num_verify_tokens: int,
    tree_mask_mode: int,
) -> None:
    """The tree of the drafted tokens that were chosen, D - 1 of a request.

    Tokens are numbered as they were drafted: `topk` of the root, then of each step `topk` for each
    branch. So number // topk says which branch a token continues, 0 being the root.

    Args:
        parent_list: [B, branches], the number of the token that each branch ends with.
        top_scores_index: [B, D - 1], ascending numbers of the chosen tokens.
        seq_lens: [B], tokens before the root.
        tree_mask: SGLang's mask of all requests, see `tree_places`; true of what is committed.
        positions, retrieve_index, retrieve_next_token, retrieve_next_sibling: see
            `reconstruct_tree`, filled.
    """
    batch_size, width = len(seq_lens), num_verify_tokens
    branch = top_scores_index // topk
    ends = pad(parent_list, (0, 1)).gather(1, branch)  # one step alone has no branches
    parent_of = top_scores_index[:, None, :] == ends[:, :, None]
    parents = torch.cat([(branch == 0)[:, :, None], parent_of], 2).int().argmax(2)
    seen = torch.eye(width, dtype=torch.bool).repeat(batch_size, 1, 1)
    for node in range(1, width):  # a parent comes before its children
        seen[:, node] |= seen[torch.arange(batch_size), parents[:, node - 1]]
    links = retrieve_index, retrieve_next_token, retrieve_next_sibling
    reconstruct_tree(seen.flatten(), seq_lens, positions, *links, batch_size, width)
    tree_mask[tree_places(seq_lens, width)] = seen
