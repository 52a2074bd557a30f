"""What a reader of a run's numbers has to know: a sentence each, however many cells it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from led_sglang.evaluation.report.repeats import copies, nothing_differs
from led_sglang.evaluation.report.results import Cell, Results
from led_sglang.evaluation.server import is_sglang

# Percent of the samples.
COPIES_TO_WARN = 5
TRUNCATED_TO_WARN = 10


def cautions(results: Results, tasks: Mapping[str, Any]) -> list[str]:
    """The warnings of `metrics.json`, of which `tasks` are the metrics of each cell."""
    found = []
    if results.finished < results.expected:
        found.append(
            f"The run is not finished: {results.finished:,} of {results.expected:,} samples. "
            "Each number is over what there is."
        )
    if not is_sglang(results.settings["server"]):
        found.append(
            "The endpoint does not describe itself as SGLang does (/server_info). Missing are its "
            "version, precision, flags and hardware, LED's settings if it has any, and a check on "
            "--resume that it is the same server. Whether it obeys seeds is not known. The think "
            "delimiters are taken from the model's name. Where they are special tokens, which "
            "engines leave out of their texts, thoughts are graded with the answers unless the "
            "engine parses them or a sampler of the grid asks for them: "
            "sampling: {skip_special_tokens: false}."
        )
    found += _about_comparisons(results)
    cells = [
        (f"{task}, {sampler}, T = {temperature:g}", key, tasks[task][sampler][f"{temperature:g}"])
        for key in results.cells
        for task, sampler, temperature in (key,)
    ]
    first = f"pass@1[avg-of-{results.grid.n}]"
    found += _about_repeats(results, [(where, cell) for where, cell, _ in cells if cell[2] > 0])
    cut_off = [
        (where, cell[first]["truncated"])
        for where, _, cell in cells
        if cell[first]["truncated"] > TRUNCATED_TO_WARN
    ]
    if cut_off:
        found.append(
            f"Samples were cut off or never ended thinking {_worst(cut_off)}: a larger max_tokens "
            "would change the accuracy."
        )
    if any(cell[first]["avg_thinking_tokens"] is None for _, _, cell in cells):
        found.append(
            "The server cannot count tokens (/tokenize): the length of the thinking is not known, "
            "and the figure does not show it."
        )
    ungraded = [(where, c[first]["ungraded"]) for where, _, c in cells if c[first]["ungraded"]]
    if ungraded:
        found.append(
            f"Code has not been executed {_worst(ungraded)} (--execute-code, or the exported file "
            "and the official checker)."
        )
    return found


def _about_comparisons(results: Results) -> list[str]:
    """What keeps a run from telling samplers apart."""
    first, *others = (sampler.label for sampler in results.grid.samplers)
    found = []
    if not others:
        found.append(
            f"The run has one sampler, {first}, and no baseline: name two with --samplers, the "
            "baseline first, or compare two runs with --compare."
        )
    elif not any(cell[1] == first for cell in results.cells):
        found.append(
            f"The baseline {first} has no finished sample, so nothing is compared: continue the "
            "run with --resume."
        )
    single = [task for task in results.tasks if len(results.items(task)) == 1]
    if single:
        found.append(
            f"There is one problem only ({', '.join(single)}): its numbers say nothing about "
            "others, and a difference between samplers cannot be told from chance."
        )
    for word, share in (("right", 1.0), ("wrong", 0.0)):
        same = [task for task in results.tasks if _verdicts(results, task) == {share}]
        if same:
            found.append(
                f"Every sample is {word} ({', '.join(same)}): such problems are too "
                f"{'easy' if share else 'hard'} to tell samplers apart."
            )
    if len(results.graders) > 1:
        found.append(
            f"Samples were graded by different versions ({'; '.join(results.graders)}), whose "
            "verdicts may differ: start the run anew for numbers that are compared."
        )
    return found


def _verdicts(results: Results, task: str) -> set[float]:
    """The accuracies of the problems of a task, over all samplers and temperatures."""
    cells = [cell for cell in results.cells if cell[0] == task]
    return {value for cell in cells for value in results.per_item(cell, 1).values()}


def _about_repeats(results: Results, cells: Sequence[tuple[str, Cell]]) -> list[str]:
    found = []
    shares = [(where, 100 * copies(results, cell) / results.size(cell)) for where, cell in cells]
    copied = [(where, share) for where, share in shares if share > COPIES_TO_WARN]
    if copied:
        found.append(
            "Completions repeat another one of the same problem word for word "
            f"{_worst(copied)}, and so do their draws: pass@k is too low there. Does the server "
            "use the seeds?"
        )
    same = [where for where, cell in cells if nothing_differs(results, cell)]
    if same:
        found.append(
            f"No two samples of a problem differ ({_and_more(same[0], len(same) - 1)}): pass@k is "
            "pass@1 there. Either the model is that sure, or the server ignores the seeds; without "
            "samples of led nothing tells which."
        )
    return found


def _worst(shares: Sequence[tuple[str, float]]) -> str:
    """Where it is worst, and in how many other cells it is too."""
    where, share = max(shares, key=lambda pair: pair[1])
    return f"({share:.0f}% of {_and_more(where, len(shares) - 1)})"


def _and_more(where: str, others: int) -> str:
    return where + (f" and {others} more" if others else "")
