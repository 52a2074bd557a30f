"""Launches that must end before they serve, tried in forks of one process with SGLang imported."""

from __future__ import annotations

import io
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from preloaded import Forked, redirect

from led_sglang.common.server_process import free_port


def refused_launch(
    *flags: str,
    command: str = "led-sglang",
    env: dict[str, str] | None = None,
) -> tuple[int | None, str]:
    """Exit status and output of a launch; a fork is some ten times quicker than a fresh process.

    Args:
        flags: of the launch.
        command: "led-sglang", or "sglang" for SGLang's own launcher.
        env: further environment variables.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        flags = (*flags, "--port", str(free_port()))
        environment = dict(os.environ) | {"SGLANG_PLATFORM": "led_cpu"} | (env or {})
        process = _finished(Forked(_launch, flags, command, environment, str(log)), log)
        return process.returncode, log.read_text(errors="replace")


def _finished(process: Forked, log: Path) -> Forked:
    if process.wait(240) is None:
        process.kill()
        process.wait()
        raise AssertionError(f"the launch did not end:\n{log.read_text()[-3000:]}")
    return process


def renamed_launches(paths: Sequence[str], *flags: str) -> dict[str, tuple[int, str]]:
    """Exit status and words of a launch for each SGLang symbol that it finds under another name.

    One fork tries one after the other: a launch looks at the symbols before it does anything.
    """
    with tempfile.TemporaryDirectory() as folder:
        log, results = Path(folder) / "log.txt", Path(folder) / "results.json"
        flags = (*flags, "--port", str(free_port()))
        environment = dict(os.environ) | {"SGLANG_PLATFORM": "led_cpu"}
        process = Forked(_launch_renamed, paths, flags, environment, str(log), str(results))
        assert _finished(process, log).returncode == 0, log.read_text(errors="replace")[-3000:]
        return {path: (code, words) for path, code, words in json.loads(results.read_text())}


def _launch(flags: tuple[str, ...], command: str, env: dict[str, str], log: str) -> None:
    redirect(log, env)
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


def _launch_renamed(
    paths: Sequence[str], flags: tuple[str, ...], env: dict[str, str], log: str, results: str
) -> None:
    redirect(log, env)
    from led_sglang.patches.touched import TOUCHED, missing
    from led_sglang.serving import ready
    from led_sglang.serving.command import serve

    ready.announce_when_ready = lambda *_: None  # a thread of each launch would wait for its end
    found = []
    for path in paths:
        words = io.StringIO()
        with _renamed(path), redirect_stderr(words):
            found.append((path, serve(list(flags)), words.getvalue()))
        assert missing(TOUCHED) == []
    Path(results).write_text(json.dumps(found))


@contextmanager
def _renamed(path: str) -> Iterator[None]:
    owner_path, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(owner_path)
    # Where the class only inherits it, the base is what would have to change.
    holder = next(c for c in getattr(owner, "__mro__", (owner,)) if name in vars(c))
    symbol = vars(holder)[name]
    setattr(holder, f"renamed_{name}", symbol)
    delattr(holder, name)
    try:
        yield
    finally:
        delattr(holder, f"renamed_{name}")
        setattr(holder, name, symbol)
