"""What a request may set for LED: names, ranges and defaults of SPEC section 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from led_sglang.params.values import (
    LARGEST,
    ParameterError,
    Parser,
    boolean,
    choice,
    integer,
    number,
    parse_group,
)

if TYPE_CHECKING:
    from led_sglang.settings import ServerSettings

MAX_CANDIDATES = 64
GATES = ("confidence", "always", "never", "entropy", "rate")
LAYERS = ("paper", "release")
PRESETS = ("paper", "release")
RELEASE_FLOOR = 1e-6


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
    def reads_prompt(self) -> bool:
        """Whether the prompt's ids decide the phase of the first token."""
        return self.think_only and self.preset != "release"

    @property
    def gate_value(self) -> float:
        """Threshold in nats (`entropy`), probability (`rate`), else 0."""
        return {"entropy": self.gate_entropy, "rate": self.gate_rate}.get(self.gate, 0.0)


_FULL_VOCABULARY_NOTE = (
    "; sampling without a top-k filter (k = V) is a failure case of the paper and is not offered"
)


def _led_parsers(max_depth: int) -> dict[str, Parser]:
    return {
        "depth": integer(1, max_depth, " (the depth this server captures)"),
        "candidates": integer(1, MAX_CANDIDATES, _FULL_VOCABULARY_NOTE),
        "candidate_top_p": number(0.0, 1.0, "a number in (0, 1]", low_open=True),
        "think_only": boolean,
        "final_norm": boolean,
        "normalize_layers": boolean,
        "gate": choice(GATES),
        "gate_entropy": number(0.0, LARGEST, "a finite number of nats >= 0"),
        "gate_rate": number(0.0, 1.0, "a number in [0, 1]"),
        "layers": choice(LAYERS),
        "floor": number(0.0, 1.0, "a probability in [0, 1]"),
        "preset": choice(PRESETS),
        "behaviour_logprobs": boolean,
        "trace": boolean,
    }


LED_KEYS = tuple(_led_parsers(1))
assert set(LED_KEYS) == {field.name for field in fields(LedParams)}


def parse_led(group: Mapping[str, Any], settings: ServerSettings) -> LedParams:
    """The `led` group of a request on top of the server's defaults.

    Raises:
        ParameterError: unknown key, wrong type, value out of range, or values that do not fit
            together; the message names the key and what is allowed.
    """
    given = parse_group("led", group, _led_parsers(settings.depth))
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
