"""What a request may set for DoLa (SPEC section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from led_sglang.params.values import ParameterError, Parser, choice, number, parse_group, show

if TYPE_CHECKING:
    from led_sglang.settings import ServerSettings

BUCKETS = ("low", "high")
DIVERGENCES = ("hf", "jensen-shannon")
DOLA_KEYS = ("layers", "relative_top", "divergence")
DEFAULT_LAYERS = "low"
# Hugging Face's: deeper models take candidates from their first or last 20 layers alone.
_DEEP = 40
_DEEP_SPAN = 20


@dataclass(frozen=True, slots=True)
class DolaParams:
    """One request's DoLa settings.

    Attributes:
        layers: candidate premature layers j, ascending: residual streams h^j, 0 the embeddings.
        relative_top: tokens less likely than this share of the likeliest one are out.
        divergence: "hf" (Hugging Face's formula) or "jensen-shannon", which picks the layer.
    """

    layers: tuple[int, ...]
    relative_top: float = 0.1
    divergence: str = "hf"

    @property
    def reads_prompt(self) -> bool:
        """Whether the prompt's ids decide the phase of the first token."""
        return False


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


def parse_dola(group: Mapping[str, Any], settings: ServerSettings) -> DolaParams:
    """The `dola` group of a request.

    Raises:
        ParameterError: unknown key, wrong type, value out of range, or a layer that the server
            does not capture; the message names the key and what is allowed.
    """
    parsers: dict[str, Parser] = {
        "layers": _layers(settings),
        "relative_top": number(0.0, 1.0, "a number in (0, 1]", low_open=True),
        "divergence": choice(DIVERGENCES),
    }
    return DolaParams(**parse_group("dola", {"layers": DEFAULT_LAYERS, **group}, parsers))


def _layers(settings: ServerSettings) -> Parser:
    captured = settings.dola_layers
    allowed = (
        '"low", "high" or a list of layers among '
        + ", ".join(map(str, captured))
        + " (what this server captures; --dola-layers changes it)"
    )

    def parse(key: str, value: Any) -> tuple[int, ...]:
        layers: Any = value
        if isinstance(value, str):
            named = value in BUCKETS
            layers = (
                bucket(value, settings.num_layers, settings.tied_embeddings)
                if named
                else parse_layer_list(value)
            )
        good = (
            isinstance(layers, (list, tuple))
            and len(layers) > 0
            and all(type(layer) is int and layer in captured for layer in layers)
        )
        if not good:
            raise ParameterError(f"{key} must be {allowed}, got {show(value)}")
        return tuple(sorted(set(layers)))

    return parse
