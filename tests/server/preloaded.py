"""Processes that find SGLang imported already, forked from one that did it once.

A server is three processes, and each takes some 10 s of processor time to import SGLang, and its
scheduler 5 s more for the classes of all models. Servers of the tests are forked instead, and fork
their own workers where SGLang would start new interpreters. `sglang serve`, `sgl.Engine`,
`led-sglang eval --launch` and the README's commands are tested in interpreters of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "sglang.launch_server",
        "sglang.srt.managers.scheduler",
        "sglang.srt.managers.detokenizer_manager",
        "sglang.srt.models.registry",
        # What a start would import later, each time.
        "sglang.srt.entrypoints.http_server",
        "sglang.srt.layers.attention.linear.gdn_backend",
        "sglang.srt.dllm.algorithm",
        "numba",
        "xgrammar",
        "transformers.models.qwen3",
        "led_sglang.cli",
        "preloaded",
        "launches",
        "frozen_imports",
    ]
)


class Forked:
    """A forked process, with what of `subprocess.Popen` the tests use."""

    def __init__(self, target: Callable[..., Any], *args: Any) -> None:
        # Read where the modules are imported, in the process that all others are forked from.
        imported_with = {"SGLANG_PLATFORM": "led_cpu", "OMP_NUM_THREADS": "1"}
        before = {name: os.environ.get(name) for name in imported_with}
        os.environ.update(imported_with)
        try:
            self._process = _context.Process(target=target, args=args)
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def redirect(log: Path | str, env: Mapping[str, str]) -> None:
    """Give this process an environment of its own and a file for all it prints."""
    os.environ.clear()
    os.environ.update(env)
    # Uvicorn's workers take over standard input by its number.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)


def run_module(
    module: str, arguments: Sequence[str], log: Path | str, env: Mapping[str, str]
) -> None:
    """`python -m module arguments`, its worker processes forked; the target of a `Forked`."""
    import torch.multiprocessing

    os.setsid()
    redirect(log, env)
    # It picks how values are kept when it is imported, by an environment variable that SGLang sets.
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        del sys.modules[name]
    # Only a new interpreter would read it.
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    multiprocessing.set_start_method("fork", force=True)
    for methods in (multiprocessing, torch.multiprocessing):
        methods.set_start_method = lambda *_args, **_kwargs: None
    _look_at_once()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _look_at_once() -> None:
    """SGLang sleeps a second before each look at whether its own HTTP server answers."""
    from sglang.srt.entrypoints import http_server

    first = iter([0.05] * 20)
    hasty: Any = SimpleNamespace(**vars(time))
    hasty.sleep = lambda seconds: time.sleep(min(seconds, next(first, seconds)))
    http_server.time = hasty
