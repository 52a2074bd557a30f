"""What a request may set for SoftThinking and its noisy variants (SPEC section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from led_sglang.params.values import (
    LARGEST,
    ParameterError,
    Parser,
    boolean,
    integer,
    number,
    parse_group,
)

if TYPE_CHECKING:
    from led_sglang.settings import ServerSettings

# Width of the table of soft inputs: every decode step gathers as many embeddings per request.
MAX_TOPK = 32

_KEYS = ("max_topk", "entropy_threshold", "length_threshold", "trace")
# Of each method, the key that sets the strength of its noise.
NOISE_KEYS: dict[str, str | None] = {
    "soft-thinking": None,
    "soft-thinking-gumbel": "gumbel_temperature",
    "soft-thinking-dirichlet": "alpha",
}
SOFT_SAMPLERS = tuple(NOISE_KEYS)


@dataclass(frozen=True, slots=True)
class SoftThinkingParams:
    """One request's settings; the defaults are the papers'.

    Attributes:
        noise: the method's name, which says what noise is put on the weights.
        max_topk: embeddings mixed at most.
        max_topk_given: whether the request named it.
        entropy_threshold: nats; below it a step counts towards the cold stop. 0: no cold stop.
        length_threshold: consecutive steps that force the end of thinking.
        gumbel_temperature: of the softmax over noisy log-weights.
        alpha: concentration of the Dirichlet noise.
        trace: weights and entropy of every token in the answer's metadata.
    """

    noise: str
    max_topk: int = 10
    max_topk_given: bool = False
    entropy_threshold: float = 0.01
    length_threshold: int = 256
    gumbel_temperature: float = 0.5
    alpha: float = 4.0
    trace: bool = False

    @property
    def reads_prompt(self) -> bool:
        """Whether the prompt's ids decide the phase of the first token."""
        return True

    @property
    def noise_value(self) -> float:
        """Strength of the noise; 1 where there is none."""
        key = NOISE_KEYS[self.noise]
        return 1.0 if key is None else float(getattr(self, key))


_PARSERS: dict[str, Parser] = {
    "max_topk": integer(1, MAX_TOPK),
    "entropy_threshold": number(0.0, LARGEST, "a finite number of nats >= 0"),
    "length_threshold": integer(0, 2**31 - 1),
    "gumbel_temperature": number(0.0, 1e6, "a number in (0, 1e6]", low_open=True),
    "alpha": number(0.0, 1e6, "a number in (0, 1e6]", low_open=True),
    "trace": boolean,
}


def soft_keys(sampler: str) -> tuple[str, ...]:
    """The keys of a method's group."""
    noise = NOISE_KEYS[sampler]
    return (*_KEYS, noise) if noise is not None else _KEYS


def parse_soft(
    sampler: str, group: Mapping[str, Any], settings: ServerSettings
) -> SoftThinkingParams:
    """The group of a soft method.

    Raises:
        ParameterError: unknown key, wrong type or value out of range; the message names the key
            and what is allowed.
    """
    given = parse_group(sampler, group, {key: _PARSERS[key] for key in soft_keys(sampler)})
    return SoftThinkingParams(sampler, **given, max_topk_given="max_topk" in given)


def check_filters(params: SoftThinkingParams, top_k: int) -> None:
    """Check a request's soft settings against its own filters.

    Args:
        top_k: the request's `top_k`; temperature 0 counts as 1.

    Raises:
        ParameterError: `max_topk` is larger: those weights would always be 0.
    """
    if params.max_topk_given and 0 < top_k < params.max_topk:
        raise ParameterError(
            f"custom_params.{params.noise}.max_topk must be at most the request's top_k, which is "
            f"{top_k} (temperature 0 counts as top_k 1), got {params.max_topk}"
        )
