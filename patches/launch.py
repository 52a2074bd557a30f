"""SGLang's launcher as `led-sglang serve` calls it, where nothing may fail in silence."""

from __future__ import annotations

import argparse
import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from led_sglang.common.terminal import FAILED, uninterrupted
from led_sglang.patches import check_symbols, hooks
from led_sglang.patches.ending import ctrl_c_ends_requests
from led_sglang.patches.refusal import CONFIG_ERRORS, REFUSED_STATUS, unreadable_checkpoint
from led_sglang.patches.touched import LAUNCH
from led_sglang.settings import LaunchRefused

_TERMINATED = 128 + signal.SIGTERM


def launch(argv: Sequence[str]) -> None:
    """Start a server and block until it ends; no process of it is left behind then.

    Args:
        argv: flags of `sglang serve` and of LED.

    Raises:
        LaunchRefused: SGLang has changed, or its plugin loader left LED out.
        SystemExit: a rank has refused, with a sentence.
        KeyboardInterrupt: Ctrl-C, while it started or while it served.
    """
    # Before SGLang's plugin loader, which would swallow what this raises.
    check_symbols()
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs, prepare_server_args
    from sglang.srt.utils.common import kill_process_tree
    from sglang.srt.utils.watchdog import SubprocessWatchdog

    load_plugins()
    _refuse_if_left_out()
    # While it starts; SGLang installs its own once it serves.
    signal.signal(signal.SIGTERM, _end)
    try:
        with _replaced(BaseProcess, "start", _start_deaf), ctrl_c_ends_requests():
            with _replaced(argparse.ArgumentParser, "print_usage", _print_nothing):
                server_args = prepare_server_args(list(argv))
            resolve, check = map(_refusing, (ServerArgs.resolve_once, ServerArgs.check_server_args))
            with (
                _replaced(ServerArgs, "resolve_once", resolve),
                _replaced(ServerArgs, "check_server_args", check),
                _without_traceback(),
            ):
                run_server(server_args)
    finally:
        with uninterrupted():
            # To SGLang's watchdog a process that ends is a crash: it would end this one by SIGQUIT.
            SubprocessWatchdog._check_processes = lambda self: True
            kill_process_tree(os.getpid(), include_parent=False)


def _end(*_: Any) -> None:
    raise SystemExit(_TERMINATED)


@contextmanager
def _replaced(owner: type, name: str, replacement: Any) -> Iterator[None]:
    """Give a class another method for a while."""
    method = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, method)


def _refusing(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A check of SGLang's whose errors, which name a flag, need no traceback."""

    @functools.wraps(method)
    def call(self: Any) -> Any:
        try:
            return method(self)
        except (AssertionError, ValueError) as error:
            raise LaunchRefused(str(error) or repr(error)) from error
        except CONFIG_ERRORS as error:
            raise unreadable_checkpoint(error) from None

    return call


@contextmanager
def _without_traceback() -> Iterator[None]:
    """Where a rank has ended with a sentence, SGLang's account of its death adds nothing."""
    try:
        yield
    except RuntimeError as error:
        if f"died during initialization (exit code: {REFUSED_STATUS})" not in str(error):
            raise
        raise SystemExit(FAILED) from None


_start = BaseProcess.start


def _start_deaf(self: BaseProcess) -> None:
    """Ctrl-C reaches every process of a terminal: only the launching one shall act on it.

    It ends the others, which would each print a traceback. A process that starts while SIGINT is
    ignored goes on ignoring it.
    """
    with uninterrupted():
        _start(self)


def _print_nothing(self: argparse.ArgumentParser, file: Any = None) -> None:
    """In place of SGLang's usage, which is 490 lines: nobody finds the error behind them."""


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
