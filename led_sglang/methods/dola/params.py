"""What a request may set for DoLa (docs/method.md#dola)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from led_sglang.methods.parameter import parameter
from led_sglang.methods.values import ParameterError, choice, number, show
from led_sglang.settings import ServerSettings

BUCKETS = ("low", "high")
DIVERGENCES = ("hf", "jensen-shannon")
DEFAULT_LAYERS = "low"
# Hugging Face's: deeper models take candidates from their first or last 20 layers alone.
_DEEP = 40
_DEEP_SPAN = 20


def bucket(name: str, num_layers: int, tied: bool) -> tuple[int, ...]:
    """Hugging Face's candidate layers `low` or `high`; may be empty for tiny models.

    Args:
        name: "low" or "high".
        num_layers: N, the decoder's layers.
        tied: whether the LM head shares the embedding: h^0 and h^1 then say little but the input.
    """
    deep = num_layers > _DEEP
    if name == "high":
        return tuple(range(num_layers - _DEEP_SPAN if deep else num_layers // 2, num_layers, 2))
    start = min(2, num_layers - 1) if tied else 0
    return tuple(range(start, _DEEP_SPAN if deep else num_layers // 2, 2))


def parse_layer_list(text: str) -> tuple[int, ...] | None:
    """ "0,2,5" as (0, 2, 5); None where it is no such list."""
    parts = [part.strip() for part in text.split(",")]
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None


def _layers(key: str, value: Any, settings: ServerSettings) -> tuple[int, ...]:
    captured, layers = settings.dola_layers, value
    buckets = {
        name: bucket(name, settings.num_layers, settings.tied_embeddings) for name in BUCKETS
    }
    if isinstance(value, str):
        layers = buckets[value] if value in buckets else parse_layer_list(value)
    good = (
        isinstance(layers, (list, tuple))
        and len(layers) > 0
        and all(type(layer) is int and layer in captured for layer in layers)
    )
    if not good:
        # A small model with tied embeddings has no low ones.
        whole = [f'"{name}"' for name, own in buckets.items() if own and {*own} <= {*captured}]
        raise ParameterError(
            f"{key} must be {', '.join(whole)}{' or ' if whole else ''}a list of layers among "
            f"{', '.join(map(str, captured))} (what this server captures; --dola-layers changes "
            f"it), got {show(value)}"
        )
    return tuple(sorted(set(layers)))


@dataclass(frozen=True, slots=True)
class DolaParams:
    """One request's DoLa settings; `layers` are streams h^j, ascending, 0 the embeddings."""

    layers: tuple[int, ...] = parameter(
        DEFAULT_LAYERS,
        _layers,
        values='`low`, `high`, or a list: `[0, 2, 5]` or `"0,2,5"`',
        meaning="the candidate layers",
    )
    relative_top: float = parameter(
        0.1,
        number(0.0, 1.0, "a number in (0, 1]", low_open=True),
        values="(0, 1]",
        meaning="tokens less likely than this share of the likeliest one are out",
    )
    divergence: str = parameter(
        "hf",
        choice(DIVERGENCES),
        values="`hf`, `jensen-shannon`",
        meaning="what picks the layer: Hugging Face's formula, or the true divergence",
    )
