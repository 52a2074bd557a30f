"""What a request may set for SoftThinking and its noisy variants (docs/method.md#soft-thinking)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from led_sglang.methods.parameter import Column, columns_of, parameter, switch
from led_sglang.methods.values import LARGEST, integer, number

# Keys of `meta_info`.
SUMMARY_KEY = "soft_thinking"
TRACE_KEY = "soft_thinking_trace"

# Width of the table of soft inputs: every decode step gathers as many embeddings per request.
MAX_TOPK = 32

# Of each method, the parameter that sets the strength of its noise.
NOISE_KEYS: dict[str, str | None] = {
    "soft-thinking": None,
    "soft-thinking-gumbel": "gumbel_temperature",
    "soft-thinking-dirichlet": "alpha",
}
SOFT_SAMPLERS = tuple(NOISE_KEYS)


def uses_soft(samplers: Iterable[str]) -> bool:
    """Whether one of these is a soft method: only then does the model read mixtures."""
    return any(name in NOISE_KEYS for name in samplers)


@dataclass(frozen=True, slots=True)
class SoftThinkingParams:
    """One request's settings; the defaults are the papers'.

    Attributes:
        noise: the method's name, which says what noise is put on the weights.
        max_topk_given: whether the request named `max_topk`.
    """

    noise: str
    max_topk: int = parameter(
        10,
        integer(1, MAX_TOPK),
        values=f"1 .. {MAX_TOPK}, at most the request's `top_k`",
        meaning="embeddings mixed at most",
        neutral=1.0,
    )
    entropy_threshold: float = parameter(
        0.01,
        number(0.0, LARGEST, "a finite number of nats >= 0"),
        values="nats",
        meaning="a step below it counts towards the cold stop; 0: no cold stop",
        neutral=0.0,
    )
    length_threshold: int = parameter(
        256,
        integer(0, 2**31 - 1),
        values="steps",
        meaning="so many of them in a row force the end of thinking",
        neutral=0.0,
    )
    trace: bool = switch(
        False, "`meta_info.soft_thinking_trace`: each token's phase, entropy, ids, weights"
    )
    gumbel_temperature: float = parameter(
        0.5,
        number(0.0, 1e6, "a number in (0, 1e6]", low_open=True),
        values="(0, 1e6]",
        meaning="of the softmax over noisy log-weights",
        samplers=("soft-thinking-gumbel",),
    )
    alpha: float = parameter(
        4.0,
        number(0.0, 1e6, "a number in (0, 1e6]", low_open=True),
        values="(0, 1e6]",
        meaning="concentration of the Dirichlet noise",
        samplers=("soft-thinking-dirichlet",),
    )
    max_topk_given: bool = False

    @property
    def reads_prompt(self) -> bool:
        """Whether the prompt's ids decide the phase of the first token."""
        return True

    @property
    def noise_value(self) -> float:
        """Strength of the noise; 1 where there is none."""
        key = NOISE_KEYS[self.noise]
        return 1.0 if key is None else float(getattr(self, key))


SOFT_COLUMNS = columns_of(
    SoftThinkingParams,
    Column("noise", int, 0.0, lambda p: SOFT_SAMPLERS.index(p.noise)),
    Column("noise_value", float, 1.0, lambda p: p.noise_value),
)
