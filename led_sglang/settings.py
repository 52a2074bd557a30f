"""The server's settings: what was asked for at launch, resolved once, carried to every process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields

from led_sglang.params import (
    BUCKETS,
    LAYERS,
    MAX_CANDIDATES,
    SAMPLERS,
    SOFT_SAMPLERS,
    LedParams,
    bucket,
    parse_layer_list,
)

# Launches without a command line (`sgl.Engine`) read the same options from here, as JSON.
ENVIRONMENT_VARIABLE = "LED_SGLANG"


class LaunchRefused(ValueError):
    """LED cannot run as asked; one sentence that names the cause and the way out."""


@dataclass(frozen=True)
class LaunchOptions:
    """What the user typed; None is "not given". Field names are the flags' (`--led-depth`)."""

    sampler: str | None = None
    enable_samplers: str | None = None
    led_depth: int | None = None
    led_candidates: int | None = None
    led_layers: str | None = None
    led_think_only: str | None = None
    led_think_start: str | None = None
    led_think_end: str | None = None
    dola_layers: str | None = None

    @classmethod
    def from_environment(cls) -> LaunchOptions:
        """Options of the environment variable LED_SGLANG.

        Raises:
            LaunchRefused: not a JSON object, or an unknown option.
        """
        text = os.environ.get(ENVIRONMENT_VARIABLE, "")
        if not text.strip():
            return cls()
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise LaunchRefused(
                f"the environment variable {ENVIRONMENT_VARIABLE} is not JSON ({error})"
            ) from None
        names = [field.name for field in fields(cls)]
        if not isinstance(given, dict) or not set(given) <= set(names):
            raise LaunchRefused(
                f"the environment variable {ENVIRONMENT_VARIABLE} must be a JSON object with keys "
                f"out of {', '.join(names)}"
            )
        return cls(**given)

    def over(self, weaker: LaunchOptions) -> LaunchOptions:
        """These options, filled up with `weaker` where nothing was given."""
        merged = {
            name: value if value is not None else getattr(weaker, name)
            for name, value in asdict(self).items()
        }
        return LaunchOptions(**merged)

    def resolve_samplers(self) -> tuple[str, tuple[str, ...]]:
        """Default sampler and everything a request may choose (`regular` always).

        Raises:
            LaunchRefused: a name that is no sampler.
        """
        sampler = self.sampler or "led"
        listed = [name.strip() for name in (self.enable_samplers or "").split(",") if name.strip()]
        for flag, name in [("--sampler", sampler), *(("--enable-samplers", n) for n in listed)]:
            if name not in SAMPLERS:
                raise LaunchRefused(f"{flag} {name!r} is not one of {', '.join(SAMPLERS)}")
        return sampler, tuple(dict.fromkeys([sampler, *listed, "regular"]))

    def parse_think_only(self) -> bool:
        """`--led-think-only`, default true.

        Raises:
            LaunchRefused: neither true nor false.
        """
        text = str(self.led_think_only if self.led_think_only is not None else "true").lower()
        if text not in ("true", "false"):
            raise LaunchRefused(f"--led-think-only must be true or false, got {text!r}")
        return text == "true"


@dataclass(frozen=True)
class ServerSettings:
    """Everything the serving processes need to know, resolved in the launching process.

    `latent_layers` lists the residual streams h^l that LED reads, nearest the final layer first
    (h^{L-1}, h^{L-2}, ...), `dola_layers` those DoLa may contrast with, ascending. Delimiters are
    token ids.
    """

    sampler: str
    enabled: tuple[str, ...]
    depth: int
    candidates: int
    layers: str
    think_only: bool
    architecture: str
    num_layers: int
    latent_layers: tuple[int, ...]
    dola_layers: tuple[int, ...]
    tied_embeddings: bool
    preset: str
    think_start: str
    think_end: str
    think_start_ids: tuple[int, ...]
    think_end_ids: tuple[int, ...]
    boundary_ids: tuple[int, ...]

    @property
    def has_delimiters(self) -> bool:
        return bool(self.think_start_ids)

    @property
    def uses_led(self) -> bool:
        return "led" in self.enabled

    @property
    def uses_soft(self) -> bool:
        """Whether a soft method is enabled: only then does the model read mixtures."""
        return bool(set(SOFT_SAMPLERS) & set(self.enabled))

    @property
    def captured(self) -> tuple[int, ...]:
        """All residual streams h^l that the model hands out with the logits, by l, ascending."""
        return tuple(sorted({*self.latent_layers, *self.dola_layers}))

    def max_depth(self, layers: str) -> int:
        """Largest depth a request may ask for; `release` skips h^{L-1}, so d needs d latents."""
        latents = len(self.latent_layers)
        return min(self.depth, latents + 1 if layers == "paper" else max(latents, 1))

    def led_defaults(self) -> LedParams:
        return LedParams(
            depth=self.depth,
            candidates=self.candidates,
            layers=self.layers,
            think_only=self.think_only,
        )


def latent_layers(num_layers: int, depth: int) -> tuple[int, ...]:
    """The l of h^l that LED needs so that both `paper` and `release` reach depth d.

    `paper` wants h^{L-1}..h^{L-d+1}, `release` h^{L-2}..h^{L-d} (SPEC section 2): together the d
    streams below the final one, as far as there are layers.
    """
    if depth == 1:
        return ()
    return tuple(range(num_layers - 1, max(num_layers - depth, 1) - 1, -1))


def resolve_depth(given: int | None, preset_depth: int, num_layers: int) -> tuple[int, str | None]:
    """Captured depth, and a notice to print where the preset's had to be clamped.

    Raises:
        LaunchRefused: `--led-depth` is below 1 or above the model's layers.
    """
    if given is None:
        if preset_depth > num_layers:
            notice = f"depth {preset_depth} clamped to the model's {num_layers} layers"
            return num_layers, notice
        return preset_depth, None
    if not 1 <= given <= num_layers:
        raise LaunchRefused(
            f"--led-depth {given} is outside 1..{num_layers}, the model's number of layers"
        )
    return given, None


def resolve_candidates(given: int | None, preset_candidates: int) -> int:
    """Default number of candidates.

    Raises:
        LaunchRefused: outside 1..64.
    """
    candidates = preset_candidates if given is None else given
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise LaunchRefused(f"--led-candidates {candidates} is outside 1..{MAX_CANDIDATES}")
    return candidates


def resolve_layers(given: str | None) -> str:
    """Default of the request parameter `layers`.

    Raises:
        LaunchRefused: not one of the two presets.
    """
    layers = given or "paper"
    if layers not in LAYERS:
        raise LaunchRefused(f"--led-layers {layers!r} is not one of {', '.join(LAYERS)}")
    return layers


def resolve_dola_layers(given: str | None, num_layers: int, tied: bool) -> tuple[int, ...]:
    """The residual streams that DoLa may contrast with, ascending; 0 is the embeddings.

    Args:
        given: `--dola-layers`: "low", "high" and layer numbers, separated by commas, or "all".
        num_layers: N of the model.
        tied: whether the LM head shares the embedding.

    Raises:
        LaunchRefused: anything else, or a layer outside 0..N-1.
    """
    text = given if given is not None else "low,high"
    if text == "all":
        return tuple(range(num_layers))
    layers: set[int] = set()
    for part in (part.strip() for part in text.split(",")):
        chosen = bucket(part, num_layers, tied) if part in BUCKETS else parse_layer_list(part)
        if chosen is None or not all(0 <= layer < num_layers for layer in chosen):
            raise LaunchRefused(
                f'--dola-layers {text!r}: {part!r} is not "low", "high", "all" or a layer in '
                f"0..{num_layers - 1}"
            )
        layers.update(chosen)
    return tuple(sorted(layers))
