"""Packages that only some commands need: imported when used, with one clear message if missing."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtra(RuntimeError):
    """A package of the extra `analysis` is not installed."""


def need(module: str) -> Any:
    """Import a module of the extra `analysis`.

    Raises:
        MissingExtra: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # something inside it is broken
            raise
        raise MissingExtra(
            f"{error.name} is not installed: pip install 'led-sglang[analysis]'"
        ) from None
