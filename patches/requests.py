"""Requests: HTTP 400 at the front end, a second check in the scheduler, a seed for each sample."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from led_sglang.methods.registry import method_of
from led_sglang.methods.reporting import RequestNotes
from led_sglang.methods.request import RequestSampling, parse_request
from led_sglang.methods.soft_thinking.params import SoftThinkingParams
from led_sglang.methods.values import ParameterError
from led_sglang.patches.batch_state import keep_notes
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none
from led_sglang.settings import ServerSettings

# How many samples of each parallel request have been sent, by the identity of the parameters they
# share; the parameters are kept as well, so that no other object can take their identity.
_samples_sent: dict[int, tuple[Any, int]] = {}
# Rooms of a pair are numbers below the one; those of a batch's prompts follow each other.
_ROOMS, _ROOMS_APART = 2**63, 2**32


@hook("sampling.sampling_params.SamplingParams.verify", "AFTER")
def _check_at_the_front_end(result: Any, self: Any, vocab_size: int) -> None:
    """A ValueError from here becomes HTTP 400 on every endpoint."""
    settings = settings_or_none()
    if settings is None:
        return
    from sglang.srt.runtime_context import get_exec

    sampling = parse_request(
        self.custom_params,
        settings,
        # Whether this request has a processor is known to the scheduler alone.
        foreign_keys=get_exec().features.enable_custom_logit_processor,
    )
    _check_against_parameters(sampling, self)


def _check_against_parameters(sampling: RequestSampling, params: Any) -> None:
    """Check a method against the request's other sampling parameters."""
    method = method_of(sampling.sampler)
    if method is None:
        return
    if (params.beam_width or 1) > 1:
        raise ParameterError('beam_width > 1 needs custom_params.sampler = "regular"')
    method.check(sampling.params, params.top_k)


@hook("managers.tokenizer_manager.TokenizerManager._create_tokenized_object", "AFTER")
def _check_whole_request(result: Any, self: Any, *_: Any, **__: Any) -> None:
    """As `verify`, where it is known what the prompt is made of and what the answer shall hold."""
    settings = settings_or_none()
    # An embedding request has no such fields.
    embeds = getattr(result, "input_embeds", None) is not None
    mask = getattr(result, "return_sampling_mask", False)
    if settings is None or not (embeds or mask):
        return
    params = result.sampling_params
    sampling = parse_request(params.custom_params, settings, foreign_keys=True)
    if mask:
        # The scheduler's own refusal would replace one that is made there.
        _check_sampling_mask(sampling, params.top_k)
    if embeds:
        _check_embeddings(sampling, result, self.model_config.dtype)


def _check_embeddings(sampling: RequestSampling, request: Any, dtype: Any) -> None:
    dtype = str(dtype).removeprefix("torch.")
    if dtype != "bfloat16":
        # The first matrix product would end the scheduler, whatever the sampler.
        raise ParameterError(
            f"input_embeds reach the model as bfloat16, and its weights are {dtype}: send "
            "input_ids or text, or start the server with --dtype bfloat16"
        )
    _check_prompt(sampling, request)


def _check_prompt(sampling: RequestSampling, request: Any) -> None:
    """A prompt of embeddings has made-up ids: none of them tells whether it has opened thinking."""
    params = sampling.params
    if request.input_embeds is None or not getattr(params, "reads_prompt", False):
        return
    choices = ['custom_params.sampler = "regular"']
    if sampling.sampler == "led":
        choices.insert(0, "custom_params.led.think_only = false")
    raise ParameterError(
        f'input_embeds have no token ids, in which sampler "{sampling.sampler}" could see whether '
        f"the prompt has opened thinking: send input_ids or text, or {' or '.join(choices)}"
    )


@hook("managers.scheduler.Scheduler._create_generation_req", "AFTER")
def _check_in_the_scheduler(result: Any, self: Any, recv_req: Any, *_: Any, **__: Any) -> None:
    """Requests can reach the scheduler past the front end (other entry points, other workers)."""
    settings = settings_or_none()
    if settings is None:
        return
    try:
        sampling = _parse(recv_req, settings)
        method = method_of(sampling.sampler)
        if method is None:
            return
        keep_notes(result, RequestNotes(sampling.sampler, sampling.params, method.statistics()))
        _seed_by_id(result)
        if isinstance(sampling.params, SoftThinkingParams):
            # Its KV is that of mixtures, which no other request with the same ids may meet.
            result.skip_radix_cache_insert = True
    except ParameterError as error:
        # Its prompt is now one token: embeddings beside it would not fit the batch.
        result.input_embeds = None
        result.set_finish_with_abort(str(error), status_code=HTTPStatus.BAD_REQUEST)


def _parse(recv_req: Any, settings: ServerSettings) -> RequestSampling:
    params = recv_req.sampling_params
    sampling = parse_request(
        params.custom_params, settings, foreign_keys=recv_req.custom_logit_processor is not None
    )
    if recv_req.return_hidden_states and settings.captured:
        raise ParameterError(
            "return_hidden_states is not available while the server captures layers for LED; "
            "start it with --sampler regular"
        )
    if sampling.params is None:
        return sampling
    if recv_req.return_sampling_mask:
        _check_sampling_mask(sampling, params.top_k)
    if isinstance(sampling.params, SoftThinkingParams) and recv_req.session_params is not None:
        raise ParameterError(
            f'session_params do not go with sampler "{sampling.sampler}": the next turn would '
            "reuse a KV cache that its token ids do not determine"
        )
    _check_against_parameters(sampling, params)
    _check_prompt(sampling, recv_req)
    method = method_of(sampling.sampler)
    assert method is not None, "it has parameters"
    known = method.for_answer(
        sampling.params,
        logprobs=recv_req.return_logprob,
        sampling_mask=recv_req.return_sampling_mask,
    )
    return replace(sampling, params=known)


def _check_sampling_mask(sampling: RequestSampling, top_k: int) -> None:
    """`return_sampling_mask` of a request that uses a method."""
    from sglang.srt.runtime_context import get_exec

    method = method_of(sampling.sampler)
    if method is not None and not method.has_sampling_mask:
        raise ParameterError(
            f'return_sampling_mask does not go with sampler "{sampling.sampler}": its think steps '
            'draw no token from a set; use sampler "led" or "regular"'
        )
    most = get_exec().features.sampling_mask_max_tokens
    candidates = getattr(sampling.params, "candidates", None)
    if candidates is None:  # the engine samples, and its own rule says what top_k may be
        return
    if candidates > most:
        raise ParameterError(
            f"return_sampling_mask holds {most} tokens and custom_params.led.candidates is "
            f"{candidates}; ask for fewer, or start the server with a larger "
            "--sampling-mask-max-tokens"
        )
    if not 1 <= top_k <= most:
        raise ParameterError(
            f'return_sampling_mask needs a top_k in 1..{most} with sampler "led" too: thoughts are '
            "drawn from its candidates whatever top_k says, and the answer from the engine's top_k"
        )


def _seed_by_id(req: Any) -> None:
    """Under deterministic inference SGLang gives every request without a seed the same one, and the
    samples of a group would be copies: a request's id decides instead, equally on every rank."""
    from sglang.srt.runtime_context import get_exec

    params = req.sampling_params
    if params.sampling_seed is None and get_exec().deterministic.enable_deterministic_inference:
        digest = hashlib.blake2b(str(req.rid).encode(), digest_size=8).digest()
        req.sampling_params = copy.copy(params)  # n samples may share the object
        req.sampling_params.sampling_seed = int.from_bytes(digest, "big", signed=True)


@hook("managers.tokenizer_manager.TokenizerManager._send_one_request", "BEFORE")
def _tell_samples_apart(self: Any, tokenized_obj: Any) -> None:
    """With n > 1, sample i draws with seed + i (docs/method.md#randomness), and meets the other
    server of a pair in a room of its own.

    SGLang sends the n samples one after another, all holding the same parameters object, after a
    request for their prompt alone.
    """
    params = getattr(tokenized_obj, "sampling_params", None)
    settings = settings_or_none()
    if settings is None or params is None:
        return
    if params.max_new_tokens == 0:
        _ask_no_mask(self, tokenized_obj)
    if params.n <= 1 or params.max_new_tokens == 0:
        return
    _, index = _samples_sent.pop(id(params), (params, 0))
    if index + 1 < params.n:
        _samples_sent[id(params)] = (params, index + 1)
    if tokenized_obj.bootstrap_room is not None:
        room = tokenized_obj.bootstrap_room + (index + 1) * _ROOMS_APART
        tokenized_obj.bootstrap_room = room % _ROOMS
    seed = params.sampling_seed
    if seed is None:
        return
    if parse_request(params.custom_params, settings, foreign_keys=True).params is None:
        return
    tokenized_obj.sampling_params = copy.copy(params)
    # seeds live in SGLang's signed 64-bit range
    tokenized_obj.sampling_params.sampling_seed = (seed + index + 2**63) % 2**64 - 2**63


def _ask_no_mask(manager: Any, tokenized_obj: Any) -> None:
    """A request for a prompt alone samples no token, and SGLang answers HTTP 500 where it asks for
    the sampling mask; with n > 1 it begins with such a request of its own."""
    if getattr(tokenized_obj, "return_sampling_mask", False):
        tokenized_obj.return_sampling_mask = False
        manager.rid_to_state[tokenized_obj.rid].obj.return_sampling_mask = False
