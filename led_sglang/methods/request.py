"""A request's whole `custom_params` as one frozen record (docs/method.md#requests).

Knows nothing of SGLang: the same code serves the HTTP front end and the scheduler's second check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from led_sglang.methods.registry import method_of
from led_sglang.methods.values import ParameterError, show
from led_sglang.settings import ServerSettings

# Private keys with which SGLang's own front end decorates custom_params.
_ENGINE_KEY_PREFIX = "__sglang"
_ENGINE_KEYS = frozenset({"thinking_budget"})


@dataclass(frozen=True, slots=True)
class RequestSampling:
    """The method a request chose and its parameters; `regular` has none."""

    sampler: str
    params: Any = None

    def report(self) -> dict[str, Any]:
        """As it appears in `meta_info["sampler"]`: the name, and every parameter's value."""
        method = method_of(self.sampler)
        values = (
            {}
            if method is None
            else {p.name: getattr(self.params, p.name) for p in method.parameters(self.sampler)}
        )
        lists = {key: list(v) for key, v in values.items() if isinstance(v, tuple)}
        return {"name": self.sampler, "settings": values | lists}


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
    groups = [name for name in settings.enabled if name != "regular"]
    for key, group in custom_params.items():
        if key == "sampler" or key == sampler != "regular":
            continue
        if key in groups or key == "regular":
            raise ParameterError(
                f'custom_params.{key} does not apply to sampler "{sampler}"'
                + (f'; send it with sampler "{key}"' if key != "regular" else ": it has no keys")
            )
        if isinstance(group, dict) and method_of(key) is not None:
            raise ParameterError(
                f"custom_params.{key} belongs to a sampler that this server does not offer; it "
                f"offers {', '.join(settings.enabled)}{_how_to_enable(key)}"
            )
        engine_own = isinstance(key, str) and (
            key.startswith(_ENGINE_KEY_PREFIX) or key in _ENGINE_KEYS
        )
        if not foreign_keys and not engine_own:
            raise ParameterError(
                f"custom_params.{show(key)[1:-1]} is unknown; allowed: "
                + ", ".join(["sampler", *groups])
            )
    method = method_of(sampler)
    if method is None:
        return RequestSampling(sampler)
    values = custom_params.get(sampler)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        keys = ", ".join(p.name for p in method.parameters(sampler))
        raise ParameterError(
            f"custom_params.{sampler} must be an object with keys {keys}, got {show(values)}"
        )
    return RequestSampling(sampler, method.parse(sampler, values, settings))


def _how_to_enable(sampler: Any) -> str:
    known = isinstance(sampler, str) and method_of(sampler) is not None
    return f"; start the server with --enable-samplers {sampler} to offer it" if known else ""
