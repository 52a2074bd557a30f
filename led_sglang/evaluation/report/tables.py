"""The report's tables as plain cells, for the HTML page, the Markdown file and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from led_sglang.common.intervals import POWER
from led_sglang.evaluation.report.comparisons import CANNOT_TELL, CLAIM

NONE = "-"
VERDICTS = (
    f"detectable: a true difference of this size is seen in {POWER:.0%} of such runs. "
    "higher, lower: the interval leaves zero out, and the difference is no smaller than that. "
    f"{CANNOT_TELL}: else, where the interval holds more than the {CLAIM:g} point that LED claims."
)


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
    tables = (differences(metrics), solved(metrics), alpha(metrics), details(metrics))
    return [table for table in tables if table.rows]


def interval_text(low: float, high: float, *, sign: bool = True) -> str:
    """A 95% interval in percentage points."""
    return f"{number(low, sign=sign)} .. {number(high, sign=sign)}"


def share_text(entry: Mapping[str, Any]) -> str:
    """A share of the metrics with its interval, in percent."""
    value, ends = entry.get("symbolic_correct"), entry.get("interval")
    if value is None or ends is None:
        return NONE
    return f"{number(value)} ({interval_text(*ends, sign=False)})"


def _detectable(entry: Mapping[str, Any]) -> str:
    """Two shares cannot differ by more than 100 points: a run may be too small for any."""
    return "> 100" if entry["detectable"] > 100 else number(entry["detectable"])


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
                f"{number(entry['difference'], sign=True)} "
                f"({interval_text(entry['low'], entry['high'])})",
                entry["verdict"],
                _detectable(entry),
            )
        ]
        ours = _mean_tokens(metrics, sampler, f"{temperature:g}")
        theirs = _mean_tokens(metrics, baseline, f"{temperature:g}")
        longer = 100 * (ours / theirs - 1) if ours and theirs else None
        rows.append([sampler, f"{temperature:g}", *texts, number(longer, 1, sign=True)])
    heads = [head for name in names for head in (name, "verdict", "detectable")]
    return Table(
        "In short",
        f"Difference to {baseline} in percentage points, "
        + (f"mean over {len(tasks)} tasks, " if len(tasks) > 1 else "")
        + "with 95% bootstrap intervals over problems. "
        + VERDICTS,
        ["sampler", "T", *heads, "length, %"],
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
    """pass@1, Bayes@N and pass@n by task, sampler and temperature, and the means over tasks."""
    n = metrics["grid"]["n"]
    problems = ", ".join(
        f"{max(cell['num_entries'] for by in cells.values() for cell in by.values()):,} of {task}"
        for task, cells in metrics["tasks"].items()
    )
    shown = {"pass@1": f"pass@1[avg-of-{n}]", f"Bayes@{n}": f"bayes@{n}"}
    mean = any_right = ""
    if n > 1:  # of one sample they are one number
        shown[f"pass@{n}"] = f"pass@{n}"
        mean = f"mean of {n} samples, "
        any_right = f" pass@{n}: at least one of {n} samples is right."
    rows = [
        [task, sampler, temperature, *(share_text(cell.get(name, {})) for name in shown.values())]
        for task, cells in [*metrics["tasks"].items(), ("average", metrics["average"])]
        for sampler, temperature in _columns(metrics)
        if (cell := cells.get(sampler, {}).get(temperature)) is not None
    ]
    return Table(
        "Accuracy",
        f"In percent, with 95% intervals; {_samples(n)} of each problem ({problems}). "
        f"pass@1: {mean}Wilson's interval for the problems as a draw from many. "
        f"Bayes@{n}: the same for exactly these problems, from a uniform prior." + any_right,
        ["task", "sampler", "T", *shown],
        rows,
        labels=3,
    )


def _samples(count: int) -> str:
    return f"{count} samples" if count > 1 else "1 sample"


def differences(metrics: Mapping[str, Any]) -> Table:
    """Paired differences with their intervals."""
    return difference_table(
        metrics["paired"],
        "Paired differences",
        f"Of each sampler {_samples(metrics['grid']['n'])} a problem. Nothing is corrected for the "
        "number of comparisons: of twenty true zeros, one is expected to look different.",
    )


def difference_table(entries: Iterable[Mapping[str, Any]], title: str, note: str = "") -> Table:
    """A row for each entry of `metrics["paired"]`."""
    rows = [
        [
            *(entry["task"], f"{entry['sampler']} - {entry['baseline']}"),
            *(f"{entry['temperature']:g}", entry["metric"]),
            number(entry["difference"], sign=True),
            interval_text(entry["low"], entry["high"]),
            _detectable(entry),
            entry["verdict"],
            f"{entry['items']:,}",
        ]
        for entry in entries
    ]
    about = "Percentage points on the same problems; 95% bootstrap intervals over problems."
    heads = [
        *("task", "samplers", "T", "metric", "difference", "95% interval", "detectable"),
        *("verdict", "problems"),
    ]
    return Table(title, f"{about} {VERDICTS} {note}".strip(), heads, rows, labels=4)


def solved(metrics: Mapping[str, Any]) -> Table:
    """Cover@tau: the share of problems of which at least a share tau of the samples is right."""
    n = metrics["grid"]["n"]
    taus = sorted({1 / n, *(share for share in (0.25, 0.5, 0.75) if n * share % 1 == 0), 1.0})
    rows = [
        [task, sampler, temperature, *(share_text(cell["cover@tau"][f"{t:g}"]) for t in taus)]
        for task in metrics["tasks"]
        for sampler, temperature in _columns(metrics)
        if (cell := _cell(metrics, task, sampler, temperature)) is not None
    ]
    return Table(
        "Cover@tau",
        "Problems of which at least this share of the samples is right, in percent, with Wilson's "
        "95% intervals. At 1/n it is pass@n, which rewards guessing; at 1 every sample is right.",
        ["task", "sampler", "T", *(f"tau = {t:.3g}" for t in taus)],
        rows,
        labels=3,
    )


def alpha(metrics: Mapping[str, Any]) -> Table:
    """Accuracy-temperature slopes."""
    by_task: dict[str, dict[str, str]] = {}
    for entry in metrics["alpha"]:
        ends = interval_text(entry["low"], entry["high"])
        by_task.setdefault(entry["task"], {})[entry["sampler"]] = (
            f"{number(entry['alpha'], sign=True)} ({ends})"
        )
    samplers = [sampler["label"] for sampler in metrics["grid"]["samplers"]]
    rows = [
        [task, *(slopes.get(sampler, NONE) for sampler in samplers)]
        for task, slopes in by_task.items()
    ]
    return Table(
        "Accuracy-temperature slope alpha",
        "Slope of the least-squares plane along the temperature index, percentage points a step, "
        "with 95% bootstrap intervals over problems.",
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
            official = cell["pass@1"].get("official_correct")
            rows.append(
                [
                    *(task, sampler, temperature, f"{cell['num_samples']:,}"),
                    share_text(cell.get(f"majority@{n}", {})),
                    number(official),
                    number(first["no_answer"]),
                    number(first["truncated"]),
                    number(first["timeout"] + first["error"]),
                    f"{cell['duplicate_completions']:,}",
                    number(cell["distinct_answers"]),
                    number(cell["distinct_first_explorations"]),
                    number(first["avg_tokens"], 0),
                    number(first["avg_thinking_tokens"], 0),
                    number(100 * led["explored_share"] if led else None),
                    number(100 * led["mean_p1"] if led else None),
                ]
            )
    heads = [
        *("task", "sampler", "T", "samples", f"majority@{n}", "official", "no answer"),
        *("cut off", "grader failed", "repeated", "answers", "first explored"),
        *("tokens", "think tokens", "explored", "p1"),
    ]
    # "official" is for multiple choice, "explored" for LED: only where there is any
    used = [i for i in range(len(heads)) if any(row[i] != NONE for row in rows)]
    return Table(
        "Details",
        "no answer, cut off (or thinking never ended) and grader failures in percent of the "
        "samples; repeated: completions identical to another one of the same problem; answers: "
        "different final answers of a problem, on average; first explored: different places at "
        "which its samples explored first; explored in percent of the think tokens; p1: mean top-1 "
        "probability while thinking, in percent.",
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
