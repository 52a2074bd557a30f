"""Which layers a launch captures: LED's by the depth asked for, DoLa's by its list."""

from __future__ import annotations

import sys

from led_sglang.methods.dola.params import BUCKETS, bucket, parse_layer_list
from led_sglang.settings import LaunchRefused

# SGLang's: the layers of each pipeline stage.
PARTITION_VARIABLE = "SGLANG_PP_LAYER_PARTITION"


def latent_layers(num_layers: int, depth: int) -> tuple[int, ...]:
    """The l of h^l that LED needs so that both `paper` and `release` reach depth d.

    `paper` wants h^{L-1}..h^{L-d+1}, `release` h^{L-2}..h^{L-d} (docs/method.md#presets): together
    the d streams below the final one, as far as there are layers.
    """
    if depth == 1:
        return ()
    return tuple(range(num_layers - 1, max(num_layers - depth, 1) - 1, -1))


def resolve_depth(
    given: int | None, preset_depth: int, num_layers: int | None, stage_start: int = 0
) -> tuple[int, str | None]:
    """Captured depth, and a notice to print where the preset's had to be clamped.

    Args:
        given: `--led-depth`; without it the preset's holds.
        num_layers: of the model; None where they are not known yet.
        stage_start: first layer of the last pipeline stage, which captures them.

    Raises:
        LaunchRefused: `--led-depth` is below 1, above the model's layers or reaches below that
            stage.
    """
    # `release` reads h^{L-d}, which enters the stage where the stage begins with that layer.
    held = None if num_layers is None else num_layers - stage_start
    if given is None:
        if held is None or preset_depth <= held:
            return preset_depth, None
        if stage_start:
            notice = (
                f"depth {preset_depth} clamped to {held}: the last pipeline stage begins at layer "
                f"{stage_start} of {num_layers} ({PARTITION_VARIABLE} moves it)"
            )
        else:
            notice = f"depth {preset_depth} clamped to the model's {num_layers} layers"
        return held, notice
    if num_layers is None:
        if given < 1:
            raise LaunchRefused(f"--led-depth {given} is below 1")
    elif not 1 <= given <= num_layers:
        raise LaunchRefused(
            f"--led-depth {given} is outside 1..{num_layers}, the model's number of layers"
        )
    elif held is not None and given > held:
        raise LaunchRefused(
            f"--led-depth {given} reaches below the last pipeline stage, which begins at layer "
            f"{stage_start} of {num_layers} and holds depths 1..{held}; choose one of them, or "
            f"give that stage more layers with {PARTITION_VARIABLE}"
        )
    return given, None


def resolve_dola_layers(given: str | None, num_layers: int | None, tied: bool) -> tuple[int, ...]:
    """The residual streams that DoLa may contrast with, ascending; 0 is the embeddings.

    Args:
        given: `--dola-layers`: "low", "high" and layer numbers, separated by commas, or "all".
        num_layers: N of the model; None where it is not known yet: any number is taken for one.
        tied: whether the LM head shares the embedding.

    Raises:
        LaunchRefused: anything else, or a layer outside 0..N-1.
    """
    text = given if given is not None else "low,high"
    bound = sys.maxsize if num_layers is None else num_layers
    if text == "all":
        return tuple(range(num_layers or 0))
    layers: set[int] = set()
    for part in (part.strip() for part in text.split(",")):
        chosen = bucket(part, bound, tied) if part in BUCKETS else parse_layer_list(part)
        if chosen is None or not all(0 <= layer < bound for layer in chosen):
            allowed = "a layer" if num_layers is None else f"a layer in 0..{num_layers - 1}"
            raise LaunchRefused(
                f'--dola-layers {text!r}: {part!r} is not "low", "high", "all" or {allowed}'
            )
        layers.update(chosen)
    return tuple(sorted(layers))


def dola_layers_of_last_stage(
    given: str | None, layers: tuple[int, ...], stage_start: int
) -> tuple[tuple[int, ...], str | None]:
    """Of the layers of `resolve_dola_layers` those on the last pipeline stage, and a notice where
    some of the default ones are not.

    Args:
        given: `--dola-layers`.
        stage_start: first layer of that stage: h^l is on it for every l from there on.

    Raises:
        LaunchRefused: a layer that was asked for is below it, or all of the default ones are.
    """
    kept = tuple(layer for layer in layers if layer >= stage_start)
    if kept == layers:
        return layers, None
    begins = f"the last pipeline stage, which begins at layer {stage_start}"
    if given is not None or not kept:
        below = ", ".join(str(layer) for layer in layers if layer < stage_start)
        raise LaunchRefused(
            f"--dola-layers {given or 'low,high'} names layers below {begins} ({below}); choose "
            f"layers from {stage_start} up, or give that stage more with {PARTITION_VARIABLE}"
        )
    shown = ", ".join(map(str, kept))
    return kept, (
        f"dola may contrast with layers {shown} alone, those on {begins} ({PARTITION_VARIABLE} "
        "moves it): a request must name some of them"
    )
