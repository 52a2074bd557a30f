"""Requests that would end the scheduler, and with it the server, or be HTTP 500: refused with 400.

SGLang itself lets them through. `docs/reliability.md` lists them, and those that cannot be told
beforehand.
"""

from __future__ import annotations

from typing import Any

from led_sglang.methods.values import ParameterError, show
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none

# One value for each prompt of a batch; of the first four SGLang takes no list where there is one
# prompt.
_LISTS = (
    *("sampling_params", "rid", "logprob_start_len", "top_logprobs_num", "return_logprob"),
    *("return_sampling_mask", "sampling_logprobs_mode", "lora_path", "custom_logit_processor"),
    *("video_data", "audio_data", "bootstrap_host", "bootstrap_port", "bootstrap_room"),
    *("bootstrap_pair_key", "decode_tp_size"),
)
_ONE_FOR_ONE = _LISTS[:4]

# In float32 a logit stays finite that is added to the one and divided by the other.
_LARGEST_LOGIT = 3e38
_SMALLEST_DIVISOR = 1e-34


@hook("managers.io_struct.GenerateReqInput.normalize_batch_and_arguments", "BEFORE")
def _check_lists(self: Any) -> None:
    """SGLang looks up a list's elements unseen, and would answer HTTP 500."""
    if settings_or_none() is None:
        return
    prompts = next((p for p in (self.text, self.input_ids, self.input_embeds) if p is not None), "")
    if prompts is self.input_embeds:
        _check_embeddings(prompts)
    samples = _samples(self.sampling_params)
    # A prompt is a text, a list of ids, or a list of lists of floats.
    element = prompts[0] if isinstance(prompts, list) and prompts else None
    if prompts is self.input_embeds and element:
        element = element[0]
    batch = len(prompts) if isinstance(element, (str, list)) else 1 if samples > 1 else None
    for key in _LISTS:
        values = getattr(self, key)
        if isinstance(values, list):
            _check_length(key, len(values), batch)
    ids = self.token_ids_logprob
    if batch is not None and isinstance(ids, list) and ids and isinstance(ids[0], list):
        _check_length("token_ids_logprob", len(ids), batch)


def _samples(sampling: Any) -> int:
    """The largest `n` of the request."""
    largest = 1
    for values in sampling if isinstance(sampling, list) else [sampling or {}]:
        samples = values.get("n", 1)
        if not isinstance(samples, int) or samples < 1:
            raise ParameterError(f"n must be a whole number from 1 up, got {show(samples)}")
        largest = max(largest, samples)
    return largest


def _check_embeddings(prompts: Any) -> None:
    rows = [row for prompt in prompts for row in prompt] if isinstance(prompts, list) else [1]
    if not rows or not all(prompts) or [] in rows:
        raise ParameterError(
            "input_embeds is empty: a prompt is a list of embeddings, one list of numbers a token"
        )


def _check_length(key: str, length: int, batch: int | None) -> None:
    """`batch` is the number of prompts, or None where the request has one that is no list."""
    if batch is None and key in _ONE_FOR_ONE:
        raise ParameterError(f"{key} must be no list where there is one prompt that is no list")
    if batch is not None and length < batch:
        raise ParameterError(f"{key} has {length} elements and the request {batch} prompts")


@hook("managers.tokenizer_manager.TokenizerManager._validate_one_request", "AFTER")
def _check_prompt_and_logprobs(result: Any, self: Any, obj: Any, input_ids: Any) -> None:
    """A ValueError from here becomes HTTP 400; `input_ids` are those of the whole prompt."""
    if settings_or_none() is None:
        return
    vocabulary = self.model_config.vocab_size
    if not input_ids and obj.input_embeds is None and not _in_a_session(obj):
        raise ParameterError("the prompt is empty: it has no token to begin with")
    if obj.input_embeds is not None:
        width = self.model_config.hidden_size
        for row in obj.input_embeds:
            if len(row) != width:
                raise ParameterError(
                    f"input_embeds must have {width} numbers a token, the model's hidden size, "
                    f"got {len(row)}"
                )
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
