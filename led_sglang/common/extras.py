"""Packages that only some commands need: imported when used, with one clear message if missing."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from led_sglang.common.terminal import CommandError


class MissingExtra(CommandError):
    """Packages of an extra are not installed; one sentence that says how to get them."""


def missing_extra(modules: Sequence[str], extra: str) -> MissingExtra:
    """The error for `modules`, which come with the extra `extra`.

    No index carries the package, so the way out is a checkout or the address of its repository.
    """
    return MissingExtra(
        f"{', '.join(modules)} {'is' if len(modules) == 1 else 'are'} not installed: "
        f"pip install '.[{extra}]' in a checkout of led-sglang, or "
        f"pip install 'led-sglang[{extra}] @ git+URL' with the URL of its repository"
    )


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
        raise missing_extra([error.name], "analysis") from None
