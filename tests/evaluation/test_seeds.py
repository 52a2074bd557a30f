"""Seeds of samples: the problems' own, or the release's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eval_harness import engine, records, running, small_grid

from led_sglang.evaluation.command import evaluate
from led_sglang.evaluation.seeds import sample_seed


def test_every_part_of_a_samples_name_counts() -> None:
    seeds = {
        sample_seed(run, task, item, sample, per_sample=False)
        for run in (0, 1)
        for task in ("gsm8k", "gsm8")
        for item in ("1", "11", "k1")
        for sample in range(16)
    }
    assert len(seeds) == 2 * 2 * 3 * 16
    assert all(0 <= seed < 2**53 for seed in seeds)  # exact in every JSON reader, and in SGLang's


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert sample_seed(0, "aime24", "60", 3, per_sample=False) == 8660498005115020
    assert sample_seed(7, "aime24", "60", 3, per_sample=True) == 10


def grid(url: str, run_dir: Path, *more: str) -> list[str]:
    arguments = small_grid(url, run_dir, "--limit", "2", "--temperatures", "0.6", *more)
    return [*map(str, arguments), "--tasks", "aime24"]


def test_the_releases_seeds_are_shared_by_all_problems(tmp_path: Path) -> None:
    with running(engine()) as url:
        assert evaluate(grid(url, tmp_path, "--seed", "5", "--seed-per-sample")) == 0
    assert {(record["sample"], record["seed"]) for record in records(tmp_path)} == {
        (sample, 5 + sample) for sample in range(4)
    }
    settings = json.loads((tmp_path / "run.json").read_text())
    assert settings["grid"]["seed_per_sample"] is True


def test_a_run_of_an_earlier_version_goes_on_with_its_own_seeds_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(engine()) as url:
        assert evaluate(grid(url, tmp_path, "--seed-per-sample")) == 0
        path = tmp_path / "run.json"
        settings = json.loads(path.read_text())
        del settings["grid"]["seed_per_sample"]  # the key is new
        path.write_text(json.dumps(settings))
        next(tmp_path.glob("samples/*/led/*/output-rs3.jsonl")).unlink()
        assert evaluate(grid(url, tmp_path, "--resume")) == 2
        assert "grid.seed_per_sample: true -> false" in capsys.readouterr().err
        assert len(records(tmp_path)) == 14
        assert evaluate(grid(url, tmp_path, "--resume", "--seed-per-sample")) == 0
    assert len(records(tmp_path)) == 16
    assert {record["seed"] for record in records(tmp_path)} == {0, 1, 2, 3}
