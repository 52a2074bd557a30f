"""Every command and snippet of README.md and docs/*.md, run as a reader would.

They are taken from the pages, so that a new one runs here at once. Changed is only what must be:
the port, the names that stand for the reader's own (MODEL, URL), and sizes that would take hours.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Server, _wait_until_ready, assert_progress, kill, serve
from page_commands import EXCUSED, FOUND, RUN, SMALLER, STARTED
from pages import PAGES, ROOT, Snippet
from real_model import look

from led_sglang.analysis import LayerAnalysis
from led_sglang.analysis.forward import load_model
from led_sglang.common.server_process import free_port
from led_sglang.evaluation.grid import make_grid, read_grid
from led_sglang.evaluation.tasks import load_task
from led_sglang.models.bundled import bundled_model

BIN = Path(sys.executable).parent
# What the last command printed on standard error.
ERRORS = "errors.txt"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout; what commands write stays in it."""
    folder = tmp_path_factory.mktemp("reader")
    for entry in ROOT.iterdir():
        if not entry.name.startswith((".", "build", "runs")):
            (folder / entry.name).symlink_to(entry)
    problems = (ROOT / "examples/tiny_reasoner/held_out.jsonl").read_text().splitlines()[:2]
    (folder / "p.txt").write_text("".join(f"{json.loads(p)['problem']}\n" for p in problems))
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    """What the README's first command starts."""
    port, log = free_port(), place / "serve.log"
    command = ["make", "serve", f"ARGS=--port {port}"]
    # The environment is the one of this test, installed already.
    command += [f"VENV={BIN.parent}", f"--assume-old={BIN.parent / 'installed'}"]
    # A reader's make is no child of the make that runs the tests, and does not talk as one.
    reader = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=reader | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, port, log)
        assert "bundled model" in log.read_text()
        yield Server(process, port, log)
    finally:
        kill(process)


def test_the_start_ends_with_a_request_to_try(server: Server) -> None:
    """And says nothing else but what stands here: no hooks, no settings, no false warnings."""
    start, _, command = server.ready_log().partition("Try it:\n")
    ours = re.compile(
        r"led-sglang: (no --model-path given|starting on|ready after)|led-sglang [0-9.]+, |-+$|"
        r"(hooks|sampler|think phase|preset|led|captured|  url|  model|  sampler|  kernels) "
    )
    # What the machine may lack, the progress of loading weights; and the way tests start a module.
    real = re.compile(
        r"\[[-0-9: ]+\] Fail to set RLIMIT|.*Multi-thread loading shards|<frozen runpy>|"
        # what make itself says
        r".*/led-sglang serve "
    )
    lines = [line for line in start.splitlines() if line.strip()]
    assert not [line for line in lines if not ours.match(line) and not real.match(line)]
    assert f"  url      {server.url} " in start
    assert "  sampler  led by default" in start
    assert "  kernels  cpu" in start
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True
    )
    thought, _, answer = json.loads(done.stdout)["choices"][0]["message"]["content"].partition(
        "</think>"
    )
    assert "done" in thought
    assert answer.strip()


def here(text: str, server: Server) -> str:
    """The text with this server's port, and with values for the names that stand for them."""
    text = text.replace("30000", str(server.port))
    text = re.sub(r"\bURL\b", server.url, text)
    text = re.sub(r"\bMODEL\b", str(bundled_model()), text)
    # Runs of the reader's own: the one that the page's first recipe makes.
    return re.sub(r"\bruns/(before|after)\b|\bDIR\b", "runs/quick", text)


def run(command: list[str], place: Path, server: Server) -> str:
    """What a command prints on standard output; it must end well."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr, done.stderr
    (place / ERRORS).write_text(done.stderr)
    return done.stdout


def check_curl(printed: str, place: Path) -> None:
    choice = json.loads(printed)["choices"][0]
    thought, _, answer = choice["message"]["content"].partition("</think>")
    assert "done" in thought
    assert answer.strip() == "6245317"
    led = choice["meta_info"]["led"]
    assert led["think_tokens"] >= led["explored_tokens"] > 0


def check_openai(printed: str, place: Path) -> None:
    assert re.search(r"'explored_tokens': [1-9]", printed), printed


def check_page(name: str) -> Callable[[str, Path], None]:
    def check(printed: str, place: Path) -> None:
        page = (place / name).read_text()
        assert page.startswith("<!doctype html>")
        # Texts, and no page of `[358][353]`.
        data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])  # type: ignore[index]
        for side in data["runs"]:
            assert any(text.strip().isalnum() for text in side["texts"])
            assert not any(re.fullmatch(r"\[\d+\]", text) for text in side["texts"])
        (place / name).unlink()

    return check


def check_files(*names: str) -> Callable[[str, Path], None]:
    def check(printed: str, place: Path) -> None:
        for name in names:
            assert (place / name).stat().st_size > 0

    return check


def check_bench(printed: str, place: Path) -> None:
    """Tiny, so its times mean nothing."""
    out, depth = place / "bench", 8
    assert_progress((place / ERRORS).read_text(), Path("bench/server.log"), within=place)
    rows = {(r["batch_size"], r["arm"]): r for r in read_json(out / "bench.json")["rows"]}
    assert set(rows) == {(size, "led, rate 0.5") for size in (2, 3)}
    for (size, _), row in rows.items():
        assert row["ratio"] > 0
        assert row["peak_memory_mb"] > 0
        # Work grows with exploring rows, not with the batch.
        explorers, projected = row["explorers_per_step"], row["projected_rows_per_step"]
        assert projected == pytest.approx(explorers * (depth - 1))
        assert 0 < explorers < size
    text = (out / "bench.md").read_text()
    assert "## Profile, batch 3" in text
    assert "methods/led/sampler.py" in text.split("### led, rate 0.5")[1]
    assert "methods/led/sampler.py" not in text.split("### led, rate 0.5")[0]
    assert (out / "bench.png").stat().st_size > 10_000
    assert len((out / "runs.jsonl").read_text().splitlines()) == 1 + len(rows)


def check_analysis(printed: str, place: Path) -> None:
    """The numbers are those of the server's answers, read by the model once more."""
    out = place / "report"
    assert "recommended depth" in printed
    assert "analysing: 100%" in (place / ERRORS).read_text()
    answers = [json.loads(line) for line in (out / "tokens.jsonl").read_text().splitlines()]
    assert len(answers) == 2
    model = load_model(str(bundled_model()), "cpu", "auto", trust_remote_code=False)
    analysis = LayerAnalysis(model, temperature=0.8)
    for answer in answers:
        analysis.add(answer["prompt_ids"], answer["output_ids"])
    with (out / "layers.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    rows = [row for row in rows if row["tokens"] == "all" and row["final_norm"] == "False"]
    entropies = [float(row["entropy"]) for row in rows]
    np.testing.assert_allclose(entropies, analysis.table().entropy[0], rtol=1e-6)
    assert read_json(out / "summary.json")["tokens"] == analysis.table().tokens > 20
    assert (out / "entropy.png").stat().st_size > 0


def read_json(file: Path) -> Any:
    return json.loads(file.read_text())


# Beside a status of 0: what a reader looks at, by how the snippet begins.
CHECKS = {
    "curl localhost:30000/v1/chat/completions": check_curl,
    "from openai import OpenAI": check_openai,
    'led-sglang trace --prompt "What is 2 + 3?" --compare': check_page("trace.html"),
    'led-sglang trace --prompt "Prove': check_page("trace.html"),
    'led-sglang trace --prompt "Is 91': check_page("compare.html"),
    "from led_sglang.trace import ServerClient": check_page("trace.html"),
    "import requests": check_page("answer.html"),
    "led-sglang analyze --model-path MODEL": check_analysis,
    "led-sglang analyze --base-url": check_files("report/coverage.png", "report/summary.json"),
    "led-sglang bench --model-path MODEL --batch-sizes": check_bench,
    "led-sglang eval --base-url http": check_files("runs/quick/report.html"),
    "led-sglang eval --base-url URL": check_files("runs/part/report.md"),
    "python -c 'import json": check_files("data/gsm8k/test.jsonl"),
    "printf": check_files("data/gsm8k/README.md"),
}


def grid_file(text: str, place: Path) -> None:
    (place / "grid.yaml").write_text(text + "\n")
    grid = make_grid(read_grid(str(place / "grid.yaml")), "grid.yaml")
    assert [sampler.label for sampler in grid.samplers] == ["regular", "led", "led-d4"]


def task_file(text: str, place: Path) -> None:
    """The example line of the page's comment is the data."""
    (line,) = re.findall(r"# (\{.*\}) a line", text)
    name = text.split()[1]
    (place / f"{name}.jsonl").write_text(line + "\n")
    # The only placeholder that is no value: a prompt has to hold the problem.
    (place / f"{name}.yaml").write_text(text.replace('"..."  ', '"{problem}"  ') + "\n")
    if name != "countdown":  # its grader comes with the next snippet
        assert len(load_task(str(place / f"{name}.yaml")).items) == 1


def grader_file(text: str, place: Path) -> None:
    (place / "grade.py").write_text(text + "\n")
    task = load_task(str(place / "countdown.yaml"))
    assert len(task.items) == 1
    names: dict[str, Callable[..., tuple[bool, str | None]]] = {}
    exec(text, names)
    assert names["grade"]({"target": 14}, "so it is 14") == (True, "14")
    assert names["grade"]({"target": 14}, "") == (False, None)


# Contents of files that the reader writes, by their first line.
FILES: dict[str, Callable[[str, Path], None]] = {
    "tasks: [aime24, math500]": grid_file,
    "name: mine": task_file,
    "name: countdown": task_file,
    "def grade(item, answer):": grader_file,
}


@pytest.mark.parametrize("snippet", RUN, ids=lambda snippet: snippet.label)
def test_it_runs_as_it_stands(snippet: Snippet, place: Path, server: Server) -> None:
    if snippet.kind == "data":
        FILES[snippet.key](snippet.text, place)
        return
    if snippet.kind == "console":
        command, _, sentence = snippet.text.partition("\n")
        environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", command[2:]], cwd=place, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr.strip()) == (2, "", sentence)
        return
    text = here(snippet.text, server)
    if snippet.kind == "python":
        printed = run([sys.executable, "-c", text], place, server)
    elif snippet.key.startswith("led-sglang serve") and "--help" not in snippet.key:
        check_server(snippet)
        return
    else:
        text = re.sub(r"\s+# .*$", "", text)
        if snippet.key.startswith("led-sglang trace"):  # asks the default port
            text += f" --base-url {server.url}"
        printed = run(["bash", "-c", f"{text} {SMALLER.get(snippet.key, '')}"], place, server)
    for beginning, check in CHECKS.items():
        if snippet.key.startswith(beginning):
            check(printed, place)


def check_server(snippet: Snippet) -> None:
    """A server of its own, from a process that has SGLang imported: it offers its methods."""
    words = snippet.key.split()[2:]
    model = str(bundled_model()) if words[0] == "MODEL" else None
    with serve(model, *words[model is not None :]) as running:
        info = running.get("/server_info").json()["internal_states"][0]["led"]
        offered = set(info["settings"]["enabled"])
        for name in words[words.index("--enable-samplers") + 1].split(",") if model else ():
            assert name in offered
            answer = running.generate([5, 6, 7], {"sampler": name}, max_new_tokens=4)
            assert answer["meta_info"]["completion_tokens"] > 0
        if "--sampler" in words:
            assert info["settings"]["sampler"] == words[words.index("--sampler") + 1]


def test_the_lists_name_what_the_pages_hold() -> None:
    """An entry whose snippet is gone, or changed, has to go or to change as well."""
    keys = {snippet.key for snippet in FOUND}
    assert len(keys) > 40
    for table in (EXCUSED, SMALLER, STARTED, FILES):
        assert set(table) <= keys, set(table) - keys
    for beginning in CHECKS:
        assert any(key.startswith(beginning) for key in keys), beginning
    assert all(reason for reason in EXCUSED.values())


def test_flags_of_commands_that_do_not_run_exist() -> None:
    helps: dict[str, str] = {}
    checked = 0
    for key in EXCUSED:
        words = re.sub(r'"[^"]*"', "TEXT", key).partition(" -- ")[0].split()
        if words[0] != "led-sglang" or words[1] == "serve":
            continue
        if words[1] not in helps:
            command = [sys.executable, "-m", "led_sglang.cli", words[1], "--help"]
            helps[words[1]] = subprocess.run(command, capture_output=True, text=True).stdout
        for flag in (word for word in words if word.startswith("--")):
            assert re.search(rf"{flag}\b", helps[words[1]]), f"{flag} of {key}"
            checked += 1
    assert checked > 10


def test_files_and_extras_that_the_pages_name_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = "\n".join(page.read_text() for page in PAGES)
    scripts = set(re.findall(r"`(?:python|pytest)(?: -s)? ([\w./]+\.py|tests/\w+)", text))
    assert len(scripts) > 5
    assert all((ROOT / script).exists() for script in scripts), scripts
    extras = re.findall(r"(?:\.|led-sglang)\[([\w,]+)\]", text)
    assert {name for extra in extras for name in extra.split(",")} == {
        *("analysis", "eval", "reasoning")
    }
    assert {"analysis", "eval", "reasoning"} <= project["optional-dependencies"].keys()
    # No index carries the package: never `pip install led-sglang`.
    assert not re.search(r"pip install ['\"]?led-sglang(?!\[[\w,]+\] @ git\+)", text)


def test_the_keys_of_a_raw_trace_are_those_of_the_docs(server: Server) -> None:
    section = (ROOT / "docs/trace.md").read_text().partition("## The raw trace")[2]
    listed = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    problem = "Visit every room once. Doors: 1-3 3-6 3-5 2-6 1-7 2-4 4-6 1-6 4-5 Start: 6"
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": problem}],
        "max_tokens": 64,
        "seed": 4,
        "return_meta_info": True,
        "custom_params": {"sampler": "led", "led": {"trace": True, "behaviour_logprobs": True}},
    }
    meta = server.post("/v1/chat/completions", body).json()["choices"][0]["meta_info"]
    phases = set()
    for entry, logprob in zip(meta["led_trace"], meta["led_behaviour_logprobs"], strict=True):
        phases.add(entry["phase"])
        if entry["phase"] == "think":
            assert set(entry) == set(listed)
            assert logprob == entry["behaviour_logprob"]
        else:
            assert list(entry) == ["token_id", "phase"]
            assert logprob is None
    assert phases == {"think", "response"}


def test_a_real_model_is_looked_into_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of `make real-model`, on this server in place of its own."""
    started = []

    @contextmanager
    def this_server(flags: list[str], log: Path) -> Iterator[str]:
        started.append(flags)
        yield server.url

    monkeypatch.setattr(look, "running_server", this_server)
    (tmp_path / "partial-analysis").mkdir()  # of a run that was killed
    (tmp_path / "partial-analysis" / "layers.csv").write_text("half")
    assert look.look(bundled_model(), tmp_path, limit=1, max_new_tokens=8) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*look.RESULTS}
    assert (tmp_path / "analysis" / "entropy.png").stat().st_size > 0
    assert '["final_norm","true"]' in (tmp_path / "trace-final-norm.html").read_text()
    (tmp_path / "trace.html").unlink()
    page = (tmp_path / "trace-final-norm.html").stat().st_mtime_ns
    assert [look.look(bundled_model(), tmp_path, 1, 8) for _ in range(2)] == [0, 0]
    assert (tmp_path / "trace-final-norm.html").stat().st_mtime_ns == page
    assert started == [["--model-path", str(bundled_model()), *look.SERVER]] * 2
