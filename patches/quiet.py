"""A start that shows what concerns the user; `--log-level` brings everything back.

`led-sglang serve` alone asks for it, in the environment, so that the server's processes hear of it.
"""

from __future__ import annotations

import logging
import os
import warnings

_VARIABLE = "LED_SGLANG_QUIET"

# What SGLang and its kernels warn of on every start without a GPU, though nothing is wrong: these
# parts are not used there. Python warnings by their beginning ...
_WARNINGS_WITHOUT_GPU = (
    "Only CUDA, HIP and XPU support AWQ currently.",
    "Only CUDA, MUSA and NPU support GGUF quantization currently.",
    "Triton is not supported on current platform, roll back to CPU.",
)
# ... and log records by their logger.
_RECORDS_WITHOUT_GPU = {
    "sglang.kernels.jit.utils.arch": ("Cannot detect CUDA architecture.",),
    "sglang.srt.arg_groups.overrides": ("The current platform does not support Intel AMX",),
    "sglang.srt.distributed.bootstrap": ("init_cpu_threads_env and shared memory based AllReduce",),
    # Where there are several ranks.
    "sglang.srt.distributed.parallel_state": ("Setup Custom allreduce failed with",),
    "sglang.srt.distributed.device_communicators.triton_symm_mem_ag": (
        "multimem all-gather disabled",
    ),
    "torch.utils.cpp_extension": ("No CUDA runtime is found",),
    # Models that need a GPU's kernels to be imported.
    "sglang.srt.models.registry": tuple(
        f"Ignore import error when loading sglang.srt.models.{name}:"
        for name in ("falcon_mamba", "inkling", "mamba")
    ),
}
# On every machine: FastAPI's advice to SGLang ...
_WARNINGS = ("ORJSONResponse is deprecated",)
# ... and of an endpoint that reranks, which a model that generates does not serve.
_RECORDS = {
    "sglang.srt.entrypoints.openai.serving_rerank": ("Using fallback token IDs for yes/no",)
}


def ask_for_quiet(without_gpu: bool) -> None:
    """Have this process and those it starts leave out what is no news; errors are never left out.

    Args:
        without_gpu: whether the server runs on the CPU platform.
    """
    os.environ[_VARIABLE] = "cpu" if without_gpu else "1"
    texts = _WARNINGS + (_WARNINGS_WITHOUT_GPU if without_gpu else ())
    for text in texts:
        warnings.filterwarnings("ignore", message=text)
    # Interpreters that are still to start; a comma would part the filters.
    filters = [f"ignore:{text.partition(',')[0]}" for text in texts]
    given = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join([*filters, *([given] if given else [])])
    quieten()


def quieten() -> None:
    """Do in this process what `ask_for_quiet` asked for, if it did."""
    asked = os.environ.get(_VARIABLE)
    if not asked:
        return
    for name, beginnings in (_RECORDS | (_RECORDS_WITHOUT_GPU if asked == "cpu" else {})).items():
        logging.getLogger(name).addFilter(_LeaveOut(beginnings))


class _LeaveOut(logging.Filter):
    """Drops a logger's warnings that begin with one of some texts."""

    def __init__(self, beginnings: tuple[str, ...]) -> None:
        super().__init__()
        self._beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be shown."""
        is_error = record.levelno > logging.WARNING
        return is_error or not record.getMessage().startswith(self._beginnings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _LeaveOut) and other._beginnings == self._beginnings

    def __hash__(self) -> int:
        return hash(self._beginnings)
