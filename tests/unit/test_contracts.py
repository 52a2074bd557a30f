"""Who may import whom: the contracts hold, and an arrow back breaks them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).parent / "lint-imports"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as an installation lays it out."""
    folder = tmp_path_factory.mktemp("installed") / "led_sglang"
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json")
    shutil.copytree(ROOT / "led_sglang", folder, ignore=ignored)
    for name in ("kernels", "patches", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def contracts(package: Path) -> tuple[int, str]:
    """Exit status and output of import-linter on that copy."""
    command = [str(LINTER), "--no-cache", str(ROOT / "pyproject.toml")]
    run = subprocess.run(command, cwd=package.parent, capture_output=True, text=True)
    return run.returncode, run.stdout


def test_the_contracts_hold(package: Path) -> None:
    status, output = contracts(package)
    assert status == 0, output
    assert "0 broken" in output


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("kernels/types.py", "import led_sglang.methods.registry", "Kernels know nothing"),
        ("methods/rows.py", "import led_sglang.patches.hooks", "Imports go one way"),
        ("bench/plan.py", "import sglang.srt.server_args", "Only patches touch SGLang"),
        ("settings.py", "import sglang.srt.server_args", "Only patches touch SGLang"),
        ("trace/records.py", "import led_sglang.patches.hooks", "Tools know of the patches"),
        ("common/journal.py", "import led_sglang.bench.plan", "Tools share what lies in common"),
        ("methods/values.py", "import led_sglang.methods.rows", "No room imports a room"),
    ],
)
def test_an_arrow_back_breaks_them(package: Path, module: str, line: str, broken: str) -> None:
    file = package / module
    before = file.read_text()
    file.write_text(f"{before}\n{line}\n")
    try:
        status, output = contracts(package)
    finally:
        file.write_text(before)
    assert status != 0
    assert any(f.startswith(broken) and "BROKEN" in f for f in output.splitlines()), output
