"""What a run measures: tasks x samplers x temperatures x n, from a YAML file and flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from led_sglang.common.samplers import SamplerSpec, parse_sampler, read_grid_file
from led_sglang.common.user_files import check_keys
from led_sglang.evaluation import EvaluationError

SCOPES = ("answer", "completion")
# Of a request: what names the sample, or how its answer is read.
_OWN_KEYS = frozenset(
    ("model", "messages", "n", "seed", "stream", "temperature", "custom_params", "max_tokens")
)


@dataclass(frozen=True)
class Grid:
    """Settings that decide what the numbers mean; the fields are the keys of a grid file.

    Attributes:
        n: samples of each problem.
        seed: of the run; `seeds.sample_seed` derives each sample's from it.
        seed_per_sample: sample i of every problem has the seed `seed` + i instead.
        limit: only the first so many problems of each task; None for all.
        scope: what math graders read: `answer`, the text after the thinking, or `completion`.
        grade_timeout: seconds for one answer.
    """

    tasks: tuple[str, ...]
    samplers: tuple[SamplerSpec, ...]
    temperatures: tuple[float, ...] = (0.6,)
    n: int = 16
    max_tokens: int = 32768
    top_p: float = 0.95
    top_k: int = 20
    seed: int = 0
    seed_per_sample: bool = False
    limit: int | None = None
    scope: str = "answer"
    grade_timeout: float = 10.0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Grid:
        return make_grid({**data, "samplers": list(data["samplers"])}, "run.json")


_KEYS = tuple(field.name for field in fields(Grid))


def read_grid(name: str) -> Mapping[str, Any]:
    """Keys of a grid file, by path or by the name of a shipped one."""
    keys = read_grid_file(name, "--config", EvaluationError)
    return check_keys(keys, f"--config {name}", optional=_KEYS, error=EvaluationError)


def make_grid(keys: Mapping[str, Any], where: str) -> Grid:
    """A checked grid.

    Raises:
        EvaluationError: unknown, missing or wrong key; the message names it.
    """
    check_keys(keys, where, optional=_KEYS, error=EvaluationError)
    for key in ("tasks", "samplers"):
        if not keys.get(key):
            raise EvaluationError(f"{where}: {key} is missing (--{key} a,b,c)")
    values = dict(keys)
    for key in ("tasks", "samplers", "temperatures"):
        if key in values:
            if not isinstance(values[key], list | tuple):
                raise EvaluationError(f"{where}: {key} must be a list, not {values[key]!r}")
            values[key] = tuple(values[key])
    values["tasks"] = tuple(map(str, values["tasks"]))
    values["samplers"] = tuple(_sampler(entry, where) for entry in values["samplers"])
    grid = Grid(**values)
    wrong = [
        (not _numbers(grid.temperatures, 0, 2), "temperatures", "numbers in 0..2"),
        (not _whole(grid.n, 1), "n", "a whole number from 1 up"),
        (not _whole(grid.max_tokens, 1), "max_tokens", "a whole number from 1 up"),
        (not (_numbers([grid.top_p], 0, 1) and grid.top_p), "top_p", "a number above 0, at most 1"),
        (not _whole(grid.top_k, -1), "top_k", "a whole number, -1 for none"),
        (not _whole(grid.seed, 0), "seed", "a whole number from 0 up"),
        (type(grid.seed_per_sample) is not bool, "seed_per_sample", "true or false"),
        (grid.limit is not None and not _whole(grid.limit, 1), "limit", "a whole number above 0"),
        (grid.scope not in SCOPES, "scope", " or ".join(SCOPES)),
        (not _numbers([grid.grade_timeout], 0.1, 3600), "grade_timeout", "seconds in 0.1..3600"),
    ]
    for is_wrong, key, wanted in wrong:
        if is_wrong:
            value = getattr(grid, key)
            raise EvaluationError(f"{where}: {key} must be {wanted}, not {value!r}")
    labels = [sampler.label for sampler in grid.samplers]
    # As folders and tables name them: 0.6 and 0.60000001 would be one.
    shown = [f"{temperature:g}" for temperature in grid.temperatures]
    lists = {"tasks": grid.tasks, "samplers": labels, "temperatures": shown}
    for name, entries in lists.items():
        if len(set(entries)) < len(entries):
            raise EvaluationError(f"{where}: {name} holds one of its entries twice")
    return replace(grid, temperatures=tuple(float(t) for t in grid.temperatures))


def _sampler(entry: Any, where: str) -> SamplerSpec:
    spec = parse_sampler(entry, where, EvaluationError)
    for key in spec.sampling:
        if key in _OWN_KEYS:
            raise EvaluationError(f"{where}: samplers.sampling.{key} is set by the run itself")
    return spec


def _numbers(values: Any, low: float, high: float) -> bool:
    return bool(values) and all(type(v) in (int, float) and low <= v <= high for v in values)


def _whole(value: Any, low: int) -> bool:
    return type(value) is int and value >= low
