"""Every row of the shipped grid `ablations` is a request, and it changes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import serve

from led_sglang.evaluation.grid import make_grid, read_grid

SAMPLING = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "max_new_tokens": 48}
COPY = "led, once more"


def test_every_row_decodes_in_its_own_way(
    model_path: Path, prompts: list[Sequence[int]], think_ids: tuple[int, int]
) -> None:
    """With the same seeds, in one batch, beside a second copy of LED as it is."""
    _, think_end = think_ids
    # In some answers the thought is over: there `think_only` counts.
    starts = [*prompts[:3], *([*prompt, think_end] for prompt in prompts[3:6])]
    grid = make_grid(read_grid("ablations"), "ablations")
    rows = {spec.label: spec.params for spec in grid.samplers if spec.name == "led"}
    rows[COPY] = {}
    bodies = [
        (
            start,
            {"sampler": "led", "led": dict(params)},
            SAMPLING | {"sampling_seed": seed, "ignore_eos": True},
        )
        for params in rows.values()
        for seed, start in enumerate(starts)
    ]
    with serve(model_path, "--dtype", "float32", "--max-running-requests", "64") as server:
        answers = iter(server.generate_batch(bodies))
    tokens = {label: tuple(tuple(next(answers)["output_ids"]) for _ in starts) for label in rows}
    assert tokens.pop(COPY) == tokens["led"]
    assert len(set(tokens.values())) == len(tokens) == 8
