"""What a finished or stopped run leaves for people: metrics.json, report.html, report.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.report import header
from led_sglang.evaluation.report.pages import render_report, write_pages
from led_sglang.evaluation.report.plots import draw_all
from led_sglang.evaluation.report.results import read_results
from led_sglang.evaluation.report.summary import summarize
from led_sglang.evaluation.report.tables import answers, backgrounds, markdown
from led_sglang.evaluation.store import RunStore, write_atomically


def write_report(store: RunStore) -> dict[str, Any]:
    """Write metrics.json, report.md, report.html, plots/ and pages/ of a run; the metrics.

    Raises:
        EvaluationError: the run cannot be read, holds no sample, or the disk is full.
    """
    results = read_results(store)
    if not results.finished:
        raise EvaluationError(
            f"{store.folder} holds no finished sample: there is nothing to report"
        )
    metrics = summarize(results)
    title, facts = header.title(results.settings), header.facts(results)
    write_atomically(store.folder / "metrics.json", json.dumps(metrics, indent=1))
    write_atomically(store.folder / "report.md", _markdown(title, facts, metrics))
    try:
        plots = draw_all(metrics, store.folder / "plots")
    except OSError as error:
        raise EvaluationError(f"cannot write the plots: {error}. Samples are kept") from None
    write_pages(store, results)
    page = render_report(title, facts, metrics, results, plots)
    write_atomically(store.folder / "report.html", page)
    return metrics


def _markdown(title: str, facts: list[tuple[str, str]], metrics: Mapping[str, Any]) -> str:
    """The report for terminals."""
    shown = [f"- {name}: {value}" for name, value in facts]
    warnings = [f"> **Note** {warning}" for warning in metrics["warnings"]]
    parts = [f"# {title}", "", *shown, "", *warnings, "", ""]
    tables = [*answers(metrics), *backgrounds(metrics)]
    return "\n".join(parts) + "\n\n".join(markdown(table) for table in tables) + "\n"
