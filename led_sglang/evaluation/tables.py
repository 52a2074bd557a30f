"""The report's tables as plain cells, for the HTML page, the Markdown file and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NONE = "-"


@dataclass(frozen=True)
class Table:
    """Rows of texts under headings; the first `labels` columns are names, the rest numbers."""

    title: str
    note: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A number of the report; a dash where there is none."""
    if value is None:
        return NONE
    return f"{value:{'+' if sign else ''},.{digits}f}"


def all_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Every table there are numbers for."""
    tables = [accuracy(metrics), differences(metrics), alpha(metrics), details(metrics)]
    return [table for table in tables if table.rows]


def accuracy(metrics: Mapping[str, Any]) -> Table:
    """pass@1 / pass@n by sampler, temperature and task, with the mean over the tasks."""
    n, tasks = metrics["grid"]["n"], list(metrics["tasks"])
    first_name, last_name = f"pass@1[avg-of-{n}]", f"pass@{n}"
    rows = []
    for sampler, temperature in _columns(metrics):
        cells = [_cell(metrics, task, sampler, temperature) for task in tasks]
        pairs = [
            (
                cell[first_name]["symbolic_correct"] if cell else None,
                cell[first_name]["standard_error"] if cell else None,
                cell[last_name]["symbolic_correct"] if cell else None,
            )
            for cell in cells
        ]
        texts = [
            f"{number(one)} ± {number(error)} / {number(best)}" if one is not None else NONE
            for one, error, best in pairs
        ]
        averages = [
            sum(values) / len(values) if len(values) == len(tasks) else None
            for values in (
                [one for one, _, _ in pairs if one is not None],
                [best for _, _, best in pairs if best is not None],
            )
        ]
        rows.append(
            [sampler, temperature, *texts, f"{number(averages[0])} / {number(averages[1])}"]
        )
    return Table(
        "Accuracy",
        f"pass@1 (mean of {n} samples) ± standard error over problems / pass@{n}, in percent. "
        "The paper's Table 1 has this form.",
        ["sampler", "T", *tasks, "average"],
        rows,
        labels=2,
    )


def differences(metrics: Mapping[str, Any]) -> Table:
    """Paired differences with their intervals."""
    rows = [
        [
            entry["task"],
            f"{entry['sampler']} - {entry['baseline']}",
            f"{entry['temperature']:g}",
            entry["metric"],
            number(entry["difference"], 2, sign=True),
            f"{number(entry['low'], 2, sign=True)} .. {number(entry['high'], 2, sign=True)}",
            "yes" if entry["low"] > 0 or entry["high"] < 0 else "no",
            f"{entry['items']:,}",
        ]
        for entry in metrics["paired"]
    ]
    return Table(
        "Paired differences",
        "Percentage points on the same problems; 95% bootstrap intervals over problems. Nothing is "
        "corrected for the number of comparisons: of twenty true zeros, one is expected to look "
        "different.",
        ["task", "samplers", "T", "metric", "difference", "95% interval", "clear", "problems"],
        rows,
        labels=4,
    )


def alpha(metrics: Mapping[str, Any]) -> Table:
    """Accuracy-temperature slopes."""
    by_task: dict[str, dict[str, float]] = {}
    for entry in metrics["alpha"]:
        by_task.setdefault(entry["task"], {})[entry["sampler"]] = entry["alpha"]
    samplers = [sampler["label"] for sampler in metrics["grid"]["samplers"]]
    rows = [
        [task, *(number(slopes.get(sampler), 2, sign=True) for sampler in samplers)]
        for task, slopes in by_task.items()
    ]
    return Table(
        "Accuracy-temperature slope alpha",
        "Slope of the least-squares plane along the temperature index, percentage points a step.",
        ["task", *samplers],
        rows,
    )


def details(metrics: Mapping[str, Any]) -> Table:
    """Majority vote, failures, lengths and exploration of every cell."""
    n = metrics["grid"]["n"]
    rows = []
    for task in metrics["tasks"]:
        for sampler, temperature in _columns(metrics):
            cell = _cell(metrics, task, sampler, temperature)
            if cell is None:
                continue
            first, led = cell[f"pass@1[avg-of-{n}]"], cell["led"]
            majority = cell.get(f"majority@{n}", {}).get("symbolic_correct")
            official = cell["pass@1"].get("official_correct")
            rows.append(
                [
                    *(task, sampler, temperature, f"{cell['num_samples']:,}"),
                    number(majority),
                    number(official),
                    number(first["no_answer"]),
                    number(first["truncated"]),
                    number(first["timeout"] + first["error"]),
                    f"{cell['duplicate_completions']:,}",
                    number(first["avg_tokens"], 0),
                    number(first["avg_thinking_tokens"], 0),
                    number(100 * led["explored_share"] if led else None),
                    number(led["mean_p1"] if led else None, 3),
                ]
            )
    return Table(
        "Details",
        "no answer, cut off (or thinking never ended) and grader failures in percent of the "
        "samples; repeated: completions identical to another one of the same problem; explored in "
        "percent of the think tokens; p1: mean top-1 probability while thinking.",
        [
            *("task", "sampler", "T", "samples", f"majority@{n}", "official", "no answer"),
            *("cut off", "grader failed", "repeated", "tokens", "think tokens", "explored", "p1"),
        ],
        rows,
        labels=3,
    )


def markdown(table: Table) -> str:
    """A table in Markdown, padded so that it reads in a terminal too."""
    rows = [[_plain(text) for text in row] for row in (table.heads, *table.rows)]
    widths = [max(3, *(len(row[index]) for row in rows)) for index in range(len(table.heads))]
    lines = [
        "| "
        + " | ".join(
            text.ljust(width) if index < table.labels else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = [
        "-" * width if index < table.labels else "-" * (width - 1) + ":"
        for index, width in enumerate(widths)
    ]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join([f"## {table.title}", "", *lines, "", table.note])


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _columns(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (sampler["label"], f"{temperature:g}")
        for temperature in metrics["grid"]["temperatures"]
        for sampler in metrics["grid"]["samplers"]
    ]


def _cell(
    metrics: Mapping[str, Any], task: str, sampler: str, temperature: str
) -> Mapping[str, Any] | None:
    cell: Mapping[str, Any] | None = (
        metrics["tasks"].get(task, {}).get(sampler, {}).get(temperature)
    )
    return cell
