"""Latent Exploration Decoding (LED, arXiv 2602.01698) for a stock SGLang server."""

from __future__ import annotations

from led_sglang._version import __version__

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
