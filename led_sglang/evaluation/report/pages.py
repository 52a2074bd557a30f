"""The HTML of a report, by the templates in `page/`: a page for the run, and one a problem.

Templates escape whatever they are given; no page asks for anything over the network.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from led_sglang.evaluation.report.results import Results, Sample
from led_sglang.evaluation.report.tables import answers, backgrounds
from led_sglang.evaluation.store import Key, RunStore, file_name, trace_path, write_atomically

# The first facts of the head, which every reader wants.
_SHOWN_FACTS = 9
# Of a text, this much of its start and of its end is shown; the whole is in the JSONL file.
SHOWN_CHARACTERS = 6000
# Letter and CSS class of an outcome.
_MARKS = {
    "correct": ("✓", "correct"),
    "wrong": ("✗", "wrong"),
    "truncated": ("…", "truncated"),
    "no_answer": ("∅", "other"),
    "timeout": ("t", "other"),
    "error": ("!", "other"),
    "ungraded": ("?", "other"),
}

Columns = dict[float, dict[str, Sequence[Sample]]]
"""Samples of a problem by temperature and sampler."""


def render_report(
    title: str,
    facts: Sequence[tuple[str, str]],
    metrics: Mapping[str, Any],
    results: Results,
    plots: Mapping[str, str],
) -> str:
    """The text of `report.html`; `plots` are SVG by name, see `plots.draw_all`."""
    return (
        _templates()
        .get_template("report.html")
        .render(
            title=title,
            facts=facts,
            shown_facts=_SHOWN_FACTS,
            warnings=metrics["warnings"],
            answers=answers(metrics),
            backgrounds=backgrounds(metrics),
            results=results,
            plots=plots,
            marks=_MARKS,
            link=_link,
        )
    )


def write_pages(store: RunStore, results: Results) -> None:
    """Write the pages of a run's problems; an EvaluationError where the disk is full."""
    template = _templates().get_template("problem.html")
    by_item: dict[tuple[str, str], Columns] = defaultdict(lambda: defaultdict(dict))
    for (task, sampler, temperature), items in results.cells.items():
        for item, samples in items.items():
            by_item[task, item][temperature][sampler] = samples
    for (task, item), columns in by_item.items():
        records = {
            temperature: {
                sampler: [(sample, store.read(sample.stored)) for sample in samples]
                for sampler, samples in by_sampler.items()
            }
            for temperature, by_sampler in sorted(columns.items())
        }
        _, first = next(iter(next(iter(records.values())).values()))[0]
        page = template.render(
            task=task,
            item=item,
            problem=first["problem"],
            expected=first["expected_answer"],
            samples=records,
            marks=_MARKS,
            anchor=_anchor,
            trace_command=lambda key: trace_command(store.folder, key),
            trace_link=lambda key: f"../../{quote(trace_path(key).as_posix())}",
        )
        write_atomically(store.folder / _page_path(task, item), page)


def trace_command(folder: Path, key: Key) -> str:
    """The command that asks for a sample again and shows its trace."""
    sample = f"{key.task}/{key.item}/{key.sample}"
    words = ["led-sglang", "trace", "--from-run", str(folder), "--sample", sample]
    return shlex.join([*words, "--sampler", key.sampler, "--temperature", f"{key.temperature:g}"])


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("led_sglang.evaluation.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shortened"] = _shortened
    return environment


def _page_path(task: str, item: str) -> Path:
    """Where the page of a problem is, below the run directory."""
    return Path("pages") / task / f"{file_name(item)}.html"


def _link(key: Key) -> str:
    """Relative link to a sample."""
    return f"{quote(_page_path(key.task, key.item).as_posix())}#{quote(_anchor(key))}"


def _anchor(key: Key) -> str:
    return f"{key.sampler}-{key.temperature:g}-{key.sample}"


def _shortened(text: str) -> str:
    if len(text) <= 2 * SHOWN_CHARACTERS:
        return text
    left_out = len(text) - 2 * SHOWN_CHARACTERS
    start, end = text[:SHOWN_CHARACTERS], text[-SHOWN_CHARACTERS:]
    return f"{start}\n\n[... {left_out:,} characters are left out here ...]\n\n{end}"
