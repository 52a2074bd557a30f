"""Traces as one self-contained HTML file: no network, and generated text is never markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from led_sglang.common.phases import PHASE_NAMES
from led_sglang.trace.records import Token, Trace, first_divergence

_SCRIPTS = ("run.js", "pane.js", "detail.js", "main.js")
_MARK = re.compile(r"@@([A-Z_]+)@@")

# What happened to a token; the order is known to run.js.
_KINDS = ("before", "untraced", "exploited", "explored", "response")


def write_page(traces: Sequence[Trace], path: Path | str) -> Path:
    """Write the viewer for one trace, or for two side by side from their first divergence.

    Raises:
        ValueError: neither one trace nor two.
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.write_text(render_page(traces), encoding="utf-8")
    return path


def render_page(traces: Sequence[Trace]) -> str:
    """The text of the HTML file, see `write_page`.

    A content security policy admits the viewer's own script by its digest and nothing else. The
    data is JSON without any `<`, so no text in it can end its element; the script shows it as text.
    """
    if len(traces) not in (1, 2):
        raise ValueError(f"the viewer shows one trace or two, not {len(traces)}")
    script = "".join(_asset(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "POLICY": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        "TITLE": html.escape("LED trace: " + " | ".join(trace.sampler for trace in traces)),
        "STYLE": _asset("style.css"),
        "DATA": _json(page_data(traces)),
        "SCRIPT": script,
    }
    # One pass: what looks like a mark inside the data is left alone.
    return _MARK.sub(lambda match: parts[match[1]], _asset("template.html"))


def page_data(traces: Sequence[Trace]) -> dict[str, Any]:
    """What the page holds: per run one column a field, floats in full float32."""
    divergence = first_divergence(*traces) if len(traces) == 2 else None
    return {"divergence": divergence, "runs": [_run(trace) for trace in traces]}


def _run(trace: Trace) -> dict[str, Any]:
    steps = [token.step for token in trace.tokens]
    texts: dict[str, int] = {}
    text_index = [_intern(texts, _shown(token.text, token.token_id)) for token in trace.tokens]
    candidates = sorted({i for step in steps if step for i in step.candidate_ids})
    deepest = max((len(step.layer_probs) for step in steps if step), default=0)
    nan = float("nan")

    def column(name: str) -> str:
        values = [getattr(step, name) if step else None for step in steps]
        return _pack([nan if value is None else value for value in values], "<f4")

    return {
        "sampler": trace.sampler,
        "model": trace.model,
        "prompt": trace.prompt,
        "request": [
            [name, value if isinstance(value, str) else json.dumps(value)]
            for name, value in trace.request.items()
        ],
        "layers": [trace.settings.layer(d) for d in range(1, deepest + 1)],
        "gate": trace.settings.gate,
        "count": len(trace.tokens),
        "ids": _pack([token.token_id for token in trace.tokens], "<i4"),
        "kind": _pack([_KINDS.index(_kind(token)) for token in trace.tokens], "u1"),
        "phase": _pack([PHASE_NAMES.index(token.phase) for token in trace.tokens], "u1"),
        "depth": _pack([step.depth if step else 0 for step in steps], "u1"),
        "p1": column("p1"),
        "entropy": column("entropy"),
        "logprob": column("behaviour_logprob"),
        "explore": column("explore_probability"),
        "draw": column("gate_draw"),
        "width": _pack([len(step.candidate_ids) if step else 0 for step in steps], "u1"),
        "rows": _pack([len(step.layer_probs) if step else 0 for step in steps], "u1"),
        "candidates": _pack([i for step in steps if step for i in step.candidate_ids], "<i4"),
        "q": _pack_arrays([step.behaviour_probs for step in steps if step]),
        "p": _pack_arrays([step.layer_probs for step in steps if step]),
        "text": _pack(text_index, "<i4"),
        "candidateTexts": [
            [i, _intern(texts, _shown(trace.token_texts.get(i), i))] for i in candidates
        ],
        "texts": list(texts),
    }


def _kind(token: Token) -> str:
    if token.step is not None:
        return "explored" if token.step.explored else "exploited"
    return "untraced" if token.phase == "think" else token.phase


def _shown(text: str | None, token_id: int) -> str:
    """A token whose text is not known is shown by its id."""
    return f"[{token_id}]" if text is None else text


def _intern(texts: dict[str, int], text: str) -> int:
    return texts.setdefault(text, len(texts))


def _pack(values: Sequence[float] | np.ndarray[Any, Any], dtype: str) -> str:
    return base64.b64encode(np.asarray(values, dtype=dtype).tobytes()).decode()


def _pack_arrays(arrays: Sequence[np.ndarray[Any, Any]]) -> str:
    flat = [array.ravel() for array in arrays]
    return _pack(np.concatenate(flat) if flat else [], "<f4")


def _json(data: Any) -> str:
    """JSON that HTML cannot misread; escapes inside strings change nothing for a JSON reader."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (resources.files("led_sglang.trace") / "page" / name).read_text(encoding="utf-8")
