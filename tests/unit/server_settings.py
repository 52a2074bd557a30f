"""Settings of a server of twelve layers that offers every method."""

from __future__ import annotations

from led_sglang.launch_layers import latent_layers, resolve_dola_layers
from led_sglang.methods.registry import sampler_names
from led_sglang.settings import ServerSettings

LAYERS = 12
SETTINGS = ServerSettings(
    sampler="led",
    enabled=sampler_names(),
    depth=4,
    candidates=8,
    layers="paper",
    think_only=True,
    architecture="Qwen3ForCausalLM",
    num_layers=LAYERS,
    latent_layers=latent_layers(LAYERS, 4),
    dola_layers=resolve_dola_layers(None, LAYERS, tied=True),
    tied_embeddings=True,
    preset="default",
    think_start="<think>",
    think_end="</think>",
    think_start_ids=(1,),
    think_end_ids=(2,),
    boundary_ids=(),
)
