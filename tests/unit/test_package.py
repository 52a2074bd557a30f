"""The wheel, built from the sdist, holds every file of the package and works once installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Folder of the checkout -> package it is installed as.
PACKAGES = {
    "led_sglang": "led_sglang",
    "kernels": "led_sglang/kernels",
    "patches": "led_sglang/patches",
    "configs": "led_sglang/configs",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    # A copy: building leaves folders behind.
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, folder / "tree", ignore=left_out)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(folder / "tree")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(list((folder / "dist").glob("*.tar.gz"))) == 1
    return next((folder / "dist").glob("*.whl"))


def package_files() -> Iterator[str]:
    for folder, package in PACKAGES.items():
        for file in sorted((ROOT / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{package}/{file.relative_to(ROOT / folder).as_posix()}"


def test_every_file_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = set(package_files())
    assert {"led_sglang/py.typed", "led_sglang/configs/families/qwen3.yaml"} <= expected
    assert expected - names == set()
    outside = {name for name in names if not name.startswith("led_sglang")}
    assert outside == set(), "nothing is installed under a name of its own"


def test_the_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the dependencies, and no checkout beside it."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    site = next((tmp_path / "env/lib").glob("*/site-packages"))
    shutil.unpack_archive(wheel, site, "zip")
    (site / "dependencies.pth").write_text(dependency_folders())
    code = (
        "import led_sglang, led_sglang.kernels, led_sglang.cli\n"
        "from led_sglang.presets import load_presets\n"
        "from importlib.metadata import entry_points\n"
        "assert [e.name for e in entry_points(group='sglang.srt.platforms')] == ['led_cpu']\n"
        "assert 'led' in entry_points(group='sglang.srt.plugins').names\n"
        "for group in ('sglang.srt.platforms', 'sglang.srt.plugins', 'console_scripts'):\n"
        "    own = [e for e in entry_points(group=group) if e.value.startswith('led_sglang')]\n"
        "    assert len(own) == 1 and callable(own[0].load()), group\n"
        "print(led_sglang.__file__, led_sglang.kernels.__file__, len(load_presets()))\n"
    )
    done = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    package, kernels, presets = done.stdout.split()
    assert Path(package).is_relative_to(site)
    assert Path(kernels).is_relative_to(site)
    assert int(presets) > 5


def dependency_folders() -> str:
    """Where this interpreter finds third-party packages; `.pth` files there are not followed."""
    own = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]}
    return "\n".join(sorted(own | {path for path in sys.path if path.endswith("site-packages")}))


def test_the_kernels_import_in_a_plain_checkout(tmp_path: Path) -> None:
    """Without an install, and with nothing but torch and triton to import."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    code = (
        "import sys\n"
        f"sys.path += {dependency_folders().split()!r}\n"
        "sys.modules |= dict.fromkeys(('sglang', 'numba', 'transformers'))\n"
        "import led_sglang.kernels as kernels, torch, triton\n"
        "step = kernels.EagerStep(kernels.LmHeadShard(torch.zeros(9, 4), 0, 9))\n"
        "print(kernels.__file__, triton.language.__name__, step.name)\n"
    )
    # -S: not even the editable install of this checkout is found
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(tmp_path / "kernels/__init__.py"),
        "triton.language",
        "torch",
    ]
