"""A request's whole `custom_params` as one frozen record (SPEC section 7).

Knows nothing of SGLang: the same code serves the HTTP front end and the scheduler's second check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from led_sglang.params.dola import DOLA_KEYS, DolaParams, parse_dola
from led_sglang.params.led import LED_KEYS, LedParams, parse_led
from led_sglang.params.soft_thinking import (
    SOFT_SAMPLERS,
    SoftThinkingParams,
    parse_soft,
    soft_keys,
)
from led_sglang.params.values import ParameterError, show

if TYPE_CHECKING:
    from led_sglang.settings import ServerSettings

MethodParams = LedParams | DolaParams | SoftThinkingParams

# Private keys with which SGLang's own front end decorates custom_params.
_ENGINE_KEY_PREFIX = "__sglang"
_ENGINE_KEYS = frozenset({"thinking_budget"})


@dataclass(frozen=True, slots=True)
class RequestSampling:
    """The method a request chose and its settings; `regular` has none."""

    sampler: str
    params: MethodParams | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The object of a request that belongs to one method; named like the method."""

    keys: tuple[str, ...]
    parse: Callable[[Mapping[str, Any], ServerSettings], MethodParams]


GROUPS: dict[str, Group] = {
    "led": Group(LED_KEYS, parse_led),
    "dola": Group(DOLA_KEYS, parse_dola),
    **{name: Group(soft_keys(name), partial(parse_soft, name)) for name in SOFT_SAMPLERS},
}
# Methods in the order of messages; `regular` is the engine's own sampler and has no settings.
SAMPLERS = (*GROUPS, "regular")


def parse_request(
    custom_params: Any, settings: ServerSettings, *, foreign_keys: bool
) -> RequestSampling:
    """Parse a request's whole `custom_params`.

    Args:
        custom_params: what the client sent, any type; None means "nothing".
        settings: the server's settings.
        foreign_keys: other top-level keys belong to a custom logit processor and are let through.

    Raises:
        ParameterError: anything that is not offered; names the key and what is allowed.
    """
    if custom_params is None:
        custom_params = {}
    if not isinstance(custom_params, dict):
        raise ParameterError(f"custom_params must be an object, got {type(custom_params).__name__}")
    sampler = custom_params.get("sampler", settings.sampler)
    if not isinstance(sampler, str) or sampler not in settings.enabled:
        raise ParameterError(
            f"custom_params.sampler must be one of {', '.join(settings.enabled)}, "
            f"got {show(sampler)}{_how_to_enable(sampler)}"
        )
    groups = [name for name in settings.enabled if name in GROUPS]
    for key in custom_params:
        if key == "sampler" or key == sampler != "regular":
            continue
        if key in groups or key == "regular":
            raise ParameterError(
                f'custom_params.{key} does not apply to sampler "{sampler}"'
                + (f'; send it with sampler "{key}"' if key != "regular" else ": it has no keys")
            )
        engine_own = isinstance(key, str) and (
            key.startswith(_ENGINE_KEY_PREFIX) or key in _ENGINE_KEYS
        )
        if not foreign_keys and not engine_own:
            raise ParameterError(
                f"custom_params.{show(key)[1:-1]} is unknown; allowed: "
                + ", ".join(["sampler", *groups])
            )
    if sampler == "regular":
        return RequestSampling(sampler)
    values = custom_params.get(sampler)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ParameterError(
            f"custom_params.{sampler} must be an object with keys "
            f"{', '.join(GROUPS[sampler].keys)}, got {show(values)}"
        )
    return RequestSampling(sampler, GROUPS[sampler].parse(values, settings))


def _how_to_enable(sampler: Any) -> str:
    known = isinstance(sampler, str) and sampler in SAMPLERS
    return f"; start the server with --enable-samplers {sampler} to offer it" if known else ""
