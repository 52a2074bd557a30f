"""Samplers by the model's name on SGLang's endpoints: read, listed, and told from LoRA adapters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from led_sglang.common.samplers import SamplerSpec
from led_sglang.methods.model_names import (
    ServedNames,
    choose,
    clashing,
    taken_names,
)
from led_sglang.methods.placement import Path
from led_sglang.methods.values import ParameterError, show
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none
from led_sglang.settings import LaunchRefused, ServerSettings

# Ollama's own clients write it behind a name without a tag.
_DEFAULT_TAG = ":latest"


def _names(manager: Any, settings: ServerSettings) -> ServedNames:
    """The names under which this server answers now: weight updates change the model's own."""
    adapters: set[str] = set()
    if manager.enable_lora:
        # The cache holds those that were evicted too: SGLang loads them again.
        adapters = {*manager.lora_registry.get_all_adapters(), *manager.lora_ref_cache}
    return ServedNames(manager.served_model_name, adapters, settings)


def _serving(settings: ServerSettings) -> ServedNames:
    from sglang.srt.entrypoints.http_server import get_global_state

    return _names(get_global_state().tokenizer_manager, settings)


def choose_by_name(
    body: dict[str, Any], places: tuple[Path, ...], settings: ServerSettings, *, tags: bool
) -> None:
    """Write the sampler that a body's `model` names into its `custom_params`.

    Args:
        places: where the endpoint reads `custom_params`.
        tags: the endpoint's clients write `:latest` behind a name.

    Raises:
        UnknownModel: see `ServedNames.read`.
        ParameterError: `custom_params` names another one.
    """
    model = body.get("model")
    if not isinstance(model, str):
        return
    alias = _serving(settings).read(model.removesuffix(_DEFAULT_TAG) if tags else model)
    if alias is not None:
        choose(body, places, alias)


def echo(body: dict[str, Any], sampler: str, settings: ServerSettings, *, checked: bool) -> None:
    """Have the answer's `model` say who answers, as the name under which it can be had again.

    Args:
        sampler: that the request resolves to.
        checked: the endpoint refuses names that it does not serve: such a one stays as it is.
    """
    names = _serving(settings)
    model = body.get("model")
    if model is None:
        model = names.served
    if not isinstance(model, str):
        return
    base, alias = names.split(model)
    if not checked or base == names.served or base.startswith(f"{names.served}:"):
        body["model"] = f"{base}:{sampler if alias is None else alias.label}"


def chooses_another(model: Any, settings: ServerSettings) -> bool:
    """Whether a model's name asks for anything but the server's default sampler."""
    if not isinstance(model, str):
        return False
    alias = _serving(settings).split(model)[1]
    return alias not in (None, SamplerSpec(settings.sampler, settings.sampler))


def refuse_adapter(name: Any, settings: ServerSettings) -> None:
    """Check the name of a LoRA adapter that is to be loaded.

    Raises:
        ParameterError: it is the name of a sampler or of a preset.
    """
    if isinstance(name, str) and (end := clashing(name, settings)) is not None:
        raise ParameterError(
            f"lora_name {show(name)} would be taken for the sampler {end!r} in a model's name; "
            "load the adapter under another name"
        )


def refuse_clashing_names(cfg: Any, settings: ServerSettings) -> None:
    """Check the names that SGLang itself serves against the aliases.

    Args:
        cfg: view with the resolved fields of `ServerArgs`.

    Raises:
        LaunchRefused: an adapter's name ends like an alias, or the model's holds a colon.
    """
    for name in _adapter_names(cfg.lora_paths):
        if (end := clashing(name, settings)) is not None:
            raise LaunchRefused(
                f"--lora-paths {name}=...: the adapter would be taken for the sampler {end!r} in a "
                "model's name; give the adapter another name"
            )
    served = cfg.served_model_name or cfg.model_path
    end = served.rpartition(":")[2].strip()
    # SGLang takes a colon in the address of an object store alone.
    if ":" in served and ("://" not in served or end in taken_names(settings)):
        raise LaunchRefused(
            f"the model's name {served!r} holds a colon, behind which a request chooses a sampler "
            "or an adapter; give it another with --served-model-name"
        )


def _adapter_names(lora_paths: Any) -> Iterable[str]:
    """Of --lora-paths as typed ("name=path", a path, JSON), or as SGLang has parsed them."""
    for entry in lora_paths or ():
        if isinstance(entry, str):
            yield entry.partition("=")[0]
        elif isinstance(entry, dict):
            yield str(entry.get("lora_name"))
        else:
            yield entry.lora_name


@hook("entrypoints.openai.serving_base.OpenAIServingBase._parse_model_parameter", "AROUND")
def _leave_out_the_alias(original: Any, self: Any, model: str) -> Any:
    """What SGLang reads of `NAME:adapter:sampler` is `NAME:adapter`."""
    settings = settings_or_none()
    if settings is not None:
        model, _ = _names(self.tokenizer_manager, settings).split(model)
    return original(self, model)


@hook("entrypoints.ollama.serving.OllamaServing.get_tags", "AFTER")
def _list_for_ollama(result: Any, self: Any) -> None:
    settings = settings_or_none()
    if settings is not None:
        names = _names(self.tokenizer_manager, settings).listed()
        entries = [result.models[0].model_copy(update={"name": n, "model": n}) for n in names]
        result.models.extend(entries)


def serve_names(app: Any) -> None:
    """Have /v1/models list the aliases, and tell of each.

    SGLang's own two routes stay behind these, which are found first.

    Args:
        app: SGLang's FastAPI application, before it serves.
    """
    from fastapi.responses import ORJSONResponse
    from sglang.srt.entrypoints.http_server import available_models, retrieve_model

    def alias_of(model: str) -> tuple[str, SamplerSpec | None]:
        settings = settings_or_none()
        return (model, None) if settings is None else _serving(settings).split(model)

    async def list_models() -> Any:
        listed = await available_models()
        settings = settings_or_none()
        if settings is not None:
            served = listed.data[0]
            cards = [
                served.model_copy(update={"id": name, "parent": served.id})
                for name in _serving(settings).listed()
            ]
            listed.data[1:1] = cards
        return listed

    async def tell_of_model(model: str) -> Any:
        base, alias = alias_of(model)
        card = await retrieve_model(base)
        if alias is not None and not isinstance(card, ORJSONResponse):
            return card.model_copy(update={"id": model, "parent": base})
        return card

    options: dict[str, Any] = {"methods": ["GET"], "response_class": ORJSONResponse}
    for path, endpoint in (("/v1/models", list_models), ("/v1/models/{model:path}", tell_of_model)):
        app.add_api_route(path, endpoint, include_in_schema=False, **options)
        app.router.routes.insert(0, app.router.routes.pop())
