"""Latent Exploration Decoding (LED, arXiv 2602.01698) for a stock SGLang server."""

from __future__ import annotations

from pathlib import Path

from led_sglang._version import __version__

# In a checkout `kernels`, `patches` and `configs` stand beside this folder; an installation moves
# them into it. With this the checkout works as it is, wherever Python finds it.
_checkout = Path(__file__).parents[1]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "kernels" / "step.py").is_file():
    __path__.append(str(_checkout))

__all__ = ["__version__", "register"]


def register() -> None:
    """Entry point `sglang.srt.plugins`: install LED's hooks into this process.

    Called by SGLang in every process it starts. Installing them changes nothing until a launch
    asks for the `led` sampling backend.

    Raises:
        SystemExit: LED was asked for and this SGLang lacks a symbol that LED touches.
    """
    # Imported here: `import led_sglang` must not pull in SGLang.
    from led_sglang.patches import install

    install()
