"""The server's settings: resolved once in the launching process, carried to every other."""

from __future__ import annotations

from dataclasses import dataclass

from led_sglang.common.samplers import SamplerSpec


class LaunchRefused(ValueError):
    """LED cannot run as asked; one sentence that names the cause and the way out."""


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
    # Empty where tool calls do not end a thought.
    tool_start: str = ""
    tool_start_ids: tuple[int, ...] = ()
    # First layer of the last pipeline stage; 0 without pipeline parallelism.
    stage_start: int = 0
    # What `output_token_logprobs` hold by default: see LED's parameter of this name.
    logprobs: str = "engine"
    # Samplers with settings that a model's name may end with, beside the samplers' own names.
    aliases: tuple[SamplerSpec, ...] = ()
    self_check: str = "on"
    truncation_check: str = "on"
    # Whether the architecture is not in the table of captures, and is tried.
    unproven: bool = False

    @property
    def has_delimiters(self) -> bool:
        return bool(self.think_start_ids)

    @property
    def uses_led(self) -> bool:
        return "led" in self.enabled

    @property
    def captured(self) -> tuple[int, ...]:
        """All residual streams h^l that the model hands out with the logits, by l, ascending."""
        return tuple(sorted({*self.latent_layers, *self.dola_layers}))

    def max_depth(self, layers: str) -> int:
        """Largest depth a request may ask for; `release` skips h^{L-1}, so d needs d latents."""
        latents = len(self.latent_layers)
        return min(self.depth, latents + 1 if layers == "paper" else max(latents, 1))
