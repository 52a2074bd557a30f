"""`led-sglang serve` for tests: its first rank writes what each forward captures to a folder.

LED_TEST_RECORD names the folder. Each forward leaves a file: `hidden` [rows, C*H], and of each row
the request's slot and its length; `decode` tells decode steps. LED_TEST_NATIVE names the
recurrences that plain torch replaces (native_recurrences.py).
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import torch
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_parallel

from families import native_recurrences
from led_sglang.cli import main

_FOLDER = Path(os.environ["LED_TEST_RECORD"])
_steps = itertools.count()


def _record(result: Any, runner: Any, forward_batch: Any, *rest: Any, **named: Any) -> None:
    hidden = result.logits_output.hidden_states
    if hidden is None or get_parallel().tp_rank != 0:
        return
    step = {
        "hidden": hidden.detach().float().clone(),
        "lengths": forward_batch.seq_lens.tolist(),
        "slots": forward_batch.req_pool_indices.tolist(),
        "decode": forward_batch.forward_mode.is_decode(),
    }
    torch.save(step, _FOLDER / f"{next(_steps):06d}.pt")


if __name__ == "__main__":
    HookRegistry.register(
        "sglang.srt.model_executor.model_runner.ModelRunner.forward", _record, HookType.AFTER
    )
    native_recurrences.install(os.environ["LED_TEST_NATIVE"].split())
    sys.exit(main())
