"""Think-phase state machine (docs/method.md#think-phase): `before` -> `think` -> `response`.

The same automaton runs on the host (one `int` a request) and on the device (one int64 a row).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from led_sglang.common.phases import Phase
from led_sglang.kernels.draft_tree import DraftTree, node_states
from led_sglang.kernels.phase import KEEP, DeviceTables, ThinkPhase

__all__ = ["KEEP", "Phase", "PhaseTracker", "StepInputs", "ThinkAutomaton"]

_SCAN_CHUNK = 4096


class ThinkAutomaton:
    """DFA over (phase, how much of a delimiter has been seen); docs/method.md#think-phase.

    A completed tool start leads from THINK to RESPONSE and changes no other phase: SGLang's
    reasoning parsers read a stream so, whatever follows it. Progress is the longest suffix of the
    stream that begins a delimiter (Aho-Corasick), so overlapping partial matches are followed:
    [1, 1, 2] is found in 1, 1, 1, 2.

    Args:
        think_start, think_end: token ids of the delimiters, one or more each.
        boundaries: ids that separate the turns of a prompt; those that a delimiter uses are
            dropped, as gpt-oss's `<|end|>`. Only `scan_prompt` looks at them.
        tool_start: token ids that begin a tool call; none: tool calls do not end a thought.

    Attributes:
        num_states: number of reachable states; states are 0 .. num_states - 1.
        initial: the state of each phase with no partial delimiter seen.

    Raises:
        ValueError: a think delimiter is empty, or of two delimiters one contains the other.
    """

    def __init__(
        self,
        think_start: Sequence[int],
        think_end: Sequence[int],
        boundaries: Collection[int] = (),
        tool_start: Sequence[int] = (),
    ) -> None:
        start, end, tool = tuple(think_start), tuple(think_end), tuple(tool_start)
        _check_delimiters(start, end, tool)
        self._start, self._end, self._tool = start, end, tool
        self._longest = max(len(start), len(end), len(tool))
        tokens = sorted({*start, *end, *tool})
        # Class 0 is every token that no delimiter uses.
        self._class_of = {token: index for index, token in enumerate(tokens, start=1)}
        self._boundaries = np.array(sorted(set(boundaries) - set(tokens)), dtype=np.int64)
        self._phases, self._rows = self._build(tokens)
        self.num_states = len(self._rows)
        self.initial = {phase: int(phase) for phase in Phase}

    def _build(self, tokens: list[int]) -> tuple[list[Phase], list[list[int]]]:
        """Breadth-first search from the three initial states; rows are indexed by token class."""
        delimiters = (self._start, self._end, self._tool)
        proper_prefixes = {d[:n] for d in delimiters for n in range(len(d))}
        nodes: list[tuple[Phase, tuple[int, ...]]] = [(phase, ()) for phase in Phase]
        index = {node: state for state, node in enumerate(nodes)}
        rows: list[list[int]] = []
        for phase, seen in nodes:  # grows while it is walked
            row = [int(phase)]
            for token in tokens:
                text = (*seen, token)
                reached = self._reached(phase, text)
                suffix = next(text[i:] for i in range(len(text) + 1) if text[i:] in proper_prefixes)
                node = (reached, suffix)
                if node not in index:
                    index[node] = len(nodes)
                    nodes.append(node)
                row.append(index[node])
            rows.append(row)
        return [phase for phase, _ in nodes], rows

    def _reached(self, phase: Phase, seen: tuple[int, ...]) -> Phase:
        """The phase after the last token of `seen`, which ends with at most one delimiter."""
        if _ends_with(seen, self._start):
            return Phase.THINK
        if _ends_with(seen, self._end):
            return Phase.RESPONSE
        if phase == Phase.THINK and self._tool and _ends_with(seen, self._tool):
            return Phase.RESPONSE
        return phase

    def phase(self, state: int) -> Phase:
        """The phase in which the next token is sampled."""
        return self._phases[state]

    def advance(self, state: int, token_ids: Iterable[int]) -> int:
        """The state after `token_ids`, which follow the tokens that led to `state`."""
        for token in token_ids:
            state = self._rows[state][self._class_of.get(token, 0)]
        return state

    def scan_prompt(self, token_ids: Sequence[int]) -> int:
        """The state in which the first token is sampled: the prompt's last delimiter decides.

        The tail is what follows the last boundary token (the whole prompt without one), so a tag
        in the user's text, or a think block or a tool call of an earlier turn, does not count. A
        tool start counts where it interrupts a thought of the tail. A delimiter that
        the prompt only begins is carried into decoding. Generated tokens are no prompt: after a
        retraction, `advance` over them from the prompt's state.

        Args:
            token_ids: the prompt, as a list, an `array` or a one-dimensional NumPy array.
        """
        tail = self._tail(token_ids)
        start, end, tool = (_last_match(tail, d) for d in (self._start, self._end, self._tool))
        phase = Phase.BEFORE
        if start != end:
            phase = Phase.THINK if start > max(end, tool) else Phase.RESPONSE
        # Partial progress lies within the last `longest - 1` tokens.
        rest = tail[max(0, len(tail) - self._longest + 1) :]
        return self.advance(self.initial[phase], rest.tolist())

    def _tail(self, token_ids: Sequence[int]) -> np.ndarray:
        """[n] int64: the tokens after the last boundary, looked for from the end."""
        pieces = [np.empty(0, dtype=np.int64)]
        for stop in range(len(token_ids), 0, -_SCAN_CHUNK):
            piece = np.asarray(token_ids[max(0, stop - _SCAN_CHUNK) : stop], dtype=np.int64)
            found = np.flatnonzero(np.isin(piece, self._boundaries))
            if found.size:
                pieces.append(piece[found[-1] + 1 :])
                break
            pieces.append(piece)
        return np.concatenate(pieces[::-1])

    def device_tables(self, vocab_size: int, device: torch.device | str) -> DeviceTables:
        """The automaton as tensors on `device`, for the V token ids that may be sampled.

        Raises:
            ValueError: a delimiter token is not below `vocab_size`.
        """
        token_class = torch.zeros(vocab_size + 1, dtype=torch.int64)
        for token, index in self._class_of.items():
            if not 0 <= token < vocab_size:
                raise ValueError(
                    f"think delimiter token {token} is outside the vocabulary of {vocab_size} ids"
                )
            token_class[token] = index
        phases = torch.tensor([int(phase) for phase in self._phases])
        return DeviceTables(
            token_class=token_class.to(device),
            transitions=torch.tensor(self._rows, dtype=torch.int64).to(device),
            thinks=(phases == Phase.THINK).to(device),
            phases=phases.to(device),
        )


@dataclass(frozen=True)
class StepInputs:
    """Where a step's rows keep their phase, and the states of rows that were just prefilled."""

    slots: torch.Tensor  # [B] request slots
    initial: torch.Tensor | None  # [B] int64, KEEP: keep the slot's state; None: all keep


class PhaseTracker:
    """The think phase of every request slot, advanced on the device.

    Under the overlap scheduler the host learns a token one step late; the device never does.
    """

    def __init__(self, automaton: ThinkAutomaton, slots: int, vocab_size: int, device: Any) -> None:
        self._tables: DeviceTables = automaton.device_tables(vocab_size, device)
        self._states = torch.zeros(slots, dtype=torch.int64, device=device)

    def begin(self, step: StepInputs) -> ThinkPhase:
        """The phases of a step's rows, before sampling."""
        return ThinkPhase(self._tables, self._states, step.slots, step.initial)

    def begin_drafts(self, slots: torch.Tensor, tree: DraftTree) -> ThinkPhase:
        """The phases of all drafted nodes, a row each; the slots' own stay until `commit`.

        Args:
            slots: [B] request slots, whose state is that behind the root.
            tree: of B drafts.
        """
        states = node_states(tree, self._states[slots], self._tables).flatten()
        return ThinkPhase(
            self._tables, states, torch.arange(len(states), device=slots.device), None
        )

    def commit(self, slots: torch.Tensor, drafts: ThinkPhase, last: torch.Tensor) -> None:
        """Move the slots on to where their drafts have led.

        Args:
            slots: [B] request slots.
            drafts: from `begin_drafts`, finished.
            last: [B] int64, the row of each request's last accepted node.
        """
        self._states[slots] = drafts.states[last]


def _ends_with(tokens: tuple[int, ...], delimiter: tuple[int, ...]) -> bool:
    return tokens[-len(delimiter) :] == delimiter


def _check_delimiters(start: tuple[int, ...], end: tuple[int, ...], tool: tuple[int, ...]) -> None:
    if not start or not end:
        raise ValueError("a think delimiter must have at least one token")
    if start == end:
        raise ValueError(f"the think delimiters must differ, both are {list(start)}")
    short, long = sorted((start, end), key=len)
    if _contains(long, short):
        raise ValueError(f"think delimiter {list(long)} contains the other one, {list(short)}")
    for delimiter in (start, end) if tool else ():
        if _contains(tool, delimiter) or _contains(delimiter, tool):
            raise ValueError(
                f"of the tool start {list(tool)} and the think delimiter {list(delimiter)} one "
                "contains the other"
            )


def _contains(long: tuple[int, ...], short: tuple[int, ...]) -> bool:
    return any(long[i : i + len(short)] == short for i in range(len(long) - len(short) + 1))


def _last_match(tokens: np.ndarray, delimiter: tuple[int, ...]) -> int:
    """Index of the last token of the last occurrence of `delimiter`; -1 without one."""
    width = len(delimiter)
    if not width or len(tokens) < width:
        return -1
    positions = len(tokens) - width + 1
    hit = np.ones(positions, dtype=bool)
    for offset, token in enumerate(delimiter):
        hit &= tokens[offset : offset + positions] == token
    found = np.flatnonzero(hit)
    return int(found[-1]) + width - 1 if found.size else -1
