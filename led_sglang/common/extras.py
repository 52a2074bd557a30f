"""Packages that only some commands need: imported when used, with one clear message if missing."""

from __future__ import annotations

import importlib.util
from typing import Any

from led_sglang.common.terminal import CommandError


class MissingExtra(CommandError):
    """Packages of an extra are not installed; one sentence that says how to get them."""


def require(extra: str, *modules: str) -> None:
    """Make sure that modules which come with an extra are installed.

    Raises:
        MissingExtra: they are not; the message says how to get them.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        # No index carries the package: the way out is a checkout or its repository's address.
        raise MissingExtra(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install '.[{extra}]' in a checkout of led-sglang, or "
            f"pip install 'led-sglang[{extra}] @ git+URL' with the URL of its repository"
        )


def need(module: str) -> Any:
    """A module of the extra `analysis`; a MissingExtra where it is not installed."""
    require("analysis", module)
    return importlib.import_module(module)
