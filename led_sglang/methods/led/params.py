"""What a request may set for LED (docs/method.md#variants)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from led_sglang.methods.parameter import Column, columns_of, parameter, switch
from led_sglang.methods.values import LARGEST, choice, integer, number
from led_sglang.settings import ServerSettings

# Keys of `meta_info`.
SUMMARY_KEY = "led"
TRACE_KEY = "led_trace"
BEHAVIOUR_KEY = "led_behaviour_logprobs"

MAX_CANDIDATES = 64
# In the order of the kernels' `Gate`.
GATES = ("confidence", "always", "never", "entropy", "rate")
LAYERS = ("paper", "release")
LOGPROBS = ("engine", "behaviour")
PRESETS = ("paper", "release")
RELEASE_FLOOR = 1e-6

_FULL_VOCABULARY_NOTE = (
    "; sampling without a top-k filter (k = V) is a failure case of the paper and is not offered"
)


def _depth(key: str, value: Any, settings: ServerSettings) -> int:
    depth: int = integer(1, settings.depth, " (the depth this server captures)")(
        key, value, settings
    )
    return depth


@dataclass(frozen=True, slots=True)
class LedParams:
    """One request's LED settings.

    `preset="release"` stands for the authors' code (docs/method.md#presets): it moves the defaults
    of `layers` and `floor`, thinks from the first token, draws the gate at temperature 0 as well,
    and keeps sampling the final layer's candidates after the think phase.
    """

    depth: int = parameter(
        8,
        _depth,
        values="1 .. the server's `--led-depth`",
        meaning="layers mixed; 1 samples the final layer's candidates",
        from_server=True,
        neutral=1.0,
    )
    candidates: int = parameter(
        8,
        integer(1, MAX_CANDIDATES, _FULL_VOCABULARY_NOTE),
        values=f"1 .. {MAX_CANDIDATES}",
        meaning="how many of the likeliest tokens are candidates",
        from_server=True,
        neutral=1.0,
    )
    candidate_top_p: float = parameter(
        1.0,
        number(0.0, 1.0, "a number in (0, 1]", low_open=True),
        values="(0, 1]",
        meaning="only candidates inside this nucleus of the final posterior",
        neutral=1.0,
    )
    think_only: bool = switch(
        True, "explore only between the think delimiters", from_server=True, neutral=0.0
    )
    final_norm: bool = switch(False, "the model's final norm on the latents too", neutral=0.0)
    normalize_layers: bool = switch(False, "each layer's candidates sum to one", neutral=0.0)
    gate: str = parameter(
        "confidence",
        choice(GATES),
        values="`confidence`, `always`, `never`, `entropy`, `rate`",
        meaning="explore with probability 1 - p1, always, never, when the final entropy is above "
        "`gate_entropy`, or at random",
        column=Column("gate", int, 0.0, lambda p: GATES.index(p.gate)),
    )
    gate_entropy: float | None = parameter(
        None,
        number(0.0, LARGEST, "a finite number of nats >= 0"),
        values="nats",
        meaning="required by gate `entropy`, and only there",
    )
    gate_rate: float | None = parameter(
        None,
        number(0.0, 1.0, "a number in [0, 1]"),
        values="0 .. 1",
        meaning="required by gate `rate`, and only there",
    )
    layers: str = parameter(
        "paper",
        choice(LAYERS),
        values="`paper`, `release`",
        meaning="h^{L-1}, h^{L-2}, ..., or without h^{L-1}",
        from_server=True,
        column=Column("release_layers", bool, 0.0, lambda p: p.layers == "release"),
    )
    floor: float = parameter(
        0.0,
        number(0.0, 1.0, "a probability in [0, 1]"),
        values="0 .. 1",
        meaning="lower bound of a candidate's probability in each layer",
        neutral=0.0,
    )
    preset: str = parameter(
        "paper",
        choice(PRESETS),
        values="`paper`, `release`",
        meaning="`release`: all of the authors' choices",
        column=Column("release_preset", bool, 0.0, lambda p: p.preset == "release"),
    )
    behaviour_logprobs: bool = switch(
        False, "log of the probability with which LED drew each think token"
    )
    logprobs: str = parameter(
        "engine",
        choice(LOGPROBS),
        values="`engine`, `behaviour`",
        meaning="what the answer's own log-probabilities hold where LED draws the token: the final "
        "posterior's, or log q",
        from_server=True,
        column=Column("reports_q", bool, 0.0, lambda p: p.logprobs == "behaviour"),
    )
    trace: bool = switch(False, "all of each step's numbers")
    # No request sets it: the answer's log-probabilities or sampling mask hold q.
    answers_q: bool = False

    @property
    def thinks_at_once(self) -> bool:
        """Whether the first generated token is thought, whatever the prompt says."""
        return self.preset == "release"

    @property
    def reads_prompt(self) -> bool:
        """Whether the prompt's ids decide the phase of the first token."""
        return self.think_only and not self.thinks_at_once

    @property
    def picks_every_token(self) -> bool:
        """Whether the engine's own pick is never used, whatever phase the request is in."""
        return not self.think_only or self.thinks_at_once

    @property
    def projects(self) -> bool:
        """Project every think step: an exploiting step needs a^{l*} too to state log q(token)."""
        return self.behaviour_logprobs or self.trace or self.answers_q

    @property
    def gate_value(self) -> float:
        """Threshold in nats (`entropy`), probability (`rate`), else 0."""
        return {"entropy": self.gate_entropy, "rate": self.gate_rate}.get(self.gate) or 0.0


LED_COLUMNS = columns_of(
    LedParams,
    Column("gate_value", float, 0.0, lambda p: p.gate_value),
    Column("projects", bool, 0.0, lambda p: p.projects),
)
