"""The report's tables as plain cells, for the HTML page, the Markdown file and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def answers(metrics: Mapping[str, Any]) -> list[Table]:
    """What a reader wants first: does a sampler help, and how accurate is each."""
    return [table for table in (in_short(metrics), accuracy(metrics)) if table.rows]


def backgrounds(metrics: Mapping[str, Any]) -> list[Table]:
    """The other tables there are numbers for."""
    tables = (differences(metrics), alpha(metrics), details(metrics))
    return [table for table in tables if table.rows]


def interval_text(low: float, high: float) -> str:
    """A 95% interval in percentage points."""
    return f"{number(low, 2, sign=True)} .. {number(high, 2, sign=True)}"


def reading(low: float, high: float) -> str:
    """What an interval of a difference says."""
    if low > 0:
        return "higher"
    return "lower" if high < 0 else "not clear"


def in_short(metrics: Mapping[str, Any]) -> Table:
    """The answer first: each sampler against the baseline over all tasks."""
    tasks = list(metrics["tasks"])
    over = "average" if len(tasks) > 1 else tasks[0] if tasks else ""
    found: dict[tuple[str, float], dict[str, Mapping[str, Any]]] = {}
    for entry in metrics["paired"]:
        if entry["task"] == over:
            by_metric = found.setdefault((entry["sampler"], entry["temperature"]), {})
            by_metric[entry["metric"]] = entry
    rows, names, baseline = [], [], ""
    for (sampler, temperature), entries in found.items():
        names, baseline = list(entries), entries["pass@1"]["baseline"]
        texts = [
            text
            for entry in entries.values()
            for text in (
                f"{number(entry['difference'], 2, sign=True)} "
                f"({interval_text(entry['low'], entry['high'])})",
                reading(entry["low"], entry["high"]),
            )
        ]
        ours = _mean_tokens(metrics, sampler, f"{temperature:g}")
        theirs = _mean_tokens(metrics, baseline, f"{temperature:g}")
        longer = 100 * (ours / theirs - 1) if ours and theirs else None
        rows.append([sampler, f"{temperature:g}", *texts, number(longer, 1, sign=True)])
    return Table(
        "In short",
        f"Difference to {baseline} in percentage points, "
        + (f"mean over {len(tasks)} tasks, " if len(tasks) > 1 else "")
        + "with 95% bootstrap intervals over problems; not clear: the interval holds zero.",
        ["sampler", "T", *(head for name in names for head in (name, "")), "length, %"],
        rows,
        labels=2,
    )


def _mean_tokens(metrics: Mapping[str, Any], sampler: str, temperature: str) -> float | None:
    """Mean over the tasks of the mean length; None unless each task has one."""
    name = f"pass@1[avg-of-{metrics['grid']['n']}]"
    cells = [_cell(metrics, task, sampler, temperature) for task in metrics["tasks"]]
    return _mean_of_all([cell and cell[name]["avg_tokens"] for cell in cells])


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    """None where one of them is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def accuracy(metrics: Mapping[str, Any]) -> Table:
    """pass@1 / pass@n by sampler, temperature and task, with the mean over the tasks."""
    n, tasks = metrics["grid"]["n"], list(metrics["tasks"])
    first_name, last_name = f"pass@1[avg-of-{n}]", f"pass@{n}"
    rows = []
    for sampler, temperature in _columns(metrics):
        texts, ones, bests = [], [], []
        for task in tasks:
            cell = _cell(metrics, task, sampler, temperature) or {first_name: {}, last_name: {}}
            one, best = (cell[name].get("symbolic_correct") for name in (first_name, last_name))
            error = number(cell[first_name].get("standard_error"))
            texts.append(NONE if one is None else f"{number(one)} ± {error} / {number(best)}")
            ones.append(one)
            bests.append(best)
        averages = f"{number(_mean_of_all(ones))} / {number(_mean_of_all(bests))}"
        rows.append([sampler, temperature, *texts, averages])
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
    return difference_table(
        metrics["paired"],
        "Paired differences",
        "Nothing is corrected for the number of comparisons: of twenty true zeros, one is expected "
        "to look different.",
    )


def difference_table(entries: Iterable[Mapping[str, Any]], title: str, note: str = "") -> Table:
    """A row for each entry of `metrics["paired"]`."""
    rows = [
        [
            *(entry["task"], f"{entry['sampler']} - {entry['baseline']}"),
            *(f"{entry['temperature']:g}", entry["metric"]),
            number(entry["difference"], 2, sign=True),
            interval_text(entry["low"], entry["high"]),
            reading(entry["low"], entry["high"]),
            f"{entry['items']:,}",
        ]
        for entry in entries
    ]
    about = "Percentage points on the same problems; 95% bootstrap intervals over problems."
    heads = ["task", "samplers", "T", "metric", "difference", "95% interval", "reading", "problems"]
    return Table(title, f"{about} {note}".strip(), heads, rows, labels=4)


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
    heads = [
        *("task", "sampler", "T", "samples", f"majority@{n}", "official", "no answer"),
        *("cut off", "grader failed", "repeated", "tokens", "think tokens", "explored", "p1"),
    ]
    # "official" is for multiple choice, "explored" for LED: only where there is any
    used = [i for i in range(len(heads)) if any(row[i] != NONE for row in rows)]
    return Table(
        "Details",
        "no answer, cut off (or thinking never ended) and grader failures in percent of the "
        "samples; repeated: completions identical to another one of the same problem; explored in "
        "percent of the think tokens; p1: mean top-1 probability while thinking.",
        [heads[i] for i in used],
        [[row[i] for i in used] for row in rows],
        labels=3,
    )


def markdown(table: Table) -> str:
    """A table in Markdown, padded so that it reads in a terminal too."""
    rows = [
        [text.replace("|", "\\|").replace("\n", " ") for text in row]
        for row in (table.heads, *table.rows)
    ]
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


def _columns(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (sampler["label"], f"{temperature:g}")
        for temperature in metrics["grid"]["temperatures"]
        for sampler in metrics["grid"]["samplers"]
    ]


def _cell(metrics: Mapping[str, Any], task: str, sampler: str, temperature: str) -> Any:
    """The metrics of a cell; None where it has no sample."""
    return metrics["tasks"].get(task, {}).get(sampler, {}).get(temperature)
