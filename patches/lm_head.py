"""The model's LM head and final norm as the kernels see them."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.logits_processor import should_apply_lm_head_quant_method

from led_sglang.kernels import FinalNorm, LmHeadShard

# The names that SGLang's classes give the norm behind the last layer.
_NORMS = ("norm", "norm_f", "embedding_norm", "final_layernorm", "final_norm", "ln_f")


def causal_lm(model: Any) -> Any:
    """The part that decodes: of a vision model its language model, of others the model itself."""
    for name in ("language_model", "llm"):
        inner = getattr(model, name, None)
        if hasattr(inner, "logits_processor"):  # Gemma 4's is the bare stack
            return inner
    return model


def decoder_stack(model: Any) -> Any:
    """The module that runs the layers: it has `layers`, and the final norm.

    Raises:
        AttributeError: SGLang builds the model in another way.
    """
    stack = causal_lm(model).model
    inner = getattr(stack, "language_model", None)
    return stack if inner is None else inner


def lm_head_shard(model: Any) -> LmHeadShard:
    """This rank's shard of the LM head.

    A head that SGLang does not simply multiply with its floating-point weight (quantised,
    LoRA-wrapped, packed for AMX) is called through SGLang's own `_compute_lm_head`, which leaves
    gathering to LED.

    Args:
        model: a loaded SGLang causal language model.

    Returns:
        The shard; columns beyond `valid` are padding and hold logit 0, never -inf.
    """
    model = causal_lm(model)
    processor = model.logits_processor
    head = _head(model)
    indices = getattr(head, "shard_indices", None)
    vocabulary = processor.vocab_size
    start = indices.org_vocab_start_index if indices is not None else 0
    end = indices.org_vocab_end_index if indices is not None else vocabulary
    weight = getattr(head, "weight", None)
    plain = (
        isinstance(weight, torch.Tensor)
        and weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and weight.dim() == 2
        and not hasattr(head, "apply_lora")
        # a quantised weight may be floating point too
        and not should_apply_lm_head_quant_method(head, getattr(head, "quant_method", None))
        and not getattr(head, "use_intel_amx_backend", False)
        and getattr(processor, "rl_on_policy_target", None) is None
    )

    def project(hidden_states: torch.Tensor) -> torch.Tensor:
        return processor._compute_lm_head(hidden_states, head)

    return LmHeadShard(
        weight=weight if plain else None,
        project=None if plain else project,
        vocab_start=start,
        valid=max(min(end, vocabulary) - start, 0),
        logit_scale=processor.logit_scale,
        softcap=processor.final_logit_softcapping,
    )


def called_head(model: Any) -> LmHeadShard:
    """The whole vocabulary on every rank, by SGLang's own logits: it gathers them itself.

    All ranks call it alike. It is slower than `lm_head_shard`, and rounds as the engine rounds.
    """
    model = causal_lm(model)
    processor, head = model.logits_processor, _head(model)

    def project(hidden_states: torch.Tensor) -> torch.Tensor:
        return processor._get_logits(hidden_states, head, None, use_logits_buffer=False)

    return LmHeadShard(weight=None, project=project, vocab_start=0, valid=int(processor.vocab_size))


def _head(model: Any) -> Any:
    # Gemma 2 has no head of its own, not even one that is the embedding.
    tied = getattr(model.config, "tie_word_embeddings", False) and not hasattr(model, "lm_head")
    return model.model.embed_tokens if tied else model.lm_head


def norm_of(stack: Any) -> Any:
    """The norm behind the last layer of a decoder stack, a module.

    Raises:
        AttributeError: SGLang calls it by another name.
    """
    norm = next((n for name in _NORMS if (n := getattr(stack, name, None)) is not None), None)
    if norm is None:
        raise AttributeError(f"{type(stack).__name__} has no final norm where LED looks for it")
    return norm


def final_norm(model: Any) -> FinalNorm:
    """The model's final norm as a function of hidden states [rows, H] alone."""
    norm = norm_of(decoder_stack(model))

    def apply(hidden_states: torch.Tensor) -> torch.Tensor:
        normed = norm(hidden_states.contiguous())
        # Cohere's returns the residual beside it.
        return normed[0] if isinstance(normed, tuple) else normed

    return apply
