"""`led-sglang analyze`: prompts, report, and what ends it early."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from led_sglang.analysis.command import _parser, _prompts
from led_sglang.analysis.figures import FIGURES, draw
from led_sglang.analysis.forward import AnalysisError
from led_sglang.analysis.prompts import read_prompts
from led_sglang.analysis.report import write_report
from led_sglang.analysis.statistics import LayerTable, recommend
from led_sglang.cli import main
from led_sglang.common.client import ServerError
from led_sglang.common.server_process import running_server


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_prompts_of_text_and_jsonl(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path, "a.txt", "one\n\n  two \n")) == ["one", "two"]
    rows = [{"prompt": "a\nb"}, {"id": 1, "problem": "c"}, {"question": "d"}]
    lines = "\n".join(json.dumps(row) for row in rows)
    assert read_prompts(written(tmp_path, "a.jsonl", lines)) == ["a\nb", "c", "d"]


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.txt", "\n\n", "no prompt"),
        ("a.jsonl", '{"prompt": "x"}\n{', "line 2"),
        ("a.jsonl", '{"answer": "x"}', "prompt, problem, question"),
        ("a.jsonl", '{"prompt": 3}', "line 1"),
        ("a.jsonl", "[1]", "line 1"),
    ],
)
def test_bad_prompt_files_are_refused(tmp_path: Path, name: str, text: str, named: str) -> None:
    with pytest.raises(AnalysisError, match=named):
        read_prompts(written(tmp_path, name, text))


def test_a_missing_prompt_file_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model-path", "m", "--prompts", str(tmp_path / "none"), "--out", str(tmp_path)]
    assert main(["analyze", *flags]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("log", [False, True])
def test_report_holds_every_number(tmp_path: Path, log: bool) -> None:
    generator = np.random.default_rng(0)
    tables = {}
    for group, tokens in (("all", 77), ("uncertain", 33)):
        entropy, coverage = generator.random((2, 6)), generator.random((2, 6, 5))
        bands = [np.stack([mean * 0.9, mean * 1.1]) for mean in (entropy, coverage)]
        tables[group] = LayerTable(tokens, 1000, entropy, coverage, *bands)
    # The uncertain tokens decide.
    tables["uncertain"].coverage[0, :, -1] = [0.5, 0.0, 0.1, 0.4, 0.5, 1.0]
    tables["uncertain"].entropy[0] = [0.9, 0.9, 0.1, 0.5, 0.3, 0.2]
    facts = {"model": "some/model", "prompts": 3, "prompt_set": "gsm8k", "temperature": 0.6}
    found = write_report(tables, tmp_path, 0.05, facts, log=log)
    assert (found.depth, found.group) == (4, "uncertain")
    assert "recommended depth 4: from the final layer down, 4 hold" in found.sentence
    with (tmp_path / "layers.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2 * 2 * 6
    for row in rows:
        at = (["False", "True"].index(row["final_norm"]), int(row["layer"]) - 1)
        table = tables[row["tokens"]]
        assert int(row["depth"]) == 6 - at[1]
        assert float(row["entropy"]) == table.entropy[at]
        assert [float(row[f"r_{k}"]) for k in (1, 2, 4, 8, 16)] == table.coverage[at].tolist()
        assert float(row["r_4_high"]) == table.coverage_band[(1, *at, 2)]  # type: ignore[index]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["tokens"], summary["recommended_depth"]) == (77, 4)
    assert summary["tokens_by_group"] == {"all": 77, "uncertain": 33}
    assert summary["least_coverage"] == pytest.approx(0.016 + 0.05 * 0.984)
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in FIGURES)


@pytest.mark.parametrize(("log", "scale"), [(False, "linear"), (True, "log")])
def test_figures_use_their_space_and_show_chance(tmp_path: Path, log: bool, scale: str) -> None:
    entropy = np.linspace(0.001, 0.02, 6)[None].repeat(2, axis=0)
    table = LayerTable(9, 64, entropy, np.full((2, 6, 5), 0.3))
    drawn = []

    def save(figure: Any, path: Path, **_: Any) -> None:
        drawn.append(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", save)
        facts = {"model": "some/model", "prompts": 3, "prompt_set": "gsm8k", "temperature": 0.6}
        draw({"all": table}, tmp_path, recommend({"all": table}, 0.05), facts, log=log)
    of_entropy, of_coverage = drawn
    for figure in drawn:
        assert {axes.get_yscale() for axes in figure.axes} == {scale}
    assert of_entropy.axes[0].get_ylim()[1] < 0.03
    assert of_entropy.get_suptitle() == (
        "model, 3 prompts of gsm8k, T = 0.6; shaded: recommended depth 1"
    )
    lines = [line for line in of_coverage.axes[0].lines if len(line.get_xdata()) == 2]
    assert [line.get_ydata()[0] for line in lines] == [k / 64 for k in (1, 2, 4, 8, 16)]


def test_a_server_that_ends_shows_its_last_words(tmp_path: Path) -> None:
    flags = ["--model-path", str(tmp_path / "nothing"), "--device", "cpu"]
    with (
        pytest.raises(ServerError, match=r"ended with status 2: .*nothing.*\Z"),  # one line
        running_server(flags, tmp_path / "log.txt"),
    ):
        pass
    with (
        pytest.raises(ServerError, match=r"ended with status 2: --port .* got 'x'\Z"),
        running_server(["--port", "1", "--port", "x"], tmp_path / "log.txt"),
    ):
        pass
    # SGLang's own refusal, and an end without any: never a sentence of the starts before.
    says = "print('led-sglang: starting on'); print('sglang serve: error: no flag'); exit(2)"
    for code, words in ((says, r"status 2: no flag\Z"), ("exit(2)", r"log\.txt:\n\Z")):
        with (
            pytest.raises(ServerError, match=words),
            running_server([], tmp_path / "log.txt", command=("-c", code)),
        ):
            pass


def test_tasks_give_their_prompts() -> None:
    flags = ["--base-url", "http://x", "--out", "x", "--tasks", "gsm8k,math500", "--limit", "3"]
    prompts = _prompts(_parser().parse_args(flags))
    assert len(prompts) == 6
    assert all("\\boxed{}" in prompt for prompt in prompts)


def test_unknown_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--base-url", "http://x", "--out", str(tmp_path), "--tasks", "gsm9k"]
    assert main(["analyze", *flags]) == 2
    assert "gsm9k" in capsys.readouterr().err
