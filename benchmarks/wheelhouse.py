"""Every wheel the package needs, in parts of bounded size with a checksum list.

    python -m benchmarks.wheelhouse --python 3.12 --part-mb 60 --out build/wheelhouse

Needs the network and pip alone. `offline_setup.sh`, copied beside the parts, rebuilds and installs
them where there is none.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_SETUP = Path(__file__).parent / "offline_setup.sh"
CHECKSUMS = "SHA256SUMS"
VERSION = "PYTHON_VERSION"
_MB = 2**20
# Newest first: pip takes a wheel for any of them.
_PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in range(34, 16, -1))
_OLDER_PLATFORMS = ("manylinux2014_x86_64", "linux_x86_64")


def split(wheel: Path, out: Path, part_bytes: int) -> list[Path]:
    """Write a file's parts into `out`: itself where it fits, else `NAME.part000`, `NAME.part001`...

    Args:
        part_bytes: size of the largest part.
    """
    if wheel.stat().st_size <= part_bytes:
        return [Path(shutil.copy2(wheel, out))]
    parts = []
    with wheel.open("rb") as content:
        while chunk := content.read(part_bytes):
            part = out / f"{wheel.name}.part{len(parts):03d}"
            part.write_bytes(chunk)
            parts.append(part)
    return parts


def pack(wheels: list[Path], out: Path, part_bytes: int, python: str) -> list[Path]:
    """Split wheels into an empty folder, with the checksums of all parts and of all whole wheels.

    Args:
        python: version they are for, such as 3.12; the set-up refuses another.

    Returns:
        The parts.
    """
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty: remove it, or name another folder")
    out.mkdir(parents=True, exist_ok=True)
    lines, parts = [], []
    for wheel in sorted(wheels):
        mine = split(wheel, out, part_bytes)
        parts += mine
        lines += [f"{sha256(part)}  {part.name}" for part in mine]
        if mine[0].name != wheel.name:
            lines.append(f"{sha256(wheel)}  {wheel.name}")
    (out / CHECKSUMS).write_text("\n".join(lines) + "\n")
    (out / VERSION).write_text(f"{python}\n")
    shutil.copy2(_SETUP, out)
    return parts


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def collect(python: str, out: Path, part_mb: int, extras: str) -> list[Path]:
    """Download the wheels for a Python version on x86-64 Linux, and pack them."""
    with tempfile.TemporaryDirectory(dir=_parent(out)) as scratch:
        folder = Path(scratch)
        pip = [sys.executable, "-m", "pip"]
        own = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(_ROOT)]
        subprocess.run(own, check=True)
        (package,) = folder.glob("led_sglang-*.whl")
        wanted = f"{package}[{extras}]" if extras else str(package)
        platforms = [f"--platform={name}" for name in (*_PLATFORMS, *_OLDER_PLATFORMS)]
        download = [*pip, "download", "--only-binary=:all:", "--dest", str(folder)]
        download += ["--python-version", python, "--implementation", "cp", *platforms]
        # What a new virtual environment installs with.
        subprocess.run([*download, wanted, "pip", "setuptools", "wheel"], check=True)
        return pack(list(folder.glob("*.whl")), out, part_mb * _MB, python)


def _parent(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    own = "{}.{}".format(*sys.version_info)
    parser.add_argument("--python", default=own, help="of the offline host (default: this one's)")
    parser.add_argument("--part-mb", type=int, default=60, help="size of the largest part")
    parser.add_argument("--extras", default="analysis,eval", help="of the package; may be empty")
    parser.add_argument("--out", type=Path, default=Path("build/wheelhouse"))
    arguments = parser.parse_args()
    if arguments.part_mb < 1:
        parser.error("--part-mb must be at least 1")
    parts = collect(arguments.python, arguments.out, arguments.part_mb, arguments.extras)
    size = sum(part.stat().st_size for part in parts) / _MB
    print(f"{len(parts)} parts, {size:.0f} MB, in {arguments.out}")


if __name__ == "__main__":
    main()
