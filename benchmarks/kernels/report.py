"""The table as JSON, Markdown and a roofline plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS = (
    ("model", "model"),
    ("hidden", "H"),
    ("vocab", "V"),
    ("rows", "rows"),
    ("bound", "bound"),
    ("floor_us", "floor us"),
    ("ours_p10_us", "logsumexp p10 us"),
    ("ours_us", "logsumexp p50 us"),
    ("ours_p90_us", "logsumexp p90 us"),
    ("percent_of_floor", "% of floor"),
    ("gb_per_s", "GB/s"),
    ("tflop_per_s", "TFLOP/s"),
    ("cublas_us", "cuBLAS + logsumexp us"),
    ("quack_us", "quack us"),
    ("others_us", "all other kernels us"),
    ("idle_us", "nobody explores us"),
    ("idle_graph_us", "nobody explores, as a CUDA graph us"),
    ("whole_us", "whole step us"),
    ("graph_us", "as a CUDA graph us"),
    ("enqueue_us", "host launches us"),
    ("eager_us", "torch step us"),
    ("authors_us", "authors us"),
    ("workspace_mb", "workspace MB"),
    ("step_peak_mb", "step peak MB"),
    ("max_error", "max error"),
)


def save(folder: Path, header: dict[str, Any], table: list[dict[str, Any]]) -> None:
    """Write kernels.json, kernels.md and, where matplotlib is installed, roofline.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernels.json").write_text(json.dumps({"header": header, "rows": table}, indent=2))
    (folder / "kernels.md").write_text(markdown(header, table))
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no roofline.png")
        return
    matplotlib.use("Agg")
    _roofline(folder / "roofline.png", header, table)


def markdown(header: dict[str, Any], table: list[dict[str, Any]]) -> str:
    lines = [f"* {key}: {value}" for key, value in header.items()]
    lines += ["", "| " + " | ".join(title for _, title in COLUMNS) + " |"]
    lines += ["|" + "---|" * len(COLUMNS)]
    for row in table:
        lines.append("| " + " | ".join(_cell(row[key]) for key, _ in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _roofline(path: Path, header: dict[str, Any], table: list[dict[str, Any]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    bandwidth = header["copy GB/s"] * 1e9
    rate = header["GEMM TFLOP/s"] * 1e12
    rows = sorted([*(2.0**n for n in range(0, 11)), rate / bandwidth])
    axes.plot(rows, [min(n * bandwidth, rate) / 1e12 for n in rows], "k-", label="measured roof")
    others = (("cublas_us", "cuBLAS + logsumexp", "s"), ("quack_us", "quack", "^"))
    for number, model in enumerate(dict.fromkeys(row["model"] for row in table)):
        points = [row for row in table if row["model"] == model]
        color = f"C{number}"
        count = [p["rows"] for p in points]
        axes.plot(count, [p["tflop_per_s"] for p in points], "o-", color=color, label=model)
        for key, name, marker in others:
            timed = [p for p in points if p[key] is not None]
            if timed:
                axes.plot(
                    [p["rows"] for p in timed],
                    [p["tflop_per_s"] * p["ours_us"] / p[key] for p in timed],
                    marker,
                    color=color,
                    fillstyle="none",
                    label=f"{model}, {name}",
                )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("latent rows (FLOP per byte of a bf16 LM head)")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(f"{header['device']}, {header['date']}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
