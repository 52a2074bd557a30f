"""The expressions of the Grafana dashboard, as Prometheus would read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "led.json"


def expressions() -> Iterator[promql_parser.Expr]:
    """Of all panels and variables, Grafana's own variables replaced by values."""
    dashboard = json.loads(FILE.read_text())
    texts = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            texts.append(f"count by ({found[2]}) ({found[1]})")
    for text in texts:
        durations = re.sub(r"\$__(rate_interval|range)\b", "5m", text)
        yield promql_parser.parse(re.sub(r"\$\w+", ".*", durations))


def selectors(expression: Any) -> list[tuple[str, set[str]]]:
    """Name of each metric in an expression, with the labels it is selected and grouped by."""
    found: list[tuple[str, set[str]]] = []
    _collect(expression, set(), found)
    return found


def _collect(node: Any, grouped: set[str], found: list[tuple[str, set[str]]]) -> None:
    if isinstance(node, promql_parser.VectorSelector):
        found.append((node.name, grouped | {m.name for m in node.matchers.matchers}))
    elif isinstance(node, promql_parser.MatrixSelector):
        _collect(node.vector_selector, grouped, found)
    elif isinstance(node, promql_parser.AggregateExpr):
        by = set(node.modifier.labels) if node.modifier is not None else set()
        _collect(node.expr, grouped | by, found)
    elif isinstance(node, promql_parser.BinaryExpr):
        _collect(node.lhs, grouped, found)
        _collect(node.rhs, grouped, found)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            _collect(argument, grouped, found)
    elif isinstance(node, promql_parser.ParenExpr):
        _collect(node.expr, grouped, found)
    else:
        assert isinstance(node, promql_parser.NumberLiteral), node
