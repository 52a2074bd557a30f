"""Who made an answer, held against who was asked: gateways drop what they do not know."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

# Where a server with LED says who made an answer: a key of `meta_info`, and a header.
ANSWERED_BY = "sampler"
SAMPLER_HEADER = "x-led-sampler"
_WAY_OUT = "ask the server itself, or a gateway that carries them (docs/serving.md#who-answered)"


@dataclass(frozen=True)
class Answerer:
    """What an answer says of who made it.

    Attributes:
        meta_info: of the answer; None where it has none.
        header: `x-led-sampler`; None where there is none.
        model: the answer's `model`; None where it has none.
    """

    meta_info: Mapping[str, Any] | None
    header: str | None = None
    model: str | None = None

    def complaint(
        self, sampler: str, params: Mapping[str, Any], known: Container[str]
    ) -> str | None:
        """What is wrong with the answer, None where it is of the sampler that was asked for.

        Args:
            sampler: that was asked for.
            params: its settings that were asked for, `custom_params.<sampler>`.
            known: samplers of the server, by which the end of `model` is told from other names.

        Returns:
            A sentence without its subject, the address that was asked.
        """
        reported = (self.meta_info or {}).get(ANSWERED_BY) or {}
        end = (self.model or "").rpartition(":")[2]
        made = reported.get("name") or self.header or (end if end in known else None)
        if made is None:
            return (
                "does not say which sampler made its answer, neither in meta_info nor in the "
                f"header {SAMPLER_HEADER} nor in its model: a gateway in between is likely to "
                f"strip them; {_WAY_OUT}"
            )
        if made != sampler:
            return (
                f'was asked for the sampler "{sampler}", and "{made}" answered: a gateway in '
                f"between is likely to have dropped custom_params; {_WAY_OUT}, or by the model's "
                f"name, NAME:{sampler}"
            )
        used: Mapping[str, Any] = reported.get("settings") or {}
        if params and "settings" not in reported:
            return (
                f"was asked for {sampler} with {', '.join(params)}, and does not say with which "
                "settings it answered: a gateway in between is likely to strip meta_info, and may "
                f"have dropped custom_params; {_WAY_OUT}"
            )
        for key, value in params.items():
            # A list may have been asked for by a name.
            if key in used and not isinstance(used[key], list) and used[key] != value:
                return (
                    f"was asked for {sampler} with {key} = {value}, and answered with {used[key]}: "
                    f"a gateway in between is likely to have rewritten custom_params; {_WAY_OUT}"
                )
        return None
