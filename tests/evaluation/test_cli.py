"""The command line: grids, their errors, and what is needed to run it."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from eval_harness import led_eval

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.command import evaluate
from led_sglang.evaluation.grid import Grid, make_grid, read_grid
from led_sglang.evaluation.progress import Progress

WHAT = ["--tasks", "gsm8k", "--samplers", "led"]
GOOD = {"tasks": ["gsm8k"], "samplers": ["regular", "led"]}


def test_shipped_grids_are_good() -> None:
    paper = make_grid(read_grid("paper"), "paper")
    assert paper.tasks == (
        *("aime24", "aime25", "math500", "gsm8k", "gpqa_diamond", "livecodebench"),
    )
    assert (paper.n, paper.max_tokens, paper.top_p, paper.top_k) == (16, 32768, 0.95, 20)
    assert paper.temperatures == (0.1, 0.3, 0.6)
    assert [sampler.name for sampler in paper.samplers] == [
        *("regular", "led", "dola", "soft-thinking", "soft-thinking-gumbel"),
    ]
    quick = make_grid(read_grid("quick"), "quick")
    cells = len(quick.tasks) * len(quick.samplers) * len(quick.temperatures)
    # One batch of the default concurrency: the bundled model on two cores ends within minutes.
    assert cells * (quick.limit or 0) * quick.n == 32
    ablations = make_grid(read_grid("ablations"), "ablations").samplers
    assert {spec.label: spec.params for spec in ablations if spec.name == "led"} == {
        "led": {},
        # the rows of the paper's Table 3
        "without-think-only": {"think_only": False},
        "with-final-norm": {"final_norm": True},
        "with-layer-normalization": {"normalize_layers": True},
        "always-explore": {"gate": "always"},
        # ours
        "never-explore": {"gate": "never"},
        "top20-nucleus": {"candidates": 20, "candidate_top_p": 0.95},
        "release": {"preset": "release"},
    }


def test_a_grid_survives_json() -> None:
    sampler = {"name": "led", "label": "led-d4", "params": {"depth": 4}}
    grid = make_grid({**GOOD, "samplers": ["regular", sampler]}, "x")
    assert Grid.from_json(asdict(grid)) == grid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n must be a whole number from 1 up, not 0"),
        ({"n": True}, "n must be"),
        ({"temperatures": [3]}, "temperatures must be numbers in 0..2"),
        ({"temperatures": [0.1, 0.1]}, "temperatures holds one of its entries twice"),
        ({"temperatures": [0.1, 0.10000001]}, "temperatures holds one of its entries twice"),
        ({"samplers": []}, "samplers is missing"),
        ({"samplers": ["led", "led"]}, "samplers holds one of its entries twice"),
        ({"samplers": [{"label": "a/b", "name": "led"}]}, "label 'a/b'"),
        ({"samplers": [{"label": "..", "name": "led"}]}, "label '..'"),
        ({"samplers": [{"label": None, "name": "led"}]}, "label None must be a text"),
        ({"samplers": [{"name": "led", "params": {True: 4}}]}, "params must be a mapping of names"),
        ({"samplers": [{"name": "led", "depth": 4}]}, "unknown key samplers.depth"),
        ({"scope": "all"}, "scope must be answer or completion"),
        ({"limit": 0}, "limit must be"),
        ({"top_p": 0}, "top_p must be a number above 0, at most 1, not 0"),
        ({"seed_per_sample": 1}, "seed_per_sample must be true or false"),
        ({"tasks": "gsm8k"}, "tasks must be a list, not 'gsm8k'"),
        ({"samplers": "led"}, "samplers must be a list, not 'led'"),
        ({"temperatures": 0.6}, "temperatures must be a list, not 0.6"),
        ({"samplers": [{"name": "led", "params": 4}]}, "params must be a mapping of names, not 4"),
        ({"samplers": [{"name": "led", "sampling": {"seed": 4}}]}, "sampling.seed is set by the"),
        ({"max_token": 5}, "unknown key max_token"),
    ],
)
def test_wrong_key_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        make_grid({**GOOD, **change}, "x")


def test_missing_extra_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "math_verify" else find(name)
    )
    assert evaluate(["--run-dir", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("led-sglang: math_verify is not installed: pip install '.[eval]'")


def test_other_commands_import_nothing_of_the_extra() -> None:
    code = (
        "import sys, led_sglang.cli\n"
        "names = {'aiohttp', 'math_verify', 'matplotlib', 'tqdm', 'datasets'}\n"
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperatures", "0.1,warm"], "must be numbers, as in 0.1,0.6, not '0.1,warm'"),
        (["--concurrency", "0"], "'0' is not a whole number from 1 up"),
        (["--attempts", "many"], "'many' is not a whole number from 1 up"),
        (["--data", "items.jsonl"], "must be TASK=FILE.jsonl"),
    ],
)
def test_a_wrong_flag_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for arguments, message in (
        ([], "--run-dir is missing"),
        (["--run-dir", tmp_path], "give one of --base-url (a running server) and --launch"),
        (["--run-dir", tmp_path, "--report"], "holds no run"),
        (["--compare", tmp_path, tmp_path], "holds no run"),
    ):
        done = led_eval(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "qiuck"], "one of paper, quick, ablations, or a YAML file"),
        (["--config", "."], "--config . is no file"),
        (["--base-url", "ftp://host"], "is no address of a server"),
        (["--base-url", "30000"], "is no address of a server"),
        (["--base-url", "http://a", "--launch", ""], "give one of --base-url"),
        (["--launch", "--model-path 'x", *WHAT], "cannot be split into flags"),
        (["--base-url", "http://a", "--tasks", "gsm8k"], "samplers is missing"),
        (["--base-url", "http://a", *WHAT, "--n", "0"], "n must be a whole number from 1 up"),
        (["--base-url", "http://a", *WHAT, "--data", "aime24=x"], "no such task in this run"),
        (["--base-url", "http://a", "--tasks", "gsm9k", "--samplers", "led"], "gsm9k"),
    ],
)
def test_what_was_typed_wrongly_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "--config":
        arguments = [*arguments, "--base-url", "http://a"]
    assert evaluate(["--run-dir", str(tmp_path / "run"), *arguments]) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert message in line
    assert len(progress) <= ("--launch" in arguments)


@pytest.mark.parametrize("text", ["- a", "n: [", "\0"])
def test_a_grid_file_that_is_none_is_one_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    arguments = ["--config", str(file), "--base-url", "http://a", "--run-dir", str(tmp_path)]
    assert evaluate(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--config {file}" in line


def test_help_shows_defaults_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom led_sglang.cli import main\n"
        "try: main(['eval', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'sglang', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    text = " ".join(done.stdout.split())
    for default in ("a time (default: 32)", "tries of a request (default: 8)", "(default: 0.6)"):
        assert default in text
    for default in ("each problem (default: 16)", "at most (default: 32768)", "(default: answer)"):
        assert default in text
    assert done.stdout.endswith("[]\n"), done.stderr


def test_the_bar_shows_the_time_before_the_first_sample(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("led_sglang.evaluation.progress._FILE_INTERVAL_S", 0.01)

    async def wait() -> None:
        with Progress(2, 0, 0, 0) as progress, suppress(TimeoutError):
            await asyncio.wait_for(progress.keep_time(), 0.3)

    asyncio.run(wait())
    assert capsys.readouterr().err.count("0/2") > 2  # one of the start, one of the end
