"""A family's proof: latents and tokens of a real server against transformers in float32.

The server answers twice, eagerly and out of recorded graphs (graphs/).
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphs.control import EAGER, GRAPHS
from graphs.served import check_replayed, graph_environment, graph_flags
from harness import run_to_the_end
from oracle import Oracle, Verdict

from families import launch_checks, recording_server
from families.tiny_models import Family, write

NEW_TOKENS = 32
PROMPTS = 8
# Eight rows stand in a bucket of sixteen, their prompts in one of 256 tokens.
GRAPH_FLAGS = graph_flags(decode=(16,), prefill=(256,))
# Mixed over the prompts: latents count in every one, and the gate and the norm in some.
REQUESTS = (
    {"gate": "always"},
    {"gate": "always", "final_norm": True},
    {"gate": "confidence"},
    {"gate": "always", "layers": "release", "depth": 2},
)


@dataclass
class Proof:
    """What was compared: rows of each kind, the worst relative error, and the tokens."""

    prefill_rows: int
    decode_rows: int
    worst_error: float
    tokens: Verdict


def check(name: str, proofs: dict[str, Proof]) -> None:
    """Print the figures of proofs, eager and from graphs, and assert that they hold."""
    for mode, proof in proofs.items():
        tokens = proof.tokens
        print(
            f"{name}, {mode}: {proof.prefill_rows} prefill and {proof.decode_rows} decode rows, "
            f"worst relative error {proof.worst_error:.1e}; {tokens.steps} tokens, "
            f"{tokens.near_ties} near ties"
        )
        assert proof.worst_error <= 1e-4
        assert proof.prefill_rows == PROMPTS
        assert proof.decode_rows == PROMPTS * (NEW_TOKENS - 1)
        assert tokens.differences == []
        assert tokens.steps == PROMPTS * NEW_TOKENS
        assert tokens.near_ties < 0.005 * tokens.steps


def prompts() -> list[list[int]]:
    """Eight prompts of distinct lengths, so that a prefill row tells whose it is."""
    draw = random.Random(7)
    return [[draw.randrange(3, 256) for _ in range(9 + 5 * i)] for i in range(PROMPTS)]


def prove(family: Family, folder: Path, *flags: str) -> dict[str, Proof]:
    """Serve a tiny model of the family and compare everything, eager and from graphs.

    Args:
        family: what to write.
        folder: an empty folder for the model and the recorded steps.
        flags: further flags of the server.
    """
    model, served = write(family, folder)
    record, passed = folder / "record", folder / "graphs"
    record.mkdir()
    passed.mkdir()
    oracle = Oracle(model)
    _sum_token_by_token()
    asked = prompts()
    leds = [{"depth": oracle.layers, **REQUESTS[i % len(REQUESTS)]} for i in range(PROMPTS)]
    sampling = {"temperature": 0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    bodies = [(ids, {"led": led}, sampling) for ids, led in zip(asked, leds, strict=True)]
    recording_server.ask(record, (EAGER, GRAPHS), bodies)
    run_to_the_end(
        served,
        *("--dtype", "float32", "--max-running-requests", "16", "--max-total-tokens", "4096"),
        *("--led-think-only", "false", "--trust-remote-code"),
        *("--enable-samplers", "led,dola", "--dola-layers", "all"),
        *GRAPH_FLAGS,
        *family.flags,
        *flags,
        command=("-m", "families.recording_server", "serve"),
        env=graph_environment(passed)
        | {
            recording_server.FOLDER: str(record),
            "SGLANG_MAMBA_CONV_DTYPE": "float32",
        },
    )
    launch_checks.check(family, record, oracle.layers)
    check_replayed(passed, "DECODE", *(["EXTEND"] if family.prefill_graphs else []))
    proofs = {}
    for mode in (EAGER, GRAPHS):
        outputs, forwards = recording_server.read(record, mode)
        proof = _compare_streams(oracle, asked, outputs, forwards)
        for ids, tokens, led in zip(asked, outputs, leds, strict=True):
            options = {"candidates": 8, **led, **family.led}
            proof.tokens.add(oracle.check_greedy(ids, tokens, [True] * len(tokens), **options))
        proofs[mode] = proof
    return proofs


def _sum_token_by_token() -> None:
    """Transformers sums a gated delta rule chunk by chunk, which loses two digits."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and hasattr(
            module, "torch_chunk_gated_delta_rule"
        ):
            rule = module.torch_recurrent_gated_delta_rule
            module.torch_chunk_gated_delta_rule = _without_chunks(rule)


def _without_chunks(rule: Any) -> Any:
    return lambda *args, chunk_size=0, **kwargs: rule(*args, **kwargs)


def _compare_streams(
    oracle: Oracle,
    asked: list[list[int]],
    outputs: list[list[int]],
    forwards: list[dict[str, Any]],
) -> Proof:
    streams = [oracle.all_streams([*p, *o]) for p, o in zip(asked, outputs, strict=True)]
    by_length = {len(ids): i for i, ids in enumerate(asked)}
    prompt_of: dict[int, int] = {}
    proof = Proof(0, 0, 0.0, Verdict(differences=[]))
    for step in forwards:
        captured = step["hidden"].view(len(step["slots"]), oracle.layers, -1)
        for row, (slot, length) in enumerate(zip(step["slots"], step["lengths"], strict=True)):
            if not step["decode"]:
                prompt_of[slot] = by_length[length]
            i = prompt_of[slot]
            if length > len(streams[i]):  # a finished request runs one step more
                continue
            truth = streams[i][length - 1]
            error = (captured[row] - truth).norm(dim=-1) / truth.norm(dim=-1)
            proof.worst_error = max(proof.worst_error, float(error.max()))
            proof.prefill_rows += not step["decode"]
            proof.decode_rows += step["decode"]
    return proof
