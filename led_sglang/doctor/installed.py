"""`led-sglang doctor`: is the installed SGLang one LED can run on?"""

from __future__ import annotations

from led_sglang.common.terminal import FAILED


def examine_installation() -> int:
    """Print every SGLang symbol LED touches and whether it is as expected.

    Returns:
        The exit status: 0, or 2 where one is not.
    """
    from led_sglang.common.versions import versions
    from led_sglang.patches.touched import TOUCHED, problem

    print(versions())
    failures = 0
    for symbol in TOUCHED:
        what = problem(symbol)
        failures += what is not None
        print(f"{'ok  ' if what is None else 'FAIL'} {symbol.path.removeprefix('sglang.srt.')}")
        print(f"       {symbol.why}" + (f": {what}" if what else ""))
    print(f"{len(TOUCHED) - failures}/{len(TOUCHED)} symbols as expected")
    return FAILED if failures else 0
