"""What the launch of a family's server finds of its captured layers, with the table and without it.

`register` runs in the process that starts the server, whose first rank writes a file to the folder
that LED_TEST_RECORD names: what the truncation check has reported, and which way it finds where the
architecture is tried as one that the table does not know. So no family needs a second server.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from families.tiny_models import Family
from led_sglang.patches.capture import UNPROVEN_METHODS

_FILE = "launch.json"


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(
        "sglang.srt.model_executor.model_runner.ModelRunner.init_cuda_graphs",
        _try_as_unknown_too,
        HookType.BEFORE,
    )


def check(family: Family, folder: Path, layers: int) -> None:
    """Print what a launch has found, and assert that it proves all layers of the model.

    Args:
        family: it may name the way that is found without the table.
        folder: LED_TEST_RECORD of the server, which captures all layers.
        layers: of the model.
    """
    found, tried = json.loads((folder / _FILE).read_text())
    assert found["skipped"] is None
    assert list(found["layers"]) == [f"h^{layer}" for layer in range(layers)]
    own = max(own for own, _ in found["layers"].values())
    other = min(other for _, other in found["layers"].values())
    print(
        f"{found['method']}: {own:.1e} from what the head reads there, the nearest other layer "
        f"{other:.2g}, {found['seconds']} s; found without the table: {tried}"
    )
    assert own <= 1e-4
    assert other > 0.1
    if family.tried is not None:
        assert ("refused" if tried.startswith("LED cannot capture") else tried) == family.tried
    else:  # the table's way would do, and none behind it is reached
        assert UNPROVEN_METHODS.index(tried) <= UNPROVEN_METHODS.index(found["method"])


def _try_as_unknown_too(self: Any, *rest: Any, **named: Any) -> None:
    from led_sglang.patches import proven_capture

    original = proven_capture.prove
    proven_capture.prove = lambda *given: _prove_and_try(original, *given)


def _prove_and_try(original: Callable[..., Any], runner: Any, settings: Any, installed: Any) -> Any:
    from sglang.srt.runtime_context import get_parallel

    from led_sglang.patches import capture, proven_capture
    from led_sglang.settings import LaunchRefused

    report = original(runner, settings, installed)
    installed.remove()
    try:
        tried, _ = proven_capture.first_proven(runner, replace(settings, unproven=True))
    except LaunchRefused as refusal:
        tried = str(refusal)
    if get_parallel().tp_rank == 0:
        folder = Path(os.environ["LED_TEST_RECORD"])
        (folder / _FILE).write_text(json.dumps([report.shown(), tried]))
    model, layer_ids = runner.model, [layer - 1 for layer in settings.captured]
    tried_last: Any = capture.capture_of(model)
    tried_last.remove()
    capture.keep(
        model, capture.install(model, settings.architecture, settings.num_layers, layer_ids)
    )
    return report
