"""Tasks from the hub by `datasets`: GPQA (gated), LiveCodeBench (the parquet copy), MathArena's."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import random
import zlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from led_sglang.common.extras import require
from led_sglang.common.user_files import check_keys
from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.items import LETTERS, Item, checked_items, read_items

_ROWS = ("gpqa", "livecodebench", "matharena")
_LOAD_KEYS = ("path", "name", "split", "revision", "data_files")


def load_items(file_name: str, hub: Mapping[str, Any]) -> tuple[Item, ...]:
    """Items of a task whose YAML file has the key `hub`.

    Args:
        hub: `rows` (gpqa | livecodebench | matharena) and arguments of `datasets.load_dataset`; for
            livecodebench also `since`, the first contest date kept; for matharena also `installed`,
            DISTRIBUTION/FILE, a JSONL file that an installed package has of the same problems.

    Raises:
        EvaluationError: the data set cannot be loaded (a gated one says so).
    """
    allowed = (*_LOAD_KEYS, "rows", "since", "installed")
    check_keys(hub, file_name, optional=allowed, within="hub", error=EvaluationError)
    rows = hub.get("rows")
    if rows not in _ROWS:
        raise EvaluationError(f"{file_name}: hub.rows must be one of {', '.join(_ROWS)}")
    if "installed" in hub and (found := _installed_file(str(hub["installed"]))):
        return read_items(found, "math")
    require("eval", "datasets")
    import datasets

    arguments = {key: hub[key] for key in _LOAD_KEYS if key in hub}
    try:
        table = datasets.load_dataset(**arguments)
    # Anything from a refused gate to a missing network, of several libraries.
    except Exception as error:
        raise EvaluationError(
            f"{file_name}: cannot load {hub.get('path')} from the hub: {error}. Log in with "
            "`hf auth login` if it is gated, or give a local file: --data NAME=FILE.jsonl"
        ) from None
    if rows == "gpqa":
        return checked_items(file_name, [gpqa_item(row) for row in table])
    if rows == "matharena":
        return checked_items(file_name, [matharena_item(row) for row in table])
    since = str(hub.get("since", ""))
    kept = [livecodebench_item(row) for row in table if str(row["contest_date"]) >= since]
    return checked_items(file_name, sorted(kept, key=lambda item: item.id))


def _installed_file(name: str) -> Path | None:
    """The file DISTRIBUTION/FILE, where the distribution is installed and has it."""
    distribution, _, file = name.partition("/")
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(file)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def matharena_item(row: Mapping[str, Any]) -> Item:
    """One problem of a competition; its answer is a number or LaTeX."""
    return Item(
        id=str(row["problem_idx"]),
        problem=str(row["problem"]).strip(),
        expected_answer=str(row["answer"]).strip(),
    )


def gpqa_item(row: Mapping[str, Any]) -> Item:
    """One question; the order of its options is fixed by its own text, not by a global state."""
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
    options = [str(option).strip() for option in options]
    question = str(row["Question"]).strip()
    digest = hashlib.sha256(question.encode()).hexdigest()
    order = random.Random(digest).sample(range(4), 4)
    return Item(
        id=f"gpqa-{row.get('Record ID') or digest[:12]}",
        problem=question,
        expected_answer=LETTERS[order.index(0)],
        options=tuple(options[index] for index in order),
    )


def livecodebench_item(row: Mapping[str, Any]) -> Item:
    """One problem with its public and private tests."""
    tests = json.loads(row["public_test_cases"]) + _private_tests(row["private_test_cases"])
    metadata = json.loads(row["metadata"] or "{}")
    return Item(
        id=str(row["question_id"]),
        problem=row["question_content"],
        starter_code=row["starter_code"] or "",
        tests={
            "inputs": [test["input"] for test in tests],
            "outputs": [test["output"] for test in tests],
            "fn_name": metadata.get("func_name"),
        },
    )


class _TextOnly(pickle.Unpickler):
    """Unpickles plain data; anything that names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a test file must not name {module}.{name}")


def _private_tests(packed: str) -> list[dict[str, str]]:
    """The set stores them as JSON, or as JSON in a pickle in zlib in base64."""
    try:
        tests: list[dict[str, str]] = json.loads(packed)
    except json.JSONDecodeError:
        pickled = zlib.decompress(base64.b64decode(packed))
        tests = json.loads(_TextOnly(io.BytesIO(pickled)).load())
    return tests
