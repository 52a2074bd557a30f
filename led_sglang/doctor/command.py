"""`led-sglang doctor`: what is looked at, and with which flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from led_sglang.common.flags import Parser


def doctor(argv: Sequence[str]) -> int:
    """Run the command on the arguments after `doctor`.

    Returns:
        The exit status: 0, or 2 where something is not in order.
    """
    _parser().parse_args(argv)
    from led_sglang.doctor.installed import examine_installation

    return examine_installation()


def _parser() -> argparse.ArgumentParser:
    return Parser(
        prog="led-sglang doctor",
        description="List every symbol of SGLang that LED touches, and whether the installed one "
        "fits; status 2 where one does not.",
    )
