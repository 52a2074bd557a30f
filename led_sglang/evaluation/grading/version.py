"""Which rules graded a sample: verdicts of different ones are not compared."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from led_sglang._version import __version__


@cache
def grader_version() -> str:
    """Names the graders' own code, by a digest of it, and the version of Math-Verify."""
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        code.update(file.read_bytes())
    digest = code.hexdigest()[:8]
    return f"led-sglang {__version__} ({digest}), math-verify {version('math-verify')}"
