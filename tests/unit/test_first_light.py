"""First light runs every part under its limit and writes what it finds as it comes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
# Last: in the checkout's folder `kernels` lies too, and a distribution is called so.
sys.path.append(str(ROOT))
command, parts, server, sync_plugin = (
    importlib.import_module(f"benchmarks.first_light.{name}")
    for name in ("__main__", "parts", "server", "sync_plugin")
)
Part: Any = parts.Part
PARTS: Any = parts.PARTS
FINDING = '{"check": "c%d", "passed": %s, "figures": "seen | there"}'


def script(*lines: str) -> tuple[str, ...]:
    return ("-c", "\n".join(lines).replace("{", "{{").replace("}", "}}"))


def part(name: str, *lines: str, limit_s: int = 30, **more: Any) -> Any:
    return Part("A", name, f"what {name} does", limit_s, script(*lines), script(*lines), **more)


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *given: Any) -> tuple[int, list[Any], str]:
    monkeypatch.setattr(command, "PARTS", given)
    status = command.main(["--out", str(out), "--rehearse"])
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return status, lines, (out / "summary.md").read_text()


def test_findings_and_outcomes_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, lines, summary = run(
        monkeypatch,
        tmp_path,
        part("good", f"print('words')\nprint('{FINDING % (1, 'true')}')"),
        part("bare", "raise SystemExit('no kernel image')"),
        part("absent", "1", needs=("no_such_module",)),
        part("toolless", "1", tool=("no-such-tool",)),
        Part("A", "gpu", "needs one", 5, ("-c", "1")),
    )
    assert status == 1
    assert lines[0] == {"part": "good", "check": "c1", "passed": True, "figures": "seen | there"}
    ends = {line["part"]: (line["outcome"], line["said"]) for line in lines if "outcome" in line}
    assert ends == {
        "good": ("ok", ""),
        "bare": ("failed with status 1", "no kernel image"),
        "absent": ("not here", "no_such_module not installed"),
        "toolless": ("not here", "no-such-tool is not installed"),
        "gpu": ("not here", "it needs a GPU"),
    }
    assert "| good | c1 | ok | seen \\| there |" in summary
    assert "rehearsal without a GPU" in summary
    assert (tmp_path / "good" / "log.txt").read_text().startswith("words\n")


def test_a_finding_that_failed_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = part("bad", f"print('{FINDING % (1, 'false')}')")
    assert run(monkeypatch, tmp_path / "bad", bad)[0] == 1
    fine = part("fine", f"print('{FINDING % (1, 'null')}')")
    assert run(monkeypatch, tmp_path / "fine", fine)[0] == 0


def test_a_part_ends_at_its_limit_with_all_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it had found is kept, the next part runs, and no process of it is left."""
    child = tmp_path / "child"
    hangs = part(
        "hangs",
        "import subprocess, sys, time",
        f"print('{FINDING % (1, 'true')}', flush=True)",
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']",
        f"open({str(child)!r}, 'w').write(str(subprocess.Popen(sleep).pid))",
        "time.sleep(60)",
        limit_s=2,
    )
    begin = time.monotonic()
    status, lines, summary = run(monkeypatch, tmp_path / "out", hangs, part("next", "1"))
    assert time.monotonic() - begin < 20
    assert status == 1
    assert [line.get("outcome") for line in lines] == [None, "out of time", "ok"]
    assert "| hangs | c1 | ok |" in summary
    pid = int(child.read_text())
    status_file = Path(f"/proc/{pid}/status")
    assert not status_file.exists() or "zombie" in status_file.read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().out
    assert said.startswith("first light needs a GPU")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path), "--only", "A,kernals"])
    assert "there is no part kernals" in capsys.readouterr().err


def test_part_a_runs_where_sglang_is_not() -> None:
    """In an interpreter where only torch and Triton (and what they need) can be imported."""
    code = (
        "import sys\n"
        "for name in ('sglang', 'transformers', 'psutil', 'yaml', 'requests', 'numba'):\n"
        "    sys.modules[name] = None\n"
        "import benchmarks.first_light.__main__, benchmarks.first_light.kernels as kernels\n"
        "import benchmarks.kernels.__main__\n"
        "sys.argv = ['kernels', 'versions', '--out', '.', '--toy']\n"
        "sys.exit(kernels.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["check"] for line in lines] == ["versions", "device"]


def test_every_part_is_a_command_there_is() -> None:
    names = [p.name for p in PARTS]
    assert len(set(names)) == len(names)
    for p in PARTS:
        module = p.command[1]
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists() or module in (
            "pytest",
            "benchmarks.kernels",
            "benchmarks.server",
        )
        if module == "benchmarks.first_light.server":
            assert p.command[2] in server.CHECKS
    assert {f"capture-{kind}" for kind in parts.CAPTURES} <= set(names)


def answer(tokens: list[int], *p: float) -> dict[str, Any]:
    steps = [
        {"token_id": token, "candidate_ids": [1, 2], "layer_probs": [list(p), list(p)]}
        for token in tokens
    ]
    return {"output_ids": tokens, "meta_info": {"led_trace": steps}}


@pytest.mark.parametrize(
    ("theirs", "passed", "said"),
    [
        (answer([1, 2], 0.5, 0.25), True, "1 of 1 answers equal, probabilities at most 0.0e+00"),
        (answer([1, 3], 0.5, 0.26), True, "0 of 1 answers equal, probabilities at most 1.0e-02"),
        (answer([1, 2], 0.5, 0.45), False, "probabilities at most 2.0e-01"),
    ],
)
def test_two_runs_are_compared_while_their_prefixes_are_equal(
    theirs: dict[str, Any], passed: bool, said: str
) -> None:
    finding = server.compared("x", [answer([1, 2], 0.5, 0.25)], [theirs])
    assert finding.passed is passed
    assert said in finding.figures
