"""A server of a test with more SGLang plugins in it: modules of the tests."""

from __future__ import annotations

import os
from pathlib import Path


def plugin_environment(folder: Path, *modules: Path) -> dict[str, str]:
    """Environment in which a server finds modules and calls their `register()` in every process.

    Args:
        folder: for the plugins' metadata, of which it has none yet.
        modules: Python files with `register()`, called in this order.
    """
    metadata = folder / "led_test_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: led-test-plugin\nVersion: 1.0\n")
    points = "\n".join(f"{module.stem} = {module.stem}:register" for module in modules)
    (metadata / "entry_points.txt").write_text(f"[sglang.srt.plugins]\n{points}\n")
    path = [str(folder), *(str(m.parent) for m in modules), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}
