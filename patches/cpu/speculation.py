"""What speculative decoding needs on the CPU platform: plain torch where SGLang has GPU kernels.

Each piece takes the place of one of SGLang's, with its arguments and its result. They are all that
NGRAM needs, whose drafts come from a corpus on the host; `drafting` has what a draft model needs.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from led_sglang.patches.cpu.operations import replace

# Imports a compiled extension that PyPI does not carry.
_TREES = "sglang.kernels.ops.speculative.reconstruct_tree"


def install() -> None:
    """Put the pieces in place, in the scheduler's process, before the worker that drafts exists."""
    if _TREES in sys.modules:
        return
    module = ModuleType(_TREES)
    module.__dict__["reconstruct_indices_from_tree_mask_func"] = reconstruct_tree
    sys.modules[_TREES] = module

    from sglang.srt.mem_cache import allocation
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
    from sglang.srt.speculative import eagle_utils, spec_utils

    replace(allocation, "assign_req_to_token_pool_func", assign_slots)
    replace(spec_utils, "fill_front_out_cache_loc_func", front_slots)
    replace(spec_utils, "fill_accept_out_cache_loc_func", accepted_slots)
    replace(eagle_utils, "verify_tree_greedy_func", follow_tokens)
    replace(eagle_utils, "tree_speculative_sampling_target_only", sample_tree)
    replace(eagle_utils, "top_k_renorm_prob", keep_top_k)
    replace(eagle_utils, "top_p_renorm_prob", keep_top_p)
    replace(MHATokenToKVPool, "_init_kv_copy_and_warmup", _move_with_torch)


def keep_overlap() -> None:
    """Leave the overlap scheduler on, which SGLang turns off under speculation on `cpu`: its own
    CPU engine has no such worker."""
    from sglang.srt.arg_groups import speculative_hook

    replace(speculative_hook, "_disable_overlap_schedule_for_cpu", _leave_overlap)


def _leave_overlap(server_args: Any) -> None:
    """In place of what turns it off."""


def _move_with_torch(self: Any) -> None:
    """In place of preparing a kernel that moves keys and values."""
    self._kv_copy_config = None
    self.use_native_move_kv_cache = True


def reconstruct_tree(
    tree_mask: Tensor,
    verified_seq_len: Tensor,
    positions: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    batch_size: int,
    draft_token_num: int,
) -> None:
    """Positions and links of drafted trees from their masks; all but the first two are filled.

    Args:
        tree_mask: [B * D * D], which nodes each node sees: its ancestors and itself.
        verified_seq_len: [B], tokens before the root.
        positions: [B * D].
        retrieve_index: [B, D], each node's row in the batch.
        retrieve_next_token, retrieve_next_sibling: [B, D], first child and next sibling, or -1.
    """
    width = draft_token_num
    node = torch.arange(width)
    seen = tree_mask.view(batch_size, width, width).bool()
    ancestors = seen & (node < node[:, None])
    positions.copy_((ancestors.sum(2) + verified_seq_len[:, None]).flatten())
    retrieve_index.copy_(torch.arange(batch_size * width).view(batch_size, width))
    parent = torch.where(ancestors, node, -1).amax(2)
    # [B, later, earlier]: descendants, and siblings; of both the first is wanted
    siblings = (parent[:, :, None] == parent[:, None, :]) & (node[:, None] > node)
    siblings &= parent[:, None, :] >= 0
    for links, related in ((retrieve_next_token, ancestors), (retrieve_next_sibling, siblings)):
        first = torch.where(related, node[:, None], width).amin(1)
        links.copy_(torch.where(first < width, first, -1))


def extend_cache_locs(
    *,
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    batch_size: int,
    draft_token_num: int,
    device: Any,
) -> Tensor:
    """[B * D] int64: KV slots of the next D tokens of each request."""
    columns = start_offset[:, None] + torch.arange(draft_token_num)
    return req_to_token[req_pool_indices[:, None], columns].flatten().to(torch.int64)


def assign_slots(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    batch_size: int,
) -> None:
    """Give each request the KV slots of its columns start..end, which lie in one line."""
    taken = 0
    columns = (column.tolist() for column in (req_pool_indices, start_offset, end_offset))
    for request, start, end in zip(*columns, strict=True):
        slots = out_cache_loc[taken : taken + end - start]
        req_to_token[request, start:end] = slots.to(req_to_token.dtype)
        taken += end - start


def front_slots(num_front: Tensor, out_cache_loc: Tensor, front_out_cache_loc: Tensor) -> None:
    """Pack the first `num_front` [B] KV slots of each request's window to the front."""
    window = out_cache_loc.view(len(num_front), -1)
    kept = window[torch.arange(window.shape[1]) < num_front[:, None]]
    front_out_cache_loc[: len(kept)] = kept


def accepted_slots(
    accept_index: Tensor, out_cache_loc: Tensor, accept_out_cache_loc: Tensor, size: int
) -> None:
    """Pack the KV slots of the accepted nodes; -1 in `accept_index` is none."""
    accepted = accept_index[accept_index >= 0].long()
    accept_out_cache_loc[: len(accepted)] = out_cache_loc[accepted]


def follow_tokens(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    target_predict: Tensor,
    topk: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Go down each tree as long as a child holds the token of its parent.

    Args:
        predicts: [B * D] int32; filled with the tokens of the nodes on the way.
        accept_index: [B, A] int32 of -1; filled with the nodes on the way.
        accept_token_num: [B] int32; filled with how many there are beside the root.
        candidates: [B, D], drafted tokens.
        retrieve_index, retrieve_next_token, retrieve_next_sibling: see `reconstruct_tree`.
        target_predict: [B, D], the token that follows each node.
    """
    tokens, wanted = candidates.tolist(), target_predict.tolist()
    child_of, next_to = retrieve_next_token.tolist(), retrieve_next_sibling.tolist()
    rows, longest = retrieve_index.tolist(), accept_index.shape[1]
    for request, drafted in enumerate(tokens):
        way = [0]
        while True:
            token = wanted[request][way[-1]]
            predicts[rows[request][way[-1]]] = token
            child = child_of[request][way[-1]]
            while child >= 0 and drafted[child] != token:
                child = next_to[request][child]
            if child < 0 or len(way) == longest:
                break
            way.append(child)
        accept_index[request, : len(way)] = retrieve_index[request, way].to(accept_index.dtype)
        accept_token_num[request] = len(way) - 1
    return predicts, accept_index, accept_token_num


def sample_tree(
    *,
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    uniform_samples: Tensor,
    uniform_samples_for_final_sampling: Tensor,
    target_probs: Tensor,
    draft_probs: Tensor,
    threshold_single: float,
    threshold_acc: float,
    deterministic: bool,
) -> None:
    """The engine's verification by sampling, for drafts that state no probabilities.

    A child is accepted with the probability of its token, given that its elder siblings were not;
    at the node where no child is, what is left of the posterior is sampled.

    Args:
        predicts, accept_index, accept_token_num, candidates, retrive_index, retrive_next_token,
            retrive_next_sibling: see `follow_tokens`, where `retrive` is spelled otherwise.
        uniform_samples: [B, D] f32, the coin with which each node's children are tried.
        uniform_samples_for_final_sampling: [B] f32.
        target_probs: [B, D, V] f32.
        draft_probs: [B, D, V] f32 zeros; of rejected children their probability is put down.
        threshold_single, threshold_acc: 1.0 in an exact verification.
    """
    tokens, rows = candidates.tolist(), retrive_index.tolist()
    child_of, next_to = retrive_next_token.tolist(), retrive_next_sibling.tolist()
    coins, longest = uniform_samples.tolist(), accept_index.shape[1]
    for request, drafted in enumerate(tokens):
        way, tried = [0], 0.0
        child = child_of[request][0] if longest > 1 else -1
        while child >= 0:
            node, token = way[-1], drafted[child]
            share = float(target_probs[request, node, token])
            tried += share
            if coins[request][node] <= tried / threshold_acc or share >= threshold_single:
                predicts[rows[request][node]] = token
                way.append(child)
                tried = 0.0
                child = child_of[request][child] if len(way) < longest else -1
            else:
                draft_probs[request, node, token] = share
                child = next_to[request][child]
        left = target_probs[request, way[-1]]
        if len(way) < longest:
            left = (left - draft_probs[request, way[-1]]).clamp(min=0.0)
        mass = left.cumsum(0)
        at = uniform_samples_for_final_sampling[request] * mass[-1]
        last = left.nonzero()[-1, 0]  # rounding must not lead beyond what has any mass
        predicts[rows[request][way[-1]]] = torch.minimum((mass <= at).sum(), last)
        accept_index[request, : len(way)] = retrive_index[request, way].to(accept_index.dtype)
        accept_token_num[request] = len(way) - 1


def keep_top_k(probs: Tensor, top_ks: Tensor) -> Tensor:
    """Probabilities [n, V] f32 of the `top_ks` [n] likeliest, and of what equals the last of them;
    they sum to one."""
    largest = probs.sort(dim=1, descending=True).values
    least = largest.gather(1, (top_ks.long() - 1).clamp(max=probs.shape[1] - 1)[:, None])
    kept = probs.masked_fill(probs < least, 0.0)
    return kept / kept.sum(1, keepdim=True)


def keep_top_p(probs: Tensor, top_ps: Tensor) -> Tensor:
    """Probabilities [n, V] f32 of the smallest nuclei with mass `top_ps` [n]; they sum to one."""
    largest, ids = probs.sort(dim=1, descending=True, stable=True)
    largest = largest.masked_fill(largest.cumsum(1) - largest > top_ps[:, None], 0.0)
    kept = torch.zeros_like(probs).scatter(1, ids, largest)
    return kept / kept.sum(1, keepdim=True)
