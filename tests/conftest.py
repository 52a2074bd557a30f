"""How pytest-xdist shares the files out (`--dist loadfile`): what takes long starts first.

The workers then end together, where otherwise one would run a long file while the others are idle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# Their files share a server: they run on one worker, one behind the other.
TOGETHER = ("server/features",)
# Files, and folders of that kind, that take more than half a minute: the longest first.
LONGEST = (
    "server/test_tokens_equal_oracle.py",
    "server/features",
    "server/test_readme.py",
    "server/families/test_sparse_families.py",
    "server/families/test_dense_families.py",
    "kernels/test_kernel_interpreted.py",
    "server/test_distribution.py",
    "server/test_eval_on_server.py",
    "server/test_speculation.py",
    "soak/test_drivers.py",
    "server/test_same_tokens_any_server.py",
    "server/test_entry_points.py",
    "server/test_phase_on_server.py",
    "server/test_launch_refused.py",
    "server/test_adapters_and_updates.py",
    "server/test_pipeline_stages.py",
    "server/graphs/test_capture_kinds.py",
    "server/test_dola_on_server.py",
    "server/test_soft_thinking_on_server.py",
    "server/test_regular_unchanged.py",
    "server/test_pair.py",
    "server/test_soft_free_runs.py",
    "server/test_methods_mixed.py",
    "server/test_ending.py",
    "server/families/test_launches.py",
    "kernels/test_kernel_compile.py",
    "evaluation/test_run.py",
    "evaluation/test_run_endpoint.py",
    "server/test_replicas.py",
    "server/test_behaviour.py",
    "server/test_statistics.py",
    "server/test_seeds.py",
    "server/test_trace.py",
    "server/test_self_check.py",
    "server/test_nodes_started_otherwise.py",
    "server/families/test_pipeline_families.py",
    "unit/test_interrupt.py",
)
_TESTS = Path(__file__).parent
assert all((_TESTS / name).exists() for name in LONGEST)


def unit_of(nodeid: str) -> str:
    """What a test runs together with on one worker: its file, or a folder of `TOGETHER`."""
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def served_model_of(item: pytest.Item) -> str:
    """The model that `served_models` (server/conftest.py) runs a test on, if it names any.

    Its tests run one behind the other: pytest tells parameters apart by their place in each test's
    own list, and would start a file's servers again for a test on some of the models alone.
    """
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("model_path", "")) if callspec else ""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    units = dict.fromkeys([*LONGEST, *(unit_of(item.nodeid) for item in items)])
    ranks = {unit: rank for rank, unit in enumerate(units)}
    items.sort(key=lambda item: (ranks[unit_of(item.nodeid)], served_model_of(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class InOrder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False  # by number of tests: a file of one may take minutes
    return InOrder(config, log)
