"""Soft inputs: the decode step's input embedding, the prefix cache, and what a retraction loses.

Nothing here is installed unless a soft method is enabled.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.utils.common import is_pin_memory_available
from torch import Tensor

from led_sglang.kernels.eager.soft_thinking import mix_embeddings
from led_sglang.methods.rows import upload
from led_sglang.methods.soft_thinking.params import SOFT_SAMPLERS
from led_sglang.methods.soft_thinking.record import SoftHistory
from led_sglang.methods.soft_thinking.state import SoftState
from led_sglang.patches.batch_state import notes_of, request_row
from led_sglang.patches.hooks import hook
from led_sglang.settings import LaunchRefused

# Tokens whose mixtures are looked up at once when a request is restored.
_RESTORE_CHUNK = 256


def is_soft(req: Any) -> bool:
    """Whether a request uses one of the soft methods."""
    return request_row(req).sampler in SOFT_SAMPLERS


def _history(req: Any) -> SoftHistory | None:
    notes = notes_of(req)
    statistics = notes.statistics if notes is not None else None
    return statistics if isinstance(statistics, SoftHistory) else None


class SoftInputs:
    """Makes the model read mixtures: wraps the local look-up of its input embedding.

    In a decode step, rows whose slot is active get sum of w_i E[id_i] in place of E[token], before
    the tensor-parallel reduction: one collective as ever. All of it reads static tables through the
    step's slots, so a captured CUDA graph holds it.
    """

    def __init__(self, model: Any, state: SoftState) -> None:
        """Install the wrapper.

        Raises:
            LaunchRefused: the model's embedding is not SGLang's vocabulary-parallel one.
        """
        from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding

        self.state = state
        self._pin = is_pin_memory_available(state.ids.device)
        self._step: Any = None
        # Whether a decode step has passed through the wrapper: proof that the model uses it.
        self._applied = False
        stack: Any = getattr(model, "model", None)
        embedding: Any = getattr(stack, "embed_tokens", None)
        if not isinstance(embedding, VocabParallelEmbedding):
            raise LaunchRefused(
                f"soft thinking cannot reach the input embedding of {type(model).__name__}; serve "
                "another model, or leave the soft methods out of --enable-samplers"
            )
        self.embedding = embedding
        self._look_up = embedding._embed_local_shard
        embedding._embed_local_shard = self._embed
        stack.register_forward_pre_hook(self._enter, with_kwargs=True)
        stack.register_forward_hook(self._leave, always_call=True)

    def _enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step = kwargs.get("forward_batch", args[2] if len(args) > 2 else None)
        self._step = step if step is not None and step.forward_mode.is_decode() else None

    def _leave(self, *_: Any) -> None:
        self._step = None

    def _embed(self, token_ids: Tensor) -> Tensor:
        hard = self._look_up(token_ids)
        if self._step is None:
            return hard
        self._applied = True
        slots = self._step.req_pool_indices
        ids = self.state.ids[slots]
        mixed = mix_embeddings(
            self._look_up(ids.flatten()).view(*ids.shape, -1), self.state.weights[slots]
        )
        # In place: the look-up has allocated where the following all-reduce can use it.
        return hard.copy_(
            torch.where(self.state.active[slots][:, None], mixed.to(hard.dtype), hard)
        )

    def check_applied(self) -> None:
        """Check, in a decode step, that the model's input has come through the wrapper.

        Raises:
            LaunchRefused: it has not, and soft requests would silently decode as hard ones.
        """
        if not self._applied:
            raise LaunchRefused(
                "the model does not look its input up through its embed_tokens: soft thinking has "
                "no effect on it; leave the soft methods out of --enable-samplers"
            )

    def restore(self, batch: Any, forward_batch: Any) -> None:
        """Give a prefill batch the mixtures of retracted requests, and clear its slots.

        Args:
            batch: SGLang's batch of requests about to be prefilled.
            forward_batch: the step made of it; its embedding overrides are extended.
        """
        streaks, places, embeddings, offset = [], [], [], 0
        for req, start, length in zip(
            batch.reqs,
            forward_batch.extend_prefix_lens_cpu,
            forward_batch.extend_seq_lens_cpu,
            strict=True,
        ):
            history = _history(req)
            streaks.append(history.streak if history is not None else 0)
            prompt = len(req.origin_input_ids)
            if history is not None and start + length > prompt:
                first = max(start - prompt, 0)
                tokens, ids, weights = history.mixtures(first, start + length - prompt)
                places += [offset + prompt + token - start for token in tokens]
                if tokens:
                    embeddings.append(self._mixed(ids, weights))
            offset += length
        self.state.begin(
            forward_batch.req_pool_indices, self._upload(torch.tensor(streaks, dtype=torch.int64))
        )
        if not embeddings:
            return
        positions = self._upload(torch.tensor(places, dtype=torch.int64))
        overrides = torch.cat(embeddings)
        if forward_batch.replace_embeds is not None:
            positions = torch.cat([forward_batch.replace_positions, positions])
            overrides = torch.cat([forward_batch.replace_embeds.to(overrides.dtype), overrides])
        forward_batch.replace_positions = positions
        forward_batch.replace_embeds = overrides

    def _mixed(self, ids: Tensor, weights: Tensor) -> Tensor:
        """[n, H] mixtures of [n, K] host tensors; every rank looks its own shard up."""
        ids, weights = self._upload(ids), self._upload(weights)
        parts = []
        for chunk, chunk_weights in zip(
            ids.split(_RESTORE_CHUNK), weights.split(_RESTORE_CHUNK), strict=True
        ):
            rows = self.embedding(chunk.flatten()).view(*chunk.shape, -1)
            parts.append(mix_embeddings(rows, chunk_weights))
        return torch.cat(parts)

    def _upload(self, values: Tensor) -> Tensor:
        return upload(values, self.state.ids.device, self._pin)


@hook("managers.schedule_batch.Req._compute_max_prefix_len", "AFTER")
def _cap_prefix(result: int, self: Any, input_len: int) -> int:
    """A soft request may share its prompt, never its answer: the same ids, cached for another
    request, hold another KV."""
    return min(result, len(self.origin_input_ids)) if is_soft(self) else result
