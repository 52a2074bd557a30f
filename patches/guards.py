"""Requests that would end the scheduler, and with it the server: refused at the front end.

SGLang itself lets them through. `docs/reliability.md` lists them, and those that cannot be told
beforehand.
"""

from __future__ import annotations

from typing import Any

from led_sglang.methods.values import ParameterError, show
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none

# In float32 a logit stays finite that is added to the one and divided by the other.
_LARGEST_LOGIT = 3e38
_SMALLEST_DIVISOR = 1e-34


@hook("managers.tokenizer_manager.TokenizerManager._validate_one_request", "AFTER")
def _check_prompt_and_logprobs(result: Any, self: Any, obj: Any, input_ids: Any) -> None:
    """A ValueError from here becomes HTTP 400; `input_ids` are those of the whole prompt."""
    if settings_or_none() is None:
        return
    vocabulary = self.model_config.vocab_size
    if not input_ids and obj.input_embeds is None and not _in_a_session(obj):
        raise ParameterError("the prompt is empty: it has no token to begin with")
    # Placeholders of images and tokens that an adapter adds may lie outside the vocabulary.
    if obj.input_ids and not obj.contains_mm_input() and obj.lora_path is None:
        for token in (min(obj.input_ids), max(obj.input_ids)):
            if not 0 <= token < vocabulary:
                raise ParameterError(f"input_ids must lie in 0..{vocabulary - 1}, got {token}")
    if obj.positional_embed_overrides is not None:
        _check_overrides(obj.positional_embed_overrides)
    if obj.return_logprob:
        _check_logprobs(obj, vocabulary)
    if obj.custom_logit_processor:
        _check_processor(obj.custom_logit_processor)


def _in_a_session(obj: Any) -> bool:
    """Whether earlier turns may be the whole prompt; the scheduler refuses it if there are none."""
    return isinstance(obj.session_params, dict) and obj.session_params.get("id") is not None


def _check_overrides(overrides: Any) -> None:
    from sglang.srt.managers.io_struct import PositionalEmbeds

    if not isinstance(overrides, PositionalEmbeds):
        raise ParameterError(
            "positional_embed_overrides holds tensors, which a request body cannot; leave it out"
        )


def _check_logprobs(obj: Any, vocabulary: int) -> None:
    if (obj.top_logprobs_num or 0) > vocabulary:
        raise ParameterError(
            f"the number of top log-probabilities must be at most {vocabulary}, the size of the "
            f"vocabulary, got {obj.top_logprobs_num}"
        )
    if (obj.logprob_start_len or 0) < -1:
        raise ParameterError(
            "logprob_start_len must be a position in the prompt or -1 for none of it, "
            f"got {obj.logprob_start_len}"
        )


def _check_processor(serialized: str) -> None:
    from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

    try:
        CustomLogitProcessor.from_str(serialized)
    except Exception as error:  # a pickle may raise anything
        raise ParameterError(
            "custom_logit_processor cannot be loaded; send what the processor's to_str() gives "
            f"({type(error).__name__}: {show(str(error))[1:-1]})"
        ) from None


@hook("sampling.sampling_params.SamplingParams.verify", "AFTER")
def _check_sampling(result: Any, self: Any, vocab_size: int) -> None:
    if settings_or_none() is None:
        return
    from sglang.srt.runtime_context import get_exec
    from sglang.srt.sampling.sampling_params import TOP_K_ALL

    if self.top_k > TOP_K_ALL:
        raise ParameterError(f"top_k must be at most {TOP_K_ALL}, got {self.top_k}")
    # Where a logit overflows, or all do, the probabilities are no numbers.
    largest = _LARGEST_LOGIT * min(self.temperature, 1.0)
    for token, bias in (self.logit_bias or {}).items():
        if isinstance(bias, (int, float)) and abs(bias) > largest:
            raise ParameterError(
                f"logit_bias must lie in -{largest:g}..{largest:g} at this temperature, "
                f"got {show(bias)} for token {show(token)}"
            )
    if self.repetition_penalty * min(self.temperature, 1.0) < _SMALLEST_DIVISOR:
        raise ParameterError(
            f"repetition_penalty {self.repetition_penalty:g} is too small at this temperature: the "
            "logits would overflow"
        )
    # SGLang masks them in the logits until then.
    if self.min_new_tokens > 0:
        for token in self.stop_token_ids or ():
            if not 0 <= token < vocab_size:
                raise ParameterError(
                    f"with min_new_tokens, stop_token_ids must lie in 0..{vocab_size - 1}, "
                    f"got {token}"
                )
    if self.min_p > 0 and get_exec().deterministic.enable_deterministic_inference:
        raise ParameterError(
            "min_p does not go with deterministic inference, whose sampler has none; leave it out, "
            "or start the server without --enable-deterministic-inference"
        )
