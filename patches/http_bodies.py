"""HTTP bodies: LED's keys are checked in one place, and carried where SGLang drops them.

Every endpoint's JSON body passes `ORJSONRequest.json` once, parsed and not yet turned into the
endpoint's own record: a refusal there is an HTTP 400 in the form of that endpoint's errors, streams
included. Every generation passes `TokenizerManager.generate_request`, with the request that holds
what was found.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from led_sglang.methods.model_names import UnknownModel
from led_sglang.methods.placement import KEY, Path, given_custom_params, is_ours, refuse_misplaced
from led_sglang.methods.request import parse_request
from led_sglang.methods.values import ParameterError, show
from led_sglang.patches.answers import tell
from led_sglang.patches.hooks import hook
from led_sglang.patches.model_names import choose_by_name, chooses_another, echo, refuse_adapter
from led_sglang.patches.published import settings_or_none
from led_sglang.settings import ServerSettings

# Request: the `custom_params` that SGLang would drop, or None.
_CARRIED_ATTRIBUTE = "_led_custom_params"


@dataclass(frozen=True)
class _Form:
    """How an endpoint's body holds `custom_params`.

    places: where it may stand; the first is recommended.
    carried: whether SGLang itself hands it on to the sampling parameters.
    unchecked: key of an object like a body of /generate, of which SGLang checks no types.
    echoed: whether the answer's `model` is that of the body.
    opened: key of an object that SGLang looks into before it checks the types.
    """

    places: tuple[Path, ...] = ((),)
    carried: bool = True
    unchecked: str | None = None
    echoed: bool = True
    opened: str | None = None


_CHAT = _Form(opened="response_format")
# Ollama's own client sends no keys but those in `options`.
_OLLAMA = _Form(places=((), ("options",)), carried=False, echoed=False)
_RESPONSES = _Form(carried=False)
# By the function that serves the endpoint, as some URLs can be configured. Endpoints that sample
# nothing (scores, embeddings, tokens) are not listed.
_FORMS = {
    "generate_request": _Form(places=(("sampling_params",),), echoed=False),
    "openai_v1_completions": _Form(),
    "openai_v1_chat_completions": _CHAT,
    "sagemaker_chat_completions": _CHAT,
    "vertex_generate": _Form(
        places=(("parameters", "sampling_params"),), unchecked="parameters", echoed=False
    ),
    "v1_responses_request": _RESPONSES,
    "anthropic_v1_messages": _Form(carried=False),
    "ollama_chat": _OLLAMA,
    "ollama_generate": _OLLAMA,
}
# Bodies of these name an adapter.
_LORA_LOADERS = frozenset({"load_lora_adapter", "load_lora_adapter_from_tensors"})


@hook("entrypoints.http_server.ORJSONRequest.json", "AFTER")
def _read_body(parsing: Awaitable[Any], self: Any) -> Awaitable[Any]:
    return _checked(parsing, self)


async def _checked(parsing: Awaitable[Any], request: Any) -> Any:
    try:
        body = await parsing
    except ValueError as error:  # such as NaN, which Python's own json writes
        if settings_or_none() is None:
            raise
        raise _refusal(
            HTTPStatus.BAD_REQUEST, f"the body is no JSON, which knows no NaN either: {error}"
        ) from None
    # Some endpoints read their body twice.
    if not hasattr(request, _CARRIED_ATTRIBUTE):
        setattr(request, _CARRIED_ATTRIBUTE, _custom_params_to_carry(body, request))
    return body


def _custom_params_to_carry(body: Any, request: Any) -> dict[str, Any] | None:
    """Check LED's keys in a body; the `custom_params` that SGLang drops, if there are any.

    Raises:
        HTTPException: 400 with the sentence of a `ParameterError`, 404 with that of an
            `UnknownModel`.
    """
    endpoint = getattr(request.scope.get("endpoint"), "__name__", "")
    settings = settings_or_none()
    form = _FORMS.get(endpoint)
    if settings is None or (form is None and endpoint not in _LORA_LOADERS):
        return None
    try:
        _check_objects(body, form.opened if form else None)
        if form is None:
            refuse_adapter(body.get("lora_name"), settings)
            return None
        samplers, carried = _check(body, form, request.url.path, settings)
    except ParameterError as error:
        raise _refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
    except UnknownModel as error:
        raise _refusal(HTTPStatus.NOT_FOUND, str(error)) from None
    tell(request.scope, samplers)
    return carried


def _check(
    body: dict[str, Any], form: _Form, url: str, settings: ServerSettings
) -> tuple[list[str], dict[str, Any] | None]:
    """The sampler of each request in a body, and the `custom_params` that SGLang drops, if any."""
    from sglang.srt.runtime_context import get_exec

    refuse_misplaced(body, form.places, url)
    if form.unchecked is not None:
        _check_types(body.get(form.unchecked))
    choose_by_name(body, form.places, settings, tags=form is _OLLAMA)
    given = given_custom_params(body, form.places)
    # Endpoints that drop `custom_params` take no custom logit processor either.
    foreign_keys = form.carried and get_exec().features.enable_custom_logit_processor
    samplers = [
        parse_request(custom_params, settings, foreign_keys=foreign_keys).sampler
        for custom_params in given
    ]
    if form.echoed:
        echo(body, samplers[0], settings, checked=form is _RESPONSES)
    return samplers, None if form.carried else given[0]


def _check_objects(body: Any, opened: str | None) -> None:
    """A wrong type where SGLang looks inside before it checks would be HTTP 500."""
    found = [("the body", body)]
    if isinstance(body, dict) and opened is not None and (given := body.get(opened)):
        found.append((opened, given))
        if isinstance(given, dict) and (schema := given.get("schema")):
            found.append((f"{opened}.schema", schema))
    for name, value in found:
        if not isinstance(value, dict):
            raise ParameterError(f"{name} must be an object, got {show(value)}")


def _check_types(generate: Any) -> None:
    """Hold keys of a /generate body to SGLang's own schema: a wrong type may end the scheduler.

    Raises:
        ParameterError: names the key and the type it should have.
    """
    from sglang.srt.entrypoints.api_contract import generate_contract_error

    if not isinstance(generate, dict) or generate_contract_error({"text": "", **generate}) is None:
        return
    # SGLang's sentence names no key.
    sampling = generate.get("sampling_params")
    parts = {key: {key: value} for key, value in generate.items()}
    if isinstance(sampling, dict):
        del parts["sampling_params"]
        parts |= {key: {"sampling_params": {key: value}} for key, value in sampling.items()}
    for key, part in parts.items():
        error = generate_contract_error({"text": "", **part})
        if error is not None:
            raise ParameterError(f"{key}: {error}")


def _refusal(status: HTTPStatus, sentence: str) -> Exception:
    from fastapi import HTTPException

    return HTTPException(status, sentence)


@hook("managers.tokenizer_manager.TokenizerManager.generate_request", "BEFORE")
def _carry_custom_params(self: Any, obj: Any, request: Any = None) -> None:
    custom_params = getattr(request, _CARRIED_ATTRIBUTE, None)
    if custom_params is not None:
        # SGLang's private keys may be there already.
        own = obj.sampling_params.get(KEY) or {}
        obj.sampling_params[KEY] = {**custom_params, **own}


@hook(
    "entrypoints.openai.serving_transcription.OpenAIServingTranscription.create_transcription",
    "AROUND",
)
async def _refuse_in_a_form(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    """A transcription's body is a form, not JSON, and builds its own sampling parameters."""
    settings = settings_or_none()
    if settings is not None:
        request = kwargs["raw_request"]
        form = await request.form()
        found = [show(key)[1:-1] for key in form if is_ours(key)]
        if chooses_another(form.get("model"), settings):
            found.append(f"the end of model {form['model']}")
        if found:
            raise _refusal(
                HTTPStatus.BAD_REQUEST,
                f"{found[0]} is not read by /v1/audio/transcriptions, which decodes with the "
                "server's default sampler; leave it out",
            )
        tell(request.scope, [settings.sampler])
    return await original(self, *args, **kwargs)


@hook("entrypoints.ollama.serving.OllamaServing.handle_chat", "AROUND")
@hook("entrypoints.ollama.serving.OllamaServing.handle_generate", "AROUND")
async def _check_options(original: Any, self: Any, request: Any, raw_request: Any) -> Any:
    """Ollama's endpoints know no refusal: it would be HTTP 500, or a stream that breaks off."""
    sampling = self._convert_options_to_sampling_params(request.options)
    sampling[KEY] = getattr(raw_request, _CARRIED_ATTRIBUTE)
    manager = self.tokenizer_manager
    try:
        _check_types({"sampling_params": sampling})
        params = manager.sampling_params_class(**sampling)
        params.normalize(manager.tokenizer)
        params.verify(manager.model_config.vocab_size)
    except (TypeError, ValueError) as error:
        raise _refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
    return await original(self, request, raw_request)


@hook("entrypoints.grpc_bridge.RuntimeHandle._get_openai_request_class", "AROUND")
def _check_grpc(original: Any, self: Any, serving_key: str) -> Any:
    """gRPC's calls with an OpenAI body: what makes the request of it checks the body first."""
    from sglang.srt.entrypoints.grpc_bridge import _BadOpenAIRequest

    make, settings = original(self, serving_key), settings_or_none()
    form = {"chat": _CHAT, "completion": _Form()}.get(serving_key)
    if settings is None or form is None:
        return make

    def checked(**body: Any) -> Any:
        try:
            _check_objects(body, form.opened)
            _check(body, form, f"gRPC ({serving_key})", settings)
        except (ParameterError, UnknownModel) as error:
            raise _BadOpenAIRequest(str(error)) from None
        return make(**body)

    return checked
