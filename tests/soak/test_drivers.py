"""The soak and the fuzzer, small: the runs of docs/reliability.md are the same commands, larger."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parent


def run(*command: str) -> str:
    """What a driver prints; a process of its own, because the soak's switches act at import."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_soak() -> None:
    printed = run(str(SOAK), "--requests", "150", "--concurrency", "24", "--pool", "21")
    counts = dict(re.findall(r"^(\w[\w ]*\w) +(\d+)$", printed, re.MULTILINE))
    assert int(counts["retractions"]) > 0
    assert int(counts["regular compared"]) > 20
    assert int(counts["seeded compared"]) > 30
    assert "FAILED" not in printed


def test_fuzz() -> None:
    printed = run(str(SOAK / "fuzz.py"), "--bodies", "120")
    bodies = re.search(r"^(\d+) bodies: \{(.*)\}$", printed, re.MULTILINE)
    assert bodies is not None
    assert int(bodies[1]) >= 120
    statuses = re.findall(r"(\d+): \d+", bodies[2])
    assert set(statuses) == {"200", "400"}
