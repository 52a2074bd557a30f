"""What a launch says about itself before it serves."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from led_sglang.common.versions import versions
from led_sglang.methods.soft_thinking.params import MAX_TOPK, uses_soft
from led_sglang.presets import Preset
from led_sglang.settings import ServerSettings


def banner(
    settings: ServerSettings, preset: Preset, notices: Sequence[str], hooks: tuple[int, int]
) -> str:
    """The start banner.

    Args:
        preset: the settings started from it.
        notices: one line each.
        hooks: applied, declared.
    """
    sampling = ", ".join(f"{key} {value}" for key, value in preset.sampling.items())
    lines = [
        versions(),
        f"hooks       {hooks[0]}/{hooks[1]} applied",
        f"sampler     {settings.sampler} by default; a request may choose "
        + ", ".join(settings.enabled),
    ]
    if settings.dola_layers:
        lines.append("dola        " + ", ".join(f"h^{layer}" for layer in settings.dola_layers))
    if uses_soft(settings.enabled):
        lines.append(f"soft input  {MAX_TOPK} embeddings per row and decode step")
    if settings.uses_led or uses_soft(settings.enabled):
        lines.append(f"think phase {_think_phase(settings)}")
    if settings.uses_led:
        lines += [
            f"preset      {preset.name} (recommended sampling: {sampling or 'none published'})",
            f"led         depth {settings.depth}, candidates {settings.candidates}, "
            f"layers {settings.layers}",
            f"captured    {_captured(settings)}",
        ]
    lines += [f"note        {notice}" for notice in notices]
    width = max(len(line) for line in lines)
    rule = "-" * min(width, 100)
    return "\n".join([rule, *lines, rule])


def _captured(settings: ServerSettings) -> str:
    if not settings.latent_layers:
        return "no layer (depth 1)"
    last, first = settings.latent_layers[0], settings.latent_layers[-1]
    captured = f"h^{first} .. h^{last} of {settings.num_layers} layers"
    if settings.stage_start:
        captured += f", on the last pipeline stage, which begins at layer {settings.stage_start}"
    return captured


def _think_phase(settings: ServerSettings) -> str:
    if not settings.has_delimiters:
        return "off: every token may explore (--led-think-only false)"
    span = (
        f"from {settings.think_start!r} {list(settings.think_start_ids)} "
        f"to {settings.think_end!r} {list(settings.think_end_ids)}"
    )
    if settings.tool_start_ids:
        span += f" or a tool call, {settings.tool_start!r} {list(settings.tool_start_ids)}"
    return span


def print_banner(
    settings: ServerSettings, preset: Preset, notices: Sequence[str], hooks: tuple[int, int]
) -> None:
    """Print the banner to standard error, where SGLang's own log goes."""
    print(banner(settings, preset, notices, hooks), file=sys.stderr, flush=True)


def print_note(notice: str) -> None:
    """Print what is known only once the model is loaded, as the banner shows it."""
    print(f"note        {notice}", file=sys.stderr, flush=True)
