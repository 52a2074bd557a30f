"""Versions of this package and of what it stands on."""

from __future__ import annotations

import importlib.metadata

from led_sglang._version import __version__

_SHOWN = ("sglang", "torch", "transformers")


def versions(names: tuple[str, ...] = _SHOWN) -> str:
    """Versions of this package and of others by name, on one line."""
    parts = [f"led-sglang {__version__}"]
    for name in names:
        try:
            parts.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{name} not installed")
    return ", ".join(parts)
