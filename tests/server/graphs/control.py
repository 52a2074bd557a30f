"""What a graph server does, as a file says that the test writes: eager, graphs, or graphs at fault.

The file holds one name: `EAGER`, `GRAPHS`, or that of a fault (faults.py). A server reads it before
each forward, so that one server gives the answers that are compared.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = "LED_TEST_GRAPHS"
EAGER, GRAPHS = "eager", "graphs"


def mode() -> str:
    """What the server is to do now."""
    return (_folder() / "mode").read_text()


def set_mode(folder: Path, name: str) -> None:
    new = folder / "mode.new"
    new.write_text(name)
    new.rename(folder / "mode")


def log(line: dict[str, Any]) -> None:
    """Note what a process of the server did."""
    with (_folder() / f"log-{os.getpid()}.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """What all processes of a server have noted."""
    files = sorted(folder.glob("log-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _folder() -> Path:
    return Path(os.environ[FOLDER])
