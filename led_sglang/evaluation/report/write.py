"""What a finished or stopped run leaves for people: metrics.json, report.html, report.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.report.pages import item_link, write_pages
from led_sglang.evaluation.report.plots import Plot, draw_all
from led_sglang.evaluation.report.results import Results, Row, read_results
from led_sglang.evaluation.report.summary import summarize
from led_sglang.evaluation.report.tables import Table, answers, backgrounds, markdown
from led_sglang.evaluation.store import RunStore, write_atomically

CSS = """\
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5a6577; --grid: #dde2ea;
  --paper: #ffffff; --card: #f5f7fa; --link: #2463b0; --good: #1f8a5f; --bad: #b93a4c;
  --none: #8a93a3; --cut: #b7791f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #a3adbd; --grid: #353d4b;
  --paper: #14181f; --card: #1d232d; --link: #7db3f0; --good: #4fc08d; --bad: #f07d8c;
  --none: #7c8697; --cut: #e0b050; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 1.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
a { color: var(--link); } p.note { color: var(--soft); margin: .3rem 0 .6rem; max-width: 52rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
ul.warnings { background: var(--card); border-left: 4px solid var(--cut); margin: 1rem 0;
  padding: .7rem 1rem .7rem 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--grid); text-align: right;
  white-space: nowrap; } th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th.name, td.name { text-align: left; }
figure { margin: .6rem 0; overflow-x: auto; } figure svg { width: 100%; height: auto;
  min-width: 34rem; } figcaption { color: var(--soft); font-size: 14px; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
td.samples { text-align: left; white-space: normal; }
td.samples a { display: inline-block; width: 1.15em; text-align: center; text-decoration: none;
  font-weight: 600; } .correct { color: var(--good); } .wrong { color: var(--bad); }
.truncated { color: var(--cut); } .other { color: var(--none); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); padding: .7rem;
  border-radius: 6px; font-size: 13px; } section.sample { border-top: 1px solid var(--grid); }
"""

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


def write_report(store: RunStore) -> dict[str, Any]:
    """Write metrics.json, report.md, report.html, plots/ and pages/ of a run.

    Returns:
        The metrics.

    Raises:
        EvaluationError: the run cannot be read, holds no sample, or the disk is full.
    """
    results = read_results(store)
    if not results.finished:
        raise EvaluationError(
            f"{store.folder} holds no finished sample: there is nothing to report"
        )
    metrics = summarize(results)
    write_atomically(store.folder / "metrics.json", json.dumps(metrics, indent=1))
    write_atomically(store.folder / "report.md", render_markdown(metrics, results))
    try:
        plots = draw_all(metrics, store.folder / "plots")
    except OSError as error:
        raise EvaluationError(f"cannot write the plots: {error}. Samples are kept") from None
    write_pages(store, results, CSS)
    write_atomically(store.folder / "report.html", render_html(metrics, results, plots))
    return metrics


def render_markdown(metrics: Mapping[str, Any], results: Results) -> str:
    """The report for terminals."""
    facts = [f"- {name}: {value}" for name, value in _facts(metrics, results)]
    warnings = [f"> **Note** {warning}" for warning in metrics["warnings"]]
    parts = [f"# {_title(results)}", *facts, "", *warnings, ""]
    tables = [*answers(metrics), *backgrounds(metrics)]
    return "\n".join(parts) + "\n\n".join(markdown(table) for table in tables) + "\n"


def render_html(metrics: Mapping[str, Any], results: Results, plots: list[Plot]) -> str:
    """The report as one file that asks for nothing over the network."""
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in _facts(metrics, results)
    )
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in metrics["warnings"])
    title = escape(_title(results))
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title><style>{CSS}</style></head><body>",
            f"<h1>{title}</h1><dl>{facts}</dl>",
            f'<ul class="warnings">{warnings}</ul>' if warnings else "",
            *map(_html_table, answers(metrics)),
            *map(_html_plot, plots),
            "<h2>All numbers</h2>",
            *map(_folded_table, backgrounds(metrics)),
            _html_samples(results),
            "</body></html>",
        ]
    )


def _title(results: Results) -> str:
    return f"LED evaluation of {results.settings['model']}"


def _facts(metrics: Mapping[str, Any], results: Results) -> list[tuple[str, str]]:
    grid, server = results.grid, results.settings["server"]
    led = server.get("led")
    return [
        ("samples", f"{results.finished:,} of {results.expected:,}"),
        ("samplers", ", ".join(sampler.label for sampler in grid.samplers)),
        ("temperatures", ", ".join(f"{t:g}" for t in grid.temperatures)),
        ("sampling", f"n = {grid.n}, top_p {grid.top_p:g}, top_k {grid.top_k}, seed {grid.seed}"
                     + (" + sample" if grid.seed_per_sample else "")),
        ("longest generation", f"{grid.max_tokens:,} tokens"),
        ("graded text", "answer part" if grid.scope == "answer" else "whole completion"),
        ("concurrency", ", ".join(map(str, metrics["concurrency"])) + " requests at a time"),
        ("server", f"SGLang {server.get('version')}, {server.get('dtype')}, "
                   f"tensor parallel {server.get('tp_size')}"),
        ("LED", f"depth {led['depth']}, candidates {led['candidates']}, layers {led['layers']}"
                if led else "not enabled"),
    ]  # fmt: skip


def _folded_table(table: Table) -> str:
    return (
        f"<details><summary>{escape(table.title)}</summary><p class=note>{escape(table.note)}</p>"
        f"{_cells(table)}</details>"
    )


def _html_table(table: Table) -> str:
    note = f"<p class=note>{escape(table.note)}</p>"
    return f"<h2>{escape(table.title)}</h2>{note}{_cells(table)}"


def _cells(table: Table) -> str:
    def row(texts: Any, tag: str) -> str:
        cells = "".join(
            f"<{tag}{' class=name' if index < table.labels else ''}>{escape(text)}</{tag}>"
            for index, text in enumerate(texts)
        )
        return f"<tr>{cells}</tr>"

    body = "".join(row(texts, "td") for texts in table.rows)
    head = row(table.heads, "th")
    return f"<div class=wide><table><thead>{head}</thead><tbody>{body}</tbody></table></div>"


def _html_plot(plot: Plot) -> str:
    return (
        f"<h2>{escape(plot.title)}</h2><figure id={plot.name}>{plot.svg}"
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _html_samples(results: Results) -> str:
    """Every sample as a mark that links to its text."""
    legend = ", ".join(
        f"<span class={style}>{mark}</span> {name.replace('_', ' ')}"
        for name, (mark, style) in _MARKS.items()
    )
    return (
        f"<h2>Every sample</h2><p class=note>Each mark links to its text: {legend}.</p>"
        + "".join(_html_task_samples(results, task) for task in results.tasks)
    )


def _html_task_samples(results: Results, task: str) -> str:
    cells = [cell for cell in results.cells if cell[0] == task]
    items = sorted({item for cell in cells for item in results.cells[cell]})
    heads = "".join(
        f"<th class=name>{escape(sampler)}, T = {temperature:g}</th>"
        for _, sampler, temperature in cells
    )
    rows = "".join(
        f"<tr><td class=name>{escape(item)}</td>"
        + "".join(
            "<td class=samples>"
            + "".join(_mark(row) for row in results.cells[cell].get(item, ()))
            + "</td>"
            for cell in cells
        )
        + "</tr>"
        for item in items
    )
    return (
        f"<details><summary>{escape(task)}</summary><div class=wide><table>"
        f"<thead><tr><th class=name>problem</th>{heads}</tr></thead><tbody>{rows}</tbody>"
        "</table></div></details>"
    )


def _mark(row: Row) -> str:
    mark, style = _MARKS[row.outcome]
    href = escape(item_link(row.stored.key), quote=True)
    return f'<a class={style} href="{href}">{mark}</a>'
