"""SGLang's launcher as `led-sglang serve` calls it, where nothing may fail in silence."""

from __future__ import annotations

import os
from collections.abc import Sequence

from led_sglang.patches import check_symbols, hooks
from led_sglang.patches.touched import LAUNCH

from led_sglang.settings import LaunchRefused


def launch(argv: Sequence[str]) -> None:
    """Start a server and block until it ends.

    Args:
        argv: flags of `sglang serve` and of LED.

    Raises:
        LaunchRefused: SGLang has changed, or its plugin loader left LED out.
    """
    # Before SGLang's plugin loader, which would swallow what this raises.
    check_symbols()
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils.common import kill_process_tree

    load_plugins()
    _refuse_if_left_out()
    try:
        run_server(prepare_server_args(list(argv)))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def _refuse_if_left_out() -> None:
    """Without its launch hooks LED's flags would not exist and the server would decode plainly."""
    if hooks.all_applied(LAUNCH):
        return
    settings = {name: os.environ.get(name, "") for name in ("SGLANG_PLUGINS", "SGLANG_PLATFORM")}
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    raise LaunchRefused(
        f"SGLang did not load the plugin `led` ({shown}): list led in SGLANG_PLUGINS or unset it, "
        "and leave SGLANG_PLATFORM unset, because SGLang skips the plugins of every package with "
        "a platform that is not the chosen one"
    )
