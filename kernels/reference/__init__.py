"""Float64 oracles, slow. No code is shared with what they judge."""

from .led import LedReference, led_reference
from .posterior import latent_posteriors

__all__ = ["LedReference", "latent_posteriors", "led_reference"]
