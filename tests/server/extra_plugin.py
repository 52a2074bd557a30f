"""A server of a test with one more SGLang plugin in it: a module of the tests."""

from __future__ import annotations

import os
from pathlib import Path


def plugin_environment(folder: Path, module: Path) -> dict[str, str]:
    """Environment in which a server finds `module` and calls its `register()` in every process.

    Args:
        folder: empty, for the plugin's metadata.
        module: a Python file with `register()`.
    """
    metadata = folder / "led_test_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: led-test-plugin\nVersion: 1.0\n")
    entry_point = f"[sglang.srt.plugins]\nled_test_plugin = {module.stem}:register\n"
    (metadata / "entry_points.txt").write_text(entry_point)
    path = [str(folder), str(module.parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}
