"""Traces as objects, from a response's `meta_info` to pandas (docs/method.md#notation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from led_sglang.common.extras import need
from led_sglang.common.phases import PHASE_NAMES
from led_sglang.common.terminal import CommandError

if TYPE_CHECKING:
    import pandas

Floats = np.ndarray[Any, np.dtype[np.float64]]


class TraceError(CommandError, ValueError):
    """A response holds no trace, or none that can be read; says what to do."""


@dataclass(frozen=True)
class TraceSettings:
    """What the request asked for, as far as a reader of the trace needs it.

    num_layers and release_layers name the layers. A field that is None is not known.
    """

    gate: str | None = None
    num_layers: int | None = None
    release_layers: bool = False

    def layer(self, depth: int) -> int | None:
        """Decoder layer (1-based) whose residual stream row `depth` of a step reads."""
        if self.num_layers is None:
            return None
        skipped = 1 if self.release_layers and depth > 1 else 0
        return self.num_layers - (depth - 1) - skipped


@dataclass(frozen=True)
class Step:
    """One LED step (think phase only); d rows from the final layer downwards, k candidates.

    Entropies are in nats. `behaviour_probs` is q over the candidates; `gate_draw` the uniform
    number the gate drew, `explore_probability` what it was held against (None from a server that
    does not report it).
    """

    explored: bool
    depth: int  # chosen; 1 is the final layer, and the only one of an exploiting step
    p1: float
    entropy: float  # H(p^L) over the vocabulary; 0 where the server had no need of it
    candidate_ids: tuple[int, ...]
    layer_probs: Floats  # [d, k], p^l(x_i)
    behaviour_probs: Floats  # [k]
    behaviour_logprob: float | None
    gate_draw: float | None
    explore_probability: float | None

    @property
    def cumulative(self) -> Floats:
        """a^l, [d, k]: normalised over the candidates (docs/method.md#cumulative-sums)."""
        sums: Floats = self.layer_probs.cumsum(axis=0)
        total = sums.sum(axis=1, keepdims=True)
        return sums / np.where(total == 0.0, 1.0, total)

    @property
    def entropies(self) -> Floats:
        """H(a^l), [d], nats (docs/method.md#entropy-choice)."""
        a = self.cumulative
        return (a * np.log(1.0 / np.where(a == 0.0, 1.0, a))).sum(axis=1)


@dataclass(frozen=True)
class Token:
    """One generated token; `step` is None where LED did not sample it."""

    position: int
    token_id: int
    text: str | None
    phase: str  # "before", "think" or "response"
    step: Step | None


@dataclass(frozen=True)
class Trace:
    """A completion, token by token.

    `traced` is False for a completion of another sampler: phases at best, no steps. `request` is
    what was asked for, name by name, for display.
    """

    tokens: tuple[Token, ...]
    sampler: str = "led"
    traced: bool = True
    prompt: str = ""
    model: str = ""
    settings: TraceSettings = field(default_factory=TraceSettings)
    token_texts: Mapping[int, str] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_response(
        cls,
        response: Mapping[str, Any],
        *,
        choice: int = 0,
        prompt: str = "",
        model: str = "",
        settings: TraceSettings | None = None,
        token_texts: Mapping[int, str] | None = None,
        texts: Sequence[str] | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> Trace:
        """The trace in an answer of `/generate` or `/v1/chat/completions`.

        Args:
            response: the whole answer, of which `meta_info` is read.
            choice: which of a chat answer's choices.
            prompt, model, request: kept for display.
            settings: of the request.
            token_texts: text of token ids, those of candidates included.
            texts: text of each generated token in its place, where that is not `token_texts`' (a
                character spread over several tokens).

        Raises:
            TraceError: no trace, or a malformed entry.
        """
        settings, token_texts = settings or TraceSettings(), token_texts or {}
        entries = trace_entries(response, choice)
        try:
            ids = [int(entry["token_id"]) for entry in entries]
            pieces: Sequence[str | None] = (
                [token_texts.get(i) for i in ids] if texts is None else texts
            )
            tokens = tuple(
                Token(i, token, piece, _phase(entry), _step(entry))
                for i, (token, piece, entry) in enumerate(zip(ids, pieces, entries, strict=True))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"an entry of led_trace cannot be read: {error!r}") from None
        return cls(tokens, "led", True, prompt, model, settings, token_texts, request or {})

    def to_pandas(self) -> pandas.DataFrame:
        """One row a token: position, token_id, text, phase, explored, depth, layer, p1, entropy,
        explore_probability, gate_draw, behaviour_logprob; empty where LED did not sample."""
        rows = []
        for token in self.tokens:
            row: dict[str, Any] = {name: getattr(token, name) for name in _TOKEN_COLUMNS}
            if token.step is not None:
                row |= {name: getattr(token.step, name) for name in _STEP_COLUMNS}
                row["layer"] = self.settings.layer(token.step.depth)
            rows.append(row)
        columns = [*_TOKEN_COLUMNS, *_STEP_COLUMNS, "layer"]
        return need("pandas").DataFrame(rows, columns=columns)

    def layers_to_pandas(self) -> pandas.DataFrame:
        """One row for each token, depth (1 = final layer) and candidate: position, depth, layer,
        rank (0 = likeliest), token_id, text, p (p^l), a (a^l), entropy (H(a^l), nats)."""
        rows = []
        for token in self.tokens:
            if token.step is None:
                continue
            a, entropies = token.step.cumulative, token.step.entropies
            for row, probs in enumerate(token.step.layer_probs):
                for rank, (candidate, p) in enumerate(
                    zip(token.step.candidate_ids, probs, strict=True)
                ):
                    rows.append(
                        {
                            "position": token.position,
                            "depth": row + 1,
                            "layer": self.settings.layer(row + 1),
                            "rank": rank,
                            "token_id": candidate,
                            "text": self.token_texts.get(candidate),
                            "p": p,
                            "a": a[row, rank],
                            "entropy": entropies[row],
                        }
                    )
        columns = ["position", "depth", "layer", "rank", "token_id", "text", "p", "a", "entropy"]
        return need("pandas").DataFrame(rows, columns=columns)


_TOKEN_COLUMNS = ("position", "token_id", "text", "phase")
_STEP_COLUMNS = (
    *("explored", "depth", "p1", "entropy", "explore_probability", "gate_draw"),
    "behaviour_logprob",
)


def trace_entries(response: Mapping[str, Any], choice: int = 0) -> list[dict[str, Any]]:
    """`meta_info["led_trace"]` of an answer of `/generate` or `/v1/chat/completions`.

    Raises:
        TraceError: there is no such thing; says what to ask for.
    """
    holder: Any = response
    if isinstance(response, Mapping) and "choices" in response:
        choices = response["choices"]
        if not 0 <= choice < len(choices):
            raise TraceError(f"the answer has {len(choices)} choices: there is no choice {choice}")
        holder = choices[choice]
        if holder.get("meta_info") is None:
            raise TraceError(
                'the response holds no meta_info: ask with "return_meta_info": true and without '
                "streaming"
            )
    meta = holder.get("meta_info") if isinstance(holder, Mapping) else None
    if not isinstance(meta, Mapping):
        raise TraceError("not one answer of /generate or /v1/chat/completions: it has no meta_info")
    entries = meta.get("led_trace")
    if entries is None:
        raise TraceError(
            "the response holds no trace: ask with custom_params "
            '{"sampler": "led", "led": {"trace": true}} on a server that runs led-sglang'
        )
    if not isinstance(entries, list):
        raise TraceError("led_trace must be a list of one entry a token")
    return entries


def first_divergence(a: Trace, b: Trace) -> int | None:
    """Position of the first token that differs; None if the completions are the same."""
    pairs = zip_longest((t.token_id for t in a.tokens), (t.token_id for t in b.tokens))
    return next((i for i, (x, y) in enumerate(pairs) if x != y), None)


def _phase(entry: Mapping[str, Any]) -> str:
    phase: str = entry["phase"]
    if phase not in PHASE_NAMES:
        raise ValueError(f"phase {phase!r} is not one of {', '.join(PHASE_NAMES)}")
    return phase


def _step(entry: Mapping[str, Any]) -> Step | None:
    if "layer_probs" not in entry:
        return None
    layer_probs = np.asarray(entry["layer_probs"], dtype=np.float64)
    ids, q = tuple(entry["candidate_ids"]), np.asarray(entry["behaviour_probs"], dtype=np.float64)
    if layer_probs.ndim != 2 or layer_probs.shape[1] != len(ids) or q.shape != (len(ids),):
        raise ValueError(f"layer_probs {layer_probs.shape} does not fit {len(ids)} candidates")
    return Step(
        explored=bool(entry["explored"]),
        depth=int(entry["depth"]),
        p1=float(entry["p1"]),
        entropy=float(entry["entropy"]),
        candidate_ids=ids,
        layer_probs=layer_probs,
        behaviour_probs=q,
        behaviour_logprob=entry.get("behaviour_logprob"),
        gate_draw=entry.get("gate_draw"),
        explore_probability=entry.get("explore_probability"),
    )
