"""Attention of the CPU platform: SGLang's torch-native backend, one operation a batch.

SGLang's own runs a dozen small operations per request and layer, and computes the queries of a
cached prefix again only to drop them: nine tenths of the time of a small model on a CPU. Here the
rows with one query each (all of a decode batch, and prompts that are cached but for their last
token) are one padded call, and so are those with a draft each; longer prompts run one by one over
their new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from sglang.srt.layers.attention.attention_registry import register_attention_backend
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

# Keys are padded to a multiple of this: PyTorch then adds up a row in the same vectors whatever the
# longest row beside it, so that a request's result hardly ever depends on its batch.
PADDED_TO = 64
# Keys and values gathered at a time: as many as stay in a core's cache.
GATHERED_NUMBERS = 1 << 19


def install() -> None:
    """Make `--attention-backend torch_native` and `triton` mean this backend, in this process.

    Triton has no CPU, and some launches (Exaone 4 with windows) accept the names of a GPU's
    backends alone.
    """
    from sglang.srt.models.deepseek_common.attention_backend_handler import AttentionBackendRegistry
    from sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods import (
        AttnForwardMethod,
    )

    for name in ("torch_native", "triton"):
        register_attention_backend(name)(BatchedTorchAttention)
        # Keys and values are read from the cache, where latent attention keeps neither.
        AttentionBackendRegistry.register(name, lambda *_: AttnForwardMethod.MLA)


@dataclass
class Rows:
    """Requests with as many queries each: where their keys are, and which each query sees.

    Attributes:
        slots: [rows, longest] KV slots; beyond a row's length, any valid slot.
        seen: [rows, queries, longest] bool, without a window.
        key_positions: [rows or 1, longest] in the sequences.
        positions: [rows, queries] of the queries.
        masks: per window, [rows, queries, longest].
    """

    slots: Tensor
    seen: Tensor
    key_positions: Tensor
    positions: Tensor
    masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        if window is None:
            return self.seen
        if window not in self.masks:
            near = self.key_positions[:, None, :] >= self.positions[:, :, None] - window
            self.masks[window] = self.seen & near
        return self.masks[window]


@dataclass(frozen=True)
class _Form:
    """What of a layer's attention is the same for all its rows."""

    scaling: float | None
    enable_gqa: bool
    window: int | None
    sinks: Tensor | None  # [heads]


class BatchedTorchAttention(TorchNativeAttnBackend):
    """SGLang's torch-native attention; only how requests are grouped into operations differs.

    And it knows attention sinks (gpt-oss, MiMo-V2): a logit per head that takes its share of the
    softmax and adds nothing. What SGLang passes of a batch, and in which order, is in `touched.py`.
    """

    _sinks: Tensor | None = None  # [heads], of the layer that is running

    def forward_extend(self, *args: Any, sinks: Tensor | None = None, **kwargs: Any) -> Tensor:
        self._sinks = sinks
        output: Tensor = super().forward_extend(*args, **kwargs)
        return output

    def forward_decode(self, *args: Any, sinks: Tensor | None = None, **kwargs: Any) -> Tensor:
        self._sinks = sinks
        output: Tensor = super().forward_decode(*args, **kwargs)
        return output

    def init_forward_metadata(self, forward_batch: Any) -> None:
        super().init_forward_metadata(forward_batch)
        self._decode_rows: Rows | None = None
        # Of a forward that verifies drafts: SGLang's description of them.
        verifies = forward_batch is not None and forward_batch.forward_mode.is_target_verify()
        self._drafts: Any = forward_batch.spec_info if verifies else None
        self._extend_plan: tuple[Rows | None, Tensor, list[tuple[int, int, int, int]]] | None = None

    def _run_sdpa_forward_decode(
        self, query: Tensor, output: Tensor, *batch: Any, **how: Any
    ) -> Tensor:
        """Attention of `query` [rows, heads, head_size] into `output`, of the same shape."""
        k_cache, v_cache, req_to_token, requests, lengths, encoder_lens = batch
        if encoder_lens is not None:
            return super()._run_sdpa_forward_decode(query, output, *batch, **how)
        if self._decode_rows is None:
            self._decode_rows = self._decoded(req_to_token, requests, lengths)
        output.copy_(_queries_of_each(query, self._decode_rows, k_cache, v_cache, self._form(how)))
        return output

    def _decoded(self, req_to_token: Tensor, requests: Tensor, lengths: Tensor) -> Rows:
        """Which keys the queries of a decode batch read."""
        return rows_of(req_to_token, requests, lengths)

    def _run_sdpa_forward_extend(
        self, query: Tensor, output: Tensor, *batch: Any, **how: Any
    ) -> Tensor:
        """Attention of `query` [new tokens, heads, head_size] into `output`, of the same shape."""
        k_cache, v_cache, req_to_token, requests, lengths, _, new_lengths, encoder_lens = batch
        if encoder_lens is not None or not how.get("causal"):
            return super()._run_sdpa_forward_extend(query, output, *batch, **how)
        if self._drafts is not None:
            if self._decode_rows is None:
                self._decode_rows = _drafted_rows(req_to_token, requests, lengths, self._drafts)
            rows = self._decode_rows
            output.copy_(_queries_of_each(query, rows, k_cache, v_cache, self._form(how)))
            return output
        if self._extend_plan is None:
            single = (new_lengths == 1).nonzero().squeeze(1)
            ends = new_lengths.cumsum(0)
            short = rows_of(req_to_token, requests[single], lengths[single])
            columns = (requests, ends - new_lengths, ends, lengths)
            plan = zip(*(column.tolist() for column in columns), strict=True)
            longer = [row for row in plan if row[2] - row[1] > 1]
            self._extend_plan = (short if len(single) else None), ends[single] - 1, longer
        (single_rows, at, longer), form = self._extend_plan, self._form(how)
        if single_rows is not None:
            output[at] = _queries_of_each(query[at], single_rows, k_cache, v_cache, form)
        for request, start, end, length in longer:
            slots = req_to_token[request, :length]
            output[start:end] = _new_tokens(query[start:end], k_cache[slots], v_cache[slots], form)
        return output

    def _form(self, named: dict[str, Any]) -> _Form:
        window = named.get("sliding_window_size")
        return _Form(named.get("scaling"), named.get("enable_gqa", False), window, self._sinks)


def _slots(req_to_token: Tensor, requests: Tensor, longest: int) -> Tensor:
    """[rows, longest or a little more] KV slots, as far as the table goes."""
    padded = -(-longest // PADDED_TO) * PADDED_TO
    return req_to_token[:, :padded][requests]


def rows_of(req_to_token: Tensor, requests: Tensor, lengths: Tensor) -> Rows:
    """Requests with one query each, at the end of their `lengths`."""
    slots = _slots(req_to_token, requests, int(lengths.max()) if len(lengths) else 0)
    key_positions = torch.arange(slots.shape[1], device=lengths.device)[None]
    seen = (key_positions < lengths[:, None])[:, None, :]
    return Rows(slots, seen, key_positions, lengths[:, None] - 1)


def tree_places(lengths: Tensor, width: int) -> Tensor:
    """[B, width, width]: where SGLang's mask tells which nodes of a draft see which.

    The mask of all requests is one line: of each, [width, length + width].
    """
    node = torch.arange(width, device=lengths.device)
    totals = lengths + width
    starts = (totals.cumsum(0) - totals) * width
    return (
        starts[:, None, None]
        + node[:, None] * totals[:, None, None]
        + (lengths[:, None, None] + node)
    )


def _drafted_rows(req_to_token: Tensor, requests: Tensor, lengths: Tensor, drafts: Any) -> Rows:
    """Requests with a query for each node of a drafted tree, whose keys follow their `lengths`.

    A node sees what is committed, its ancestors and itself.
    """
    width = drafts.draft_token_num
    node = torch.arange(width, device=lengths.device)
    tree = drafts.custom_mask[tree_places(lengths, width)]
    slots = _slots(req_to_token, requests, int(lengths.max()) + width)
    key_positions = torch.arange(slots.shape[1], device=lengths.device).repeat(len(lengths), 1)
    seen = (key_positions < lengths[:, None])[:, None, :].repeat(1, width, 1)
    columns = lengths[:, None] + node
    seen.scatter_(2, columns[:, None, :].expand_as(tree), tree)
    positions = lengths[:, None] + tree.sum(2) - 1
    key_positions.scatter_(1, columns, positions)
    return Rows(slots, seen, key_positions, positions)


def _queries_of_each(
    query: Tensor, rows: Rows, k_cache: Tensor, v_cache: Tensor, form: _Form
) -> Tensor:
    """Queries [rows * queries, heads, head_size], each attending to the keys that it sees."""
    heads = k_cache.shape[1]
    queries, longest = rows.seen.shape[1:]
    mask = rows.mask(form.window)
    # Query heads that share keys stand as queries of one head: nothing is repeated per query head.
    grouped = query.unflatten(0, (-1, queries)).unflatten(2, (heads, -1))
    group = grouped.shape[3]
    grouped = grouped.transpose(1, 2).flatten(2, 3)  # [rows, key heads, queries * group, head_size]
    output = grouped.new_empty(*grouped.shape[:3], v_cache.shape[2])
    together = max(1, GATHERED_NUMBERS // (longest * heads * (query.shape[2] + v_cache.shape[2])))
    for first in range(0, len(grouped), together):
        some = slice(first, first + together)
        slots = rows.slots[some].flatten()
        keys = _gathered(k_cache, slots, longest).to(query.dtype)
        values = _gathered(v_cache, slots, longest).to(query.dtype)
        bias = mask[some, None].repeat_interleave(group, 2) if queries > 1 else mask[some, None]
        if form.sinks is not None:
            sinks = form.sinks.view(heads, 1, group).expand(heads, queries, group)
            keys, values, bias = _with_sinks(keys, values, bias, sinks.reshape(heads, -1, 1))
        output[some] = scaled_dot_product_attention(
            grouped[some], keys, values, attn_mask=bias, scale=form.scaling
        )
    return output.unflatten(2, (queries, group)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def _gathered(cache: Tensor, slots: Tensor, longest: int) -> Tensor:
    """[rows, heads, longest, head_size] of the rows whose slots stand in a line."""
    return cache.index_select(0, slots).unflatten(0, (-1, longest)).transpose(1, 2)


def _new_tokens(query: Tensor, keys: Tensor, values: Tensor, form: _Form) -> Tensor:
    """[new, heads, head_size] of one request; keys and values are of its whole sequence."""
    new, length = len(query), len(keys)
    mask = None
    if form.window is not None or new < length or form.sinks is not None:
        mask = torch.ones(new, length, dtype=torch.bool, device=query.device).tril(length - new)
        if form.window is not None:
            mask = mask.triu(length - new - form.window)
    keys = keys.to(query.dtype).transpose(0, 1)[None]
    values = values.to(query.dtype).transpose(0, 1)[None]
    if form.sinks is not None:
        assert mask is not None
        keys, values, mask = _with_sinks(keys, values, mask, form.sinks.view(-1, 1, 1))
    output: Tensor = scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        scale=form.scaling,
        enable_gqa=form.enable_gqa,
    )
    return output.squeeze(0).transpose(0, 1)


def _with_sinks(
    keys: Tensor, values: Tensor, mask: Tensor, sinks: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One key more, whose logit is the sink and whose value is zero.

    Args:
        keys, values: [rows, key heads, keys, head_size].
        mask: bool, [..., keys], which keys are seen.
        sinks: [heads, queries or 1, 1] or [key heads, query heads of each, 1].
    """
    seen = torch.zeros(mask.shape, dtype=keys.dtype).masked_fill(~mask, -torch.inf)
    shape = torch.broadcast_shapes(seen.shape[:-1], sinks.shape[:-1])
    bias = torch.cat([seen.expand(*shape, -1), sinks.to(keys.dtype).expand(*shape, -1)], dim=-1)
    return pad(keys, (0, 0, 0, 1)), pad(values, (0, 0, 0, 1)), bias
