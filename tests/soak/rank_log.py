"""An SGLang plugin of the soak: each tensor-parallel rank writes the tokens it sampled to a file.

Sampled tokens are not synchronised between ranks, so a rank that drew other noise would go on
alone. The files of two ranks must be equal byte for byte.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy

_FOLDER_VARIABLE = "LED_SOAK_RANK_LOG"


def register() -> None:
    """Entry point (`sglang.srt.plugins`): runs in every process of the server."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    folder = Path(os.environ[_FOLDER_VARIABLE])

    def record(result: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        from sglang.srt.runtime_context import get_parallel

        # Size of the batch, then its tokens.
        tokens = result.to("cpu").numpy().astype("<i4")
        with (folder / f"rank{get_parallel().tp_rank}.bin").open("ab") as file:
            file.write(numpy.int32(len(tokens)).tobytes() + tokens.tobytes())

    HookRegistry.register(
        "sglang.srt.model_executor.model_runner.ModelRunner.sample", record, HookType.AFTER
    )


def environment(folder: Path) -> dict[str, str]:
    """Environment of a server that loads this plugin and writes to `folder`."""
    # Imported here: the server finds this file alone.
    from extra_plugin import plugin_environment

    return plugin_environment(folder, Path(__file__)) | {_FOLDER_VARIABLE: str(folder)}


def compared(folder: Path, ranks: int) -> tuple[int, int]:
    """Batches and tokens each rank sampled.

    Raises:
        AssertionError: two ranks sampled different tokens; says where.
    """
    logs = [numpy.fromfile(folder / f"rank{rank}.bin", dtype="<i4") for rank in range(ranks)]
    for rank, log in enumerate(logs[1:], 1):
        # A rank may be one batch ahead when the server is ended.
        length = min(len(log), len(logs[0]))
        differs = numpy.flatnonzero(log[:length] != logs[0][:length])
        assert len(differs) == 0, f"rank {rank} differs from rank 0 at entry {differs[0]}"
        assert abs(len(log) - len(logs[0])) <= 65, "a rank sampled more than the others"
    batches, position = 0, 0
    while position < len(logs[0]):
        position += 1 + int(logs[0][position])
        batches += 1
    return batches, len(logs[0]) - batches
