"""Which sample `--from-run` means; what is not there is named with what is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from led_sglang.cli import main
from led_sglang.common.terminal import CommandError
from led_sglang.evaluation.store import Key, sample_path
from led_sglang.trace.from_run import find_sample


def run_of(
    folder: Path, samplers: tuple[str, ...], temperatures: tuple[float, ...], **more: Any
) -> Path:
    """A run of one problem, `a/b`, and one sample."""
    grid = {"samplers": [{"label": name} for name in samplers], "temperatures": temperatures}
    settings = {"grid": {**grid, "n": 1}, "tasks": {"t": {}}, "server": {}}
    (folder / "run.json").write_text(json.dumps(settings))
    request: Mapping[str, Any] = {"custom_params": {"sampler": "led"}}
    for sampler in samplers:
        for temperature in temperatures:
            key = Key("t", sampler, temperature, "a/b", 0)
            record = {"task": "t", "sampler": sampler, "temperature": temperature, "id": "a/b"}
            path = folder / "samples" / sample_path(key)
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({**record, "sample": 0, "request": request} | more) + "\n")
    return folder


def test_led_and_the_only_temperature_are_meant_unless_named(tmp_path: Path) -> None:
    folder = run_of(tmp_path, ("regular", "led"), (0.6,))
    assert find_sample(folder, "t/a/b/0").key == Key("t", "led", 0.6, "a/b", 0)
    assert find_sample(folder, "t/a/b/0", "regular").key.sampler == "regular"


@pytest.mark.parametrize(
    ("name", "chosen", "words"),
    [
        ("t/a", {}, "--sample t/a is no TASK/ID/SAMPLE"),
        ("t/a/b/x", {}, "is no TASK/ID/SAMPLE"),
        ("t/a/b/7", {"temperature": 0.1}, "no finished sample t/a/b/7 of led at T = 0.1"),
        ("u/a/b/0", {"temperature": 0.1}, "its tasks are t"),
        ("t/a/b/0", {}, "--temperature is missing: choose one of 0.1, 0.6"),
        ("t/a/b/0", {"temperature": 0.3}, "--temperature 0.3 is not in the run"),
        ("t/a/b/0", {"sampler": "dola"}, "--sampler dola is not in the run: choose one of regular"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    tmp_path: Path, name: str, chosen: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(CommandError) as refused:
        find_sample(run_of(tmp_path, ("regular", "led"), (0.1, 0.6)), name, **chosen)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_without_requests_is_an_old_one(tmp_path: Path) -> None:
    folder = run_of(tmp_path, ("led",), (0.6,))
    file = next(folder.glob("samples/*/*/*/*.jsonl"))
    record = json.loads(file.read_text())
    del record["request"]
    file.write_text(json.dumps(record) + "\n")
    with pytest.raises(CommandError, match="earlier version, which did not keep its requests"):
        find_sample(folder, "t/a/b/0")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--from-run", "r"], "--from-run needs --sample"),
        (["--from-run", "r", "--sample", "t/1/0", "--seed", "3"], "--seed cannot be given"),
        (["--prompt", "x", "--sample", "t/1/0"], "--sample and --sampler go with --from-run"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", *flags])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
