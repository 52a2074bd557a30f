"""Each way to capture layers on the last of two pipeline stages, against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import serve
from oracle import Oracle

from families.dense import DENSE
from families.proof import prompts
from families.tiny_models import write

# dflash is test_pipeline_stages.py's.
KINDS = {
    "eagle3": "qwen2",
    "boundary": "glm4",
    "layer_input": "seed_oss",
    "snapshot": "nemotron_nas",
}
# Of 4 layers the last stage holds three: h^1 is what the first one sends.
PARTITION = {"SGLANG_PP_LAYER_PARTITION": "1,3"}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_equal_the_reference(kind: str, tmp_path: Path) -> None:
    family = DENSE[KINDS[kind]]
    model, served = write(family, tmp_path)
    oracle = Oracle(model)
    sampling = {"temperature": 0, "ignore_eos": True, "max_new_tokens": 32}
    flags = ("--dtype", "float32", "--max-total-tokens", "4096", "--led-think-only", "false")
    asked = [
        (ids, {"led": {"gate": "always", "layers": layers}}, sampling)
        for ids, layers in zip(prompts()[:4], ("paper", "release") * 2, strict=True)
    ]
    stages = ("--pp-size", "2", "--trust-remote-code", *family.flags)
    with serve(served, *flags, *stages, env=PARTITION) as server:
        answers = server.generate_batch(asked)
        log = server.ready_log()
        proof = server.get("/server_info").json()["internal_states"][0]["led"]["truncation_check"]
    assert "depth 8 clamped to 3: the last pipeline stage begins at layer 1 of 4" in log
    if kind == "snapshot":  # SGLang's class looks for a layer with attention on each stage
        assert proof["skipped"].startswith("h^1: its stack does not run without a layer")
    else:
        assert proof["skipped"] is None
    assert {"h^2", "h^3"} <= proof["layers"].keys()
    assert all(own <= 1e-3 < other / 3 for own, other in proof["layers"].values())
    told_apart = 0
    for (ids, custom, _), answer in zip(asked, answers, strict=True):
        tokens = answer["output_ids"]
        led = {"gate": "always", "depth": 3, "candidates": 8, **family.led}
        led["layers"] = custom["led"]["layers"]
        verdict = oracle.check_greedy(ids, tokens, [True] * len(tokens), **led)
        assert not verdict.differences, verdict.differences[:4]
        plain = oracle.check_greedy(ids, tokens, [True] * len(tokens), **led | {"gate": "never"})
        told_apart += len(plain.differences or [])
    assert told_apart > 0, "these completions cannot tell LED from plain decoding"
