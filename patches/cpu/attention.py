"""Attention of the CPU platform: SGLang's torch-native backend, one operation a batch.

SGLang's own runs a dozen small operations per request and layer, and computes the queries of a
cached prefix again only to drop them: nine tenths of the time of a small model on a CPU. Here the
rows with one query each (all of a decode batch, and prompts that are cached but for their last
token) are one padded call; longer prompts run one by one over their new tokens.
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
class _Rows:
    """Requests with one query each: where their keys are, and which are theirs."""

    slots: Tensor  # [rows, longest] KV slots; beyond a row's length, any valid slot
    lengths: Tensor  # [rows]
    # per window, [rows, 1, 1, longest]
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        if window not in self.masks:
            positions = torch.arange(self.slots.shape[1], device=self.slots.device)
            ends = self.lengths[:, None]
            seen = positions < ends
            if window is not None:
                seen &= positions >= ends - 1 - window
            self.masks[window] = seen[:, None, None, :]
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
        self._decode_rows: _Rows | None = None
        self._extend_plan: tuple[_Rows | None, Tensor, list[tuple[int, int, int, int]]] | None = (
            None
        )

    def _run_sdpa_forward_decode(
        self, query: Tensor, output: Tensor, *batch: Any, **how: Any
    ) -> Tensor:
        """Attention of `query` [rows, heads, head_size] into `output`, of the same shape."""
        k_cache, v_cache, req_to_token, requests, lengths, encoder_lens = batch
        if encoder_lens is not None:
            return super()._run_sdpa_forward_decode(query, output, *batch, **how)
        if self._decode_rows is None:
            self._decode_rows = _rows(req_to_token, requests, lengths)
        output.copy_(_one_query_each(query, self._decode_rows, k_cache, v_cache, self._form(how)))
        return output

    def _run_sdpa_forward_extend(
        self, query: Tensor, output: Tensor, *batch: Any, **how: Any
    ) -> Tensor:
        """Attention of `query` [new tokens, heads, head_size] into `output`, of the same shape."""
        k_cache, v_cache, req_to_token, requests, lengths, _, new_lengths, encoder_lens = batch
        if encoder_lens is not None or not how.get("causal"):
            return super()._run_sdpa_forward_extend(query, output, *batch, **how)
        if self._extend_plan is None:
            single = (new_lengths == 1).nonzero().squeeze(1)
            ends = new_lengths.cumsum(0)
            short = _rows(req_to_token, requests[single], lengths[single])
            columns = (requests, ends - new_lengths, ends, lengths)
            plan = zip(*(column.tolist() for column in columns), strict=True)
            longer = [row for row in plan if row[2] - row[1] > 1]
            self._extend_plan = (short if len(single) else None), ends[single] - 1, longer
        (rows, at, longer), form = self._extend_plan, self._form(how)
        if rows is not None:
            output[at] = _one_query_each(query[at], rows, k_cache, v_cache, form)
        for request, start, end, length in longer:
            slots = req_to_token[request, :length]
            output[start:end] = _new_tokens(query[start:end], k_cache[slots], v_cache[slots], form)
        return output

    def _form(self, named: dict[str, Any]) -> _Form:
        window = named.get("sliding_window_size")
        return _Form(named.get("scaling"), named.get("enable_gqa", False), window, self._sinks)


def _rows(req_to_token: Tensor, requests: Tensor, lengths: Tensor) -> _Rows:
    longest = -(-int(lengths.max()) // PADDED_TO) * PADDED_TO if len(lengths) else 0
    return _Rows(req_to_token[:, :longest][requests], lengths)


def _one_query_each(
    query: Tensor, rows: _Rows, k_cache: Tensor, v_cache: Tensor, form: _Form
) -> Tensor:
    """[rows, heads, head_size] of as many requests, each attending to all its keys."""
    heads = k_cache.shape[1]
    longest = rows.slots.shape[1]
    mask = rows.mask(form.window)
    # Query heads that share keys stand as queries of one head: nothing is repeated per query head.
    grouped = query.unflatten(1, (heads, -1))
    output = grouped.new_empty(*grouped.shape[:3], v_cache.shape[2])
    together = max(1, GATHERED_NUMBERS // (longest * heads * (query.shape[2] + v_cache.shape[2])))
    for first in range(0, len(query), together):
        some = slice(first, first + together)
        slots = rows.slots[some].flatten()
        keys = _gathered(k_cache, slots, longest).to(query.dtype)
        values = _gathered(v_cache, slots, longest).to(query.dtype)
        bias = mask[some]
        if form.sinks is not None:
            keys, values, bias = _with_sinks(keys, values, bias, form.sinks.view(heads, -1, 1))
        output[some] = scaled_dot_product_attention(
            grouped[some], keys, values, attn_mask=bias, scale=form.scaling
        )
    return output.flatten(1, 2)


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
