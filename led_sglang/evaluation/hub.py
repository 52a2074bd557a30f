"""Tasks from the hub by `datasets`: GPQA (gated) and LiveCodeBench (the parquet copy)."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import random
import zlib
from collections.abc import Mapping
from typing import Any

from led_sglang.common.extras import require
from led_sglang.common.user_files import check_keys
from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.items import LETTERS, Item, checked_items

_LOAD_KEYS = ("path", "name", "split", "revision", "data_files")


def load_items(file_name: str, hub: Mapping[str, Any]) -> tuple[Item, ...]:
    """Items of a task whose YAML file has the key `hub`.

    Args:
        hub: `rows` (gpqa | livecodebench) and arguments of `datasets.load_dataset`; for
            livecodebench also `since`, the first contest date kept.

    Raises:
        EvaluationError: the data set cannot be loaded (a gated one says so).
    """
    allowed = (*_LOAD_KEYS, "rows", "since")
    check_keys(hub, file_name, optional=allowed, within="hub", error=EvaluationError)
    rows = hub.get("rows")
    if rows not in ("gpqa", "livecodebench"):
        raise EvaluationError(f"{file_name}: hub.rows must be gpqa or livecodebench")
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
    since = str(hub.get("since", ""))
    kept = [livecodebench_item(row) for row in table if str(row["contest_date"]) >= since]
    return checked_items(file_name, sorted(kept, key=lambda item: item.id))


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
