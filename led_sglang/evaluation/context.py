"""Whether the run's requests fit into the server's context, found out before the first of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.grid import Grid
from led_sglang.evaluation.tasks import Task
from led_sglang.evaluation.tokenizer import ServerTokenizer

# Tokens that a chat template adds to a prompt, at most.
_TEMPLATE = 512
_LARGER = "serve with a larger --context-length"


async def fitting(
    tokenizer: ServerTokenizer,
    context: int | None,
    grid: Grid,
    tasks: Sequence[Task],
    *,
    adapt: bool,
) -> Grid:
    """The grid with a `max_tokens` that leaves room for the longest prompt.

    Args:
        context: tokens that prompt and completion may have together; None where the server does
            not say.
        adapt: nobody has asked for this `max_tokens`: lower it, and say so.

    Raises:
        EvaluationError: a prompt alone is too long, or the `max_tokens` that was asked for is too
            large; says which would do.
    """
    if context is None:
        return grid
    prompts = [
        (f"{task.name}, problem {item.id}", task.prompt(item))
        for task in tasks
        for item in task.items
    ]
    longest = max(len(prompt.encode("utf-8", "replace")) for _, prompt in prompts)
    if grid.max_tokens + longest + _TEMPLATE <= context:  # a token has at least one byte
        return grid
    counts = await tokenizer.count_all([prompt for _, prompt in prompts])
    if counts is None:  # the server's own refusal has to do
        return grid
    where, prompt = prompts[counts.index(max(counts))]
    tokens = await tokenizer.count_chat(prompt)
    most = context - tokens
    why = f"the server's context holds {context:,} tokens and the longest prompt ({where}) takes"
    if most < 1:
        raise EvaluationError(
            f"{why} {tokens:,}: leave it out (--tasks, --limit, --data), or {_LARGER}"
        )
    if grid.max_tokens <= most:
        return grid
    if not adapt:
        raise EvaluationError(
            f"max_tokens {grid.max_tokens:,} is too large: {why} {tokens:,}; give "
            f"--max-tokens {most} or less, or {_LARGER}"
        )
    print(
        f"led-sglang eval: max_tokens is {most:,} and not {grid.max_tokens:,}: {why} {tokens:,}",
        file=sys.stderr,
    )
    return replace(grid, max_tokens=most)
