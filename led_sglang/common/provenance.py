"""Where results come from: the command, the code's commit, the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

# Of SGLang: --api-key, --admin-api-key, --ssl-keyfile-password, and their like.
_SECRET = re.compile(r"(--[\w-]*(?:api-key|password|secret)[\w-]*[ =])(?:'[^']*'|[^\s']+)")


def command_line(argv: Sequence[str]) -> str:
    """A command as a shell takes it, without the values of keys and passwords."""
    return _SECRET.sub(r"\1...", shlex.join(argv))


def commit() -> str | None:
    """The git commit of this package's code; None where it came without one."""
    with_url = importlib.metadata.distribution("led-sglang").read_text("direct_url.json")
    found = json.loads(with_url or "{}").get("vcs_info", {}).get("commit_id")
    if found:
        return str(found)[:12]
    # A checkout has this file in its repository; an environment within another one does not.
    tracked = _git("ls-files", Path(__file__).name)
    return (
        _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") if tracked else None
    )


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache  # a large machine's /proc/cpuinfo takes a while, and servers are asked often
def processor() -> str:
    """The machine's processor, such as `16-core x86_64 CPU (AMD EPYC 9654)`."""
    return f"{os.cpu_count()}-core {platform.machine()} CPU ({_processor_name()})"


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")
