"""The models that come with the package: their folders, checked file by file before use."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

from led_sglang.settings import LaunchRefused

DEFAULT = "tiny-reasoner"
CHECKSUMS = "SHA256SUMS"
# A problem of the kind that the bundled models were trained on.
EXAMPLE = "Visit every room once. Doors: 1-3 3-6 3-5 2-6 1-7 2-4 4-6 1-6 4-5 Start: 6"


def bundled_model(name: str = DEFAULT) -> Path:
    """The folder of a bundled model, every file of it compared with its checksum.

    Args:
        name: "tiny-reasoner", or "tiny-reasoner-sft", the same model before reinforcement learning.

    Raises:
        LaunchRefused: a file is missing or damaged; the message has its name and both checksums.
    """
    folder = Path(str(resources.files("led_sglang"))) / "models" / name
    check_files(folder)
    return folder


def check_files(folder: Path) -> None:
    """Compare the files of a folder with its SHA256SUMS.

    Raises:
        LaunchRefused: see `bundled_model`.
    """
    way_out = "install led-sglang again, or name a model with --model-path"
    sums = folder / CHECKSUMS
    if not sums.is_file():
        raise LaunchRefused(f"the bundled model has no {sums}: {way_out}")
    for line in sums.read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file():
            raise LaunchRefused(f"the bundled model's file {file} is missing: {way_out}")
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != expected:
            raise LaunchRefused(
                f"the bundled model's file {file} is damaged: its SHA-256 is {found}, "
                f"not {expected}: {way_out}"
            )


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS over all files of a folder, in the format of the `sha256sum` command."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != CHECKSUMS)
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
