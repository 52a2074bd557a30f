"""The tables of accuracy and of differences as CSV, number for number, and as LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from led_sglang.evaluation.report.tables import Table, accuracy, differences
from led_sglang.evaluation.store import write_atomically

_ACCURACY = ("task", "sampler", "temperature", "metric", "value", "low", "high")
_DIFFERENCES = (
    *("task", "sampler", "baseline", "temperature", "metric", "items", "difference", "low"),
    *("high", "detectable", "verdict"),
)
# Signs of LaTeX, and how it writes them; the minus of a number is one, too.
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "\\": "\\textbackslash{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
}


def export(metrics: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `accuracy` and `differences`, `.csv` and `.tex` each, into `folder`.

    A `.csv` holds the numbers of `metrics.json` in full; a `.tex` is a `table` with its caption and
    the rules of the package booktabs, for `\\input`.

    Returns:
        The files; none of differences where nothing is compared.

    Raises:
        EvaluationError: one cannot be written.
    """
    texts = {
        "accuracy.csv": _csv(_ACCURACY, _accuracy_rows(metrics)),
        "accuracy.tex": latex(accuracy(metrics), "led-accuracy"),
    }
    if metrics["paired"]:
        rows = ([entry[name] for name in _DIFFERENCES] for entry in metrics["paired"])
        texts["differences.csv"] = _csv(_DIFFERENCES, rows)
        texts["differences.tex"] = latex(differences(metrics), "led-differences")
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]


def latex(table: Table, label: str) -> str:
    """A `table` whose caption says what the numbers are; names stand left, numbers right.

    Args:
        table: any of the report's.
        label: what `\\ref` finds it by, behind `tab:`.
    """
    columns = "l" * table.labels + "r" * (len(table.heads) - table.labels)
    rows = [f"{' & '.join(map(_cell, row))} \\\\" for row in table.rows]
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_cell(f'{table.title}. {table.note}')}}}",
        f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        f"{' & '.join(map(_cell, table.heads))} \\\\",
        "\\midrule",
        *rows,
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    # A number's sign is no hyphen, and an interval's dots are a dash.
    return re.sub(r"(?<![\w.)])[+-](?=\d)", r"$\g<0>$", escaped.replace(" .. ", " to "))


def _accuracy_rows(metrics: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
    """Every share with an interval of every cell, and of the means over tasks."""
    for task, cells in [*metrics["tasks"].items(), ("average", metrics["average"])]:
        for sampler, by_temperature in cells.items():
            for temperature, cell in by_temperature.items():
                for metric, entry in cell.items():
                    if isinstance(entry, Mapping) and entry.get("interval"):
                        value = entry["symbolic_correct"]
                        yield [task, sampler, temperature, metric, value, *entry["interval"]]


def _csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return text.getvalue()
