"""What the launch of a family's server finds of its captured layers, with the table and without it.

`register` runs in the process that starts the server, whose first rank writes a file to the folder
that LED_TEST_RECORD names: what the truncation check has reported, what it says of captures made
wrong on the last rank, and which way it finds where the architecture is tried as one that the table
does not know. So no family needs a second server.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from families.tiny_models import Family
from led_sglang.patches.capture import UNPROVEN_METHODS

_FILE = "launch.json"
# What the check says of a wrong layer, on the last rank alone where there are two.
_WRONG = re.compile(
    r"(?:on rank 1 )?ended at layer (\d), the model's own head reads something that differs from "
    r"norm\(h\^\1\) by ([^,]+), where 1e-03 is rounding(?: and h\^\d as the nearest other .*)?"
)


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
    found, made_wrong, tried = json.loads((folder / _FILE).read_text())
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
    for fault, sentence in made_wrong.items():
        print(f"{fault}: {sentence}")
        figure = _WRONG.fullmatch(sentence)
        assert figure is not None, sentence
        assert float(figure[2]) > 1e-3
    assert len(made_wrong) == 2
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
    made_wrong = {"no norm": _without_norm(runner, settings, installed)}
    installed.remove()
    made_wrong["one layer off"] = _one_layer_off(runner, settings)
    try:
        tried, _ = proven_capture.first_proven(runner, replace(settings, unproven=True))
    except LaunchRefused as refusal:
        tried = str(refusal)
    if get_parallel().tp_rank == 0:
        folder = Path(os.environ["LED_TEST_RECORD"])
        (folder / _FILE).write_text(json.dumps([report.shown(), made_wrong, tried]))
    model, layer_ids = runner.model, [layer - 1 for layer in settings.captured]
    tried_last: Any = capture.capture_of(model)
    tried_last.remove()
    capture.keep(
        model, capture.install(model, settings.architecture, settings.num_layers, layer_ids)
    )
    return report


def _without_norm(runner: Any, settings: Any, installed: Any) -> str | None:
    """What the check says where the last rank takes h^l itself for norm(h^l)."""
    from led_sglang.patches import proven_capture

    norm = torch.nn.Identity() if _on_last_rank() else proven_capture.final_norm(runner.model)
    with mock.patch.object(proven_capture, "final_norm", return_value=norm):
        return proven_capture._examined(runner, settings, installed).wrong


def _one_layer_off(runner: Any, settings: Any) -> str | None:
    """What the check says where the last rank's setter is given every id plus one."""
    from led_sglang.patches import capture, proven_capture

    settings = replace(settings, latent_layers=settings.captured[:-1], dola_layers=())
    layer_ids = [layer - 1 + _on_last_rank() for layer in settings.captured]
    shifted = capture.install(runner.model, settings.architecture, settings.num_layers, layer_ids)
    wrong = proven_capture._examined(runner, settings, shifted).wrong
    shifted.remove()
    return wrong


def _on_last_rank() -> bool:
    from sglang.srt.runtime_context import get_parallel

    return bool(get_parallel().tp_rank == get_parallel().tp_size - 1)
