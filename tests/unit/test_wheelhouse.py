"""Wheels in parts, and the offline script that rebuilds and installs them; no network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# By its path: with the checkout on sys.path, `kernels` would be ours and not PyPI's.
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "wheelhouse.py"
spec = importlib.util.spec_from_file_location("wheelhouse", SCRIPT)
assert spec is not None
assert spec.loader is not None
wheelhouse = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wheelhouse)
CHECKSUMS, pack, sha256 = wheelhouse.CHECKSUMS, wheelhouse.pack, wheelhouse.sha256

PART = 1000
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def wheel(folder: Path, name: str, version: str, filling: int = 0, requires: str = "") -> Path:
    """A wheel of one module, `filling` bytes larger than needed."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VALUE = {filling}\n",
        f"{name}_data.bin": os.urandom(filling),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    files[record] = "".join(f"{path},,\n" for path in [*files, record])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in files.items():
            archive.writestr(entry, content)
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return [
        wheel(folder, "led_sglang", "0.0", 1500, "Requires-Dist: big_one\n"),
        wheel(folder, "big_one", "1.0", 11 * PART),
        wheel(folder, "small_one", "1.0"),
    ]


def offline_setup(parts: Path, venv: Path) -> subprocess.CompletedProcess[str]:
    # A proxy nobody listens at: whatever asked the network would fail.
    env = os.environ | {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull}
    env |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = ["bash", str(parts / "offline_setup.sh"), str(parts), str(venv)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_parts_are_bounded_and_checksums_cover_all(wheels: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    parts = pack(wheels, out, PART, PYTHON)
    assert max(part.stat().st_size for part in parts) <= PART
    big = sorted(part for part in parts if part.name.startswith("big_one"))
    assert len(big) == 12 + (wheels[1].stat().st_size > 12 * PART)
    assert b"".join(part.read_bytes() for part in big) == wheels[1].read_bytes()
    listed = dict(reversed(line.split("  ")) for line in (out / CHECKSUMS).read_text().splitlines())
    assert {part.name: sha256(part) for part in parts}.items() <= listed.items()
    assert {path.name: sha256(path) for path in wheels}.items() <= listed.items()
    with pytest.raises(SystemExit, match="not empty"):
        pack(wheels, out, PART, PYTHON)


def test_the_script_rebuilds_and_installs(wheels: list[Path], tmp_path: Path) -> None:
    out, venv = tmp_path / "out", tmp_path / "venv"
    pack(wheels, out, PART, PYTHON)
    done = offline_setup(out, venv)
    assert done.returncode == 0, done.stderr
    for path in wheels:
        assert (out / "wheels" / path.name).read_bytes() == path.read_bytes()
    code = "import led_sglang, big_one; print(led_sglang.VALUE, big_one.VALUE)"
    shown = subprocess.run([venv / "bin" / "python", "-Ic", code], capture_output=True, text=True)
    assert shown.stderr == ""
    assert shown.stdout.split() == ["1500", str(11 * PART)]


def damage(parts: Path) -> str:
    part = parts / "big_one-1.0-py3-none-any.whl.part003"
    part.write_bytes(b"\0" + part.read_bytes()[1:])
    return "part003 is damaged"


def lose_part(parts: Path) -> str:
    (parts / "big_one-1.0-py3-none-any.whl.part003").unlink()
    return "part003 is missing"


def lose_wheel(parts: Path) -> str:
    lost = next(parts.glob("small_one*"))
    lost.unlink()
    return f"{lost.name} is missing"


def add_part(parts: Path) -> str:
    (parts / "big_one-1.0-py3-none-any.whl.part999").write_bytes(b"x")
    return "does not add up"


def lose_list(parts: Path) -> str:
    (parts / CHECKSUMS).unlink()
    return "holds no SHA256SUMS"


def other_python(parts: Path) -> str:
    (parts / wheelhouse.VERSION).write_text("3.7\n")
    return f"the wheels are for Python 3.7 and {sys.executable} is {PYTHON}: set PYTHON to a 3.7"


def lose_version(parts: Path) -> str:
    (parts / wheelhouse.VERSION).unlink()
    return "PYTHON_VERSION is missing"


HARMS = [damage, lose_part, lose_wheel, add_part, lose_list, other_python, lose_version]


@pytest.mark.parametrize("harm", HARMS)
def test_a_bad_copy_is_named(harm, wheels: list[Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    pack(wheels, out, PART, PYTHON)
    complaint = harm(out)
    done = offline_setup(out, tmp_path / "venv")
    assert done.returncode == 1
    assert complaint in done.stderr
    assert not (tmp_path / "venv").exists()
