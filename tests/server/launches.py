"""Launches that must end before they serve, tried in forks of one process with SGLang imported."""

from __future__ import annotations

import os
import pkgutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preloaded import Forked, redirect

from led_sglang.common.server_process import free_port


def refused_launch(
    *flags: str,
    rename: str | None = None,
    command: str = "led-sglang",
    env: dict[str, str] | None = None,
) -> tuple[int | None, str]:
    """Exit status and output of a launch; a fork is some ten times quicker than a fresh process.

    Args:
        flags: of the launch.
        rename: dotted path of an SGLang symbol that this launch finds under another name.
        command: "led-sglang", or "sglang" for SGLang's own launcher.
        env: further environment variables.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        flags = (*flags, "--port", str(free_port()))
        environment = dict(os.environ) | {"SGLANG_PLATFORM": "led_cpu"} | (env or {})
        process = Forked(_launch, flags, rename, command, environment, str(log))
        if process.wait(120) is None:
            process.kill()
            process.wait()
            raise AssertionError(f"the launch did not end:\n{log.read_text()[-3000:]}")
        return process.returncode, log.read_text(errors="replace")


def _launch(
    flags: tuple[str, ...], rename: str | None, command: str, env: dict[str, str], log: str
) -> None:
    redirect(log, env)
    if rename is not None:
        _rename(rename)
    launch: Callable[[], Any]
    if command == "led-sglang":
        from led_sglang.serving.command import serve

        def launch() -> int:
            return serve(list(flags))
    else:
        sys.argv = ["sglang", "serve", *flags]
        from sglang.cli.main import main as launch
    try:
        status = launch() or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(status)


def _rename(path: str) -> None:
    owner_path, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(owner_path)
    # Where the class only inherits it, the base is what would have to change.
    holder = next(c for c in getattr(owner, "__mro__", (owner,)) if name in vars(c))
    setattr(holder, f"renamed_{name}", vars(holder)[name])
    delattr(holder, name)
