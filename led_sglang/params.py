"""What a request may set: parsing of `custom_params` into one frozen record (SPEC sections 2, 7).

Knows nothing of SGLang: the same code serves the HTTP front end and the scheduler's second check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from led_sglang.settings import ServerSettings

MAX_CANDIDATES = 64
GATES = ("confidence", "always", "never", "entropy", "rate")
LAYERS = ("paper", "release")
PRESETS = ("paper", "release")
RELEASE_FLOOR = 1e-6

# Private keys with which SGLang's own front end decorates custom_params.
_ENGINE_KEY_PREFIX = "__sglang"
_ENGINE_KEYS = frozenset({"thinking_budget"})


class ParameterError(ValueError):
    """A request asks for something that is not offered; SGLang turns it into HTTP 400."""


@dataclass(frozen=True, slots=True)
class LedParams:
    """One request's LED settings; names, ranges and defaults of SPEC section 2.

    `preset="release"` stands for the authors' code: it moves the defaults of `layers` and `floor`,
    thinks from the first token, draws the gate at temperature 0 as well, and keeps sampling the
    final layer's candidates after the think phase.
    """

    depth: int
    candidates: int
    candidate_top_p: float = 1.0
    think_only: bool = True
    final_norm: bool = False
    normalize_layers: bool = False
    gate: str = "confidence"
    gate_entropy: float = 0.0
    gate_rate: float = 0.0
    layers: str = "paper"
    floor: float = 0.0
    preset: str = "paper"
    behaviour_logprobs: bool = False
    trace: bool = False

    @property
    def projects(self) -> bool:
        """Project every think step: an exploiting step needs a^{l*} too to state log q(token)."""
        return self.behaviour_logprobs or self.trace

    @property
    def gate_value(self) -> float:
        """Threshold in nats (`entropy`), probability (`rate`), else 0."""
        return {"entropy": self.gate_entropy, "rate": self.gate_rate}.get(self.gate, 0.0)


@dataclass(frozen=True, slots=True)
class RequestSampling:
    """The method a request chose and, for LED, its settings."""

    sampler: str
    led: LedParams | None = None


def _integer(low: int, high: int, note: str = "") -> Callable[[str, Any], int]:
    allowed = f"an integer in {low}..{high}{note}"

    def parse(key: str, value: Any) -> int:
        # bool is an int in Python; `"depth": true` is a mistake all the same.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ParameterError(f"{key} must be {allowed}, got {_show(value)}")
        return value

    return parse


def _number(
    low: float, high: float, allowed: str, *, low_open: bool = False
) -> Callable[[str, Any], float]:
    def parse(key: str, value: Any) -> float:
        good = (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            # Before float(): a huge integer would overflow it.
            and (low < value if low_open else low <= value)
            and value <= high
            and math.isfinite(value)
        )
        if not good:
            raise ParameterError(f"{key} must be {allowed}, got {_show(value)}")
        return float(value)

    return parse


def _boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ParameterError(f"{key} must be true or false, got {_show(value)}")
    return value


def _choice(choices: tuple[str, ...]) -> Callable[[str, Any], str]:
    def parse(key: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ParameterError(f"{key} must be one of {', '.join(choices)}, got {_show(value)}")
        return value

    return parse


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_FULL_VOCABULARY_NOTE = (
    "; sampling without a top-k filter (k = V) is a failure case of the paper and is not offered"
)


def _led_parsers(max_depth: int) -> dict[str, Callable[[str, Any], Any]]:
    largest = 1.7e308
    return {
        "depth": _integer(1, max_depth, " (the depth this server captures)"),
        "candidates": _integer(1, MAX_CANDIDATES, _FULL_VOCABULARY_NOTE),
        "candidate_top_p": _number(0.0, 1.0, "a number in (0, 1]", low_open=True),
        "think_only": _boolean,
        "final_norm": _boolean,
        "normalize_layers": _boolean,
        "gate": _choice(GATES),
        "gate_entropy": _number(0.0, largest, "a finite number of nats >= 0"),
        "gate_rate": _number(0.0, 1.0, "a number in [0, 1]"),
        "layers": _choice(LAYERS),
        "floor": _number(0.0, 1.0, "a probability in [0, 1]"),
        "preset": _choice(PRESETS),
        "behaviour_logprobs": _boolean,
        "trace": _boolean,
    }


LED_KEYS = tuple(_led_parsers(1))
assert set(LED_KEYS) == {field.name for field in fields(LedParams)}


def parse_led(group: Mapping[str, Any], settings: ServerSettings) -> LedParams:
    """The `led` group of a request on top of the server's defaults.

    Raises:
        ParameterError: unknown key, wrong type, value out of range, or values that do not fit
            together; the message names the key and what is allowed.
    """
    parsers = _led_parsers(settings.depth)
    unknown = [key for key in group if key not in parsers]
    if unknown:
        raise ParameterError(
            f"custom_params.led.{unknown[0]} is unknown; allowed: {', '.join(parsers)}"
        )
    given = {key: parsers[key](f"custom_params.led.{key}", value) for key, value in group.items()}

    base = settings.led_defaults()
    if given.get("preset") == "release":
        base = replace(base, layers="release", floor=RELEASE_FLOOR)
    params = replace(base, **given)

    for key, gate in (("gate_entropy", "entropy"), ("gate_rate", "rate")):
        if key in given and params.gate != gate:
            raise ParameterError(
                f'custom_params.led.{key} needs custom_params.led.gate = "{gate}", '
                f'got gate "{params.gate}"'
            )
        if params.gate == gate and key not in given:
            raise ParameterError(
                f'custom_params.led.{key} is missing: gate "{gate}" needs it '
                + ("(a number of nats >= 0)" if gate == "entropy" else "(a number in [0, 1])")
            )
    deepest = settings.max_depth(params.layers)
    if params.depth > deepest:
        if "depth" in given:
            raise ParameterError(
                f"custom_params.led.depth must be an integer in 1..{deepest} with layers "
                f'"{params.layers}" on this server, got {params.depth}'
            )
        params = replace(params, depth=deepest)
    if params.think_only and not settings.has_delimiters:
        raise ParameterError(
            "custom_params.led.think_only must be false: this server was started with "
            "--led-think-only false and knows no think delimiters"
        )
    return params


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
            f"got {_show(sampler)}"
        )
    groups = [name for name in settings.enabled if name != "regular"]
    for key in custom_params:
        if key == "sampler" or key == sampler == "led":
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
                f"custom_params.{_show(key)[1:-1]} is unknown; allowed: "
                + ", ".join(["sampler", *groups])
            )
    if sampler != "led":
        return RequestSampling(sampler)
    group = custom_params.get("led", {})
    if group is None:
        group = {}
    if not isinstance(group, dict):
        raise ParameterError(
            f"custom_params.led must be an object with keys {', '.join(LED_KEYS)}, "
            f"got {_show(group)}"
        )
    return RequestSampling(sampler, parse_led(group, settings))
