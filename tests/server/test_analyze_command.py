"""`led-sglang analyze` from prompts to report, over a real server it starts itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from led_sglang.analysis import LayerAnalysis
from led_sglang.analysis.command import _parser, _prompts
from led_sglang.cli import main


def test_tasks_give_their_prompts() -> None:
    flags = ["--base-url", "http://x", "--out", "x", "--tasks", "gsm8k,math500", "--limit", "3"]
    prompts = _prompts(_parser().parse_args(flags))
    assert len(prompts) == 6
    assert all("\\boxed{}" in prompt for prompt in prompts)


def test_unknown_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--base-url", "http://x", "--out", str(tmp_path), "--tasks", "gsm9k"]
    assert main(["analyze", *flags]) == 2
    assert "gsm9k" in capsys.readouterr().err


def test_from_prompts_to_report(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "report"
    prompts.write_text("What is 2 + 3?\nName a prime.\nNever asked.\n")
    flags = ["--model-path", str(model_path), "--prompts", str(prompts), "--out", str(out)]
    flags += ["--device", "cpu", "--max-new-tokens", "60", "--limit", "2", "--temperature", "0.8"]
    assert main(["analyze", *flags, "--", "--sleep-on-idle", "--dtype", "float32"]) == 0
    printed = capsys.readouterr()
    assert "recommended depth" in printed.out
    assert "analysing: 100%" in printed.err

    answers = [json.loads(line) for line in (out / "tokens.jsonl").read_text().splitlines()]
    assert len(answers) == 2
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()
    analysis = LayerAnalysis(model, temperature=0.8)
    for answer in answers:
        analysis.add(answer["prompt_ids"], answer["output_ids"])
    with (out / "layers.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    entropies = [float(row["entropy"]) for row in rows if row["final_norm"] == "False"]
    np.testing.assert_allclose(entropies, analysis.table().entropy[0], rtol=1e-6)
    assert json.loads((out / "summary.json").read_text())["tokens"] == analysis.table().tokens > 20
