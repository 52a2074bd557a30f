"""Whole runs of `led-sglang eval` against a fake engine: what is asked, stored and refused."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eval_harness import engine, eval_command, led_eval, records, running, small_grid

from led_sglang.evaluation.seeds import sample_seed

SAMPLES = 2 * 2 * 4 * 5 * 4


def identity(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("task", "sampler", "temperature", "id", "sample"))


def test_a_whole_grid(tmp_path: Path) -> None:
    fake = engine(delay=0.02)
    with running(fake) as url:
        done = led_eval(*small_grid(url, tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    found = records(tmp_path / "run")
    assert len(found) == len({identity(record) for record in found}) == SAMPLES
    # One request a sample, and the method in custom_params. Problems share no seed; the samplers
    # and temperatures of a problem's sample do.
    shared: dict[int, set[tuple[Any, ...]]] = {}
    for record in found:
        place = (record["task"], record["id"], record["sample"])
        assert sample_seed(0, *place, per_sample=False) == record["seed"]
        shared.setdefault(record["seed"], set()).add(place)
    assert len(shared) == SAMPLES // 4
    assert {len(places) for places in shared.values()} == {1}
    assert Counter(body["seed"] for body in fake.requests) == dict.fromkeys(shared, 4)
    assert Counter(body["custom_params"]["sampler"] for body in fake.requests) == {
        "led": SAMPLES // 2,
        "regular": SAMPLES // 2,
    }
    assert all("n" not in body and body["return_meta_info"] for body in fake.requests)
    assert fake.most_in_flight == 8
    first = fake.requests[0]["messages"]
    assert len(first) == 1
    assert first[0]["content"].startswith(
        "Please reason step by step, and put your final answer within \\boxed{}.\n\nAmong the $900$"
    )
    for name in ("metrics.json", "report.md", "report.html", "plots/pass_at_n.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert "accuracy" in done.stderr
    # The progress bar: accuracy so far, speed, and tqdm's own time left.
    assert re.search(r"accuracy \d+\.\d%, [\d,]+ tok/s", done.stderr)


def test_metrics_equal_a_recount_of_the_samples(tmp_path: Path) -> None:
    with running(engine()) as url:
        assert led_eval(*small_grid(url, tmp_path / "run")).returncode == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["complete"] is True
    cell = [
        record
        for record in records(tmp_path / "run")
        if (record["task"], record["sampler"], record["temperature"]) == ("math500", "led", 0.6)
    ]
    by_item: dict[str, list[dict[str, Any]]] = {}
    for record in cell:
        by_item.setdefault(record["id"], []).append(record)
    assert len(by_item) == 5
    # Verdicts by reading the script of the engine: right answers are the gold ones.
    for record in cell:
        said = f"\\boxed{{{record['expected_answer']}}}" in record["generation"]
        assert record["symbolic_correct"] == said
    share = sum(record["symbolic_correct"] for record in cell) / len(cell)
    solved = sum(any(r["symbolic_correct"] for r in group) for group in by_item.values()) / 5
    got = metrics["tasks"]["math500"]["led"]["0.6"]
    assert got["pass@1[avg-of-4]"]["symbolic_correct"] == pytest.approx(100 * share)
    assert got["pass@4"]["symbolic_correct"] == pytest.approx(100 * solved)
    cut = sum(record["finish_reason"] == "length" for record in cell)
    assert got["pass@1[avg-of-4]"]["truncated"] == pytest.approx(100 * cut / len(cell))
    explored = sum(record["led"]["explored_tokens"] for record in cell)
    thought = sum(record["led"]["think_tokens"] for record in cell)
    assert got["led"]["explored_share"] == pytest.approx(explored / thought)
    tokens = [record["num_generated_tokens"] for record in cell]
    assert got["pass@1[avg-of-4]"]["avg_tokens"] == pytest.approx(sum(tokens) / len(tokens))
    # The difference to `regular` is that of the two means: all problems are finished in both.
    regular = metrics["tasks"]["math500"]["regular"]["0.6"]["pass@4"]["symbolic_correct"]
    (entry,) = [
        entry
        for entry in metrics["paired"]
        if (entry["task"], entry["temperature"], entry["metric"]) == ("math500", 0.6, "pass@4")
    ]
    assert entry["difference"] == pytest.approx(100 * solved - regular)


def test_killed_twenty_times_equals_uninterrupted(tmp_path: Path) -> None:
    generator = random.Random(11)
    fake = engine()
    with running(fake) as url:
        assert led_eval(*small_grid(url, tmp_path / "whole")).returncode == 0
        fake.asked.clear()
        fake.delay = 0.25
        broken = tmp_path / "broken"
        for attempt in range(20):
            more = ["--resume"] if attempt else []
            with (tmp_path / "log").open("w") as log:
                process = subprocess.Popen(
                    eval_command(*small_grid(url, broken, *more)), stdout=log, stderr=log
                )
            before = _count_lines(broken)
            wanted = before + generator.randrange(13)
            while process.poll() is None and _count_lines(broken) < wanted:
                time.sleep(0.01)
            # Any moment: also within start-up, where nothing has been asked yet.
            time.sleep(generator.uniform(0, 0.1 if attempt % 4 else 0.6))
            assert process.poll() is None, (tmp_path / "log").read_text()
            process.kill()
            process.wait()
        assert _count_lines(broken) < SAMPLES  # each kill met a running run
        fake.delay = 0
        done = led_eval(*small_grid(url, broken, "--resume"))
    assert done.returncode == 0, done.stderr
    ours, theirs = records(broken), records(tmp_path / "whole")
    assert sorted(map(identity, ours)) == sorted(map(identity, theirs))
    assert len({identity(record) for record in ours}) == SAMPLES
    assert sorted(map(json.dumps, ours)) == sorted(map(json.dumps, theirs))
    metrics = [
        json.loads((folder / "metrics.json").read_text()) for folder in (broken, tmp_path / "whole")
    ]
    assert metrics[0] == metrics[1]
    # Work is only repeated for samples that were under way when a kill came.
    repeated = sum(fake.asked.values()) - SAMPLES
    assert 0 < repeated <= 20 * 8


def _count_lines(run_dir: Path) -> int:
    return sum(f.read_bytes().count(b"\n") for f in run_dir.glob("samples/*/*/*/*.jsonl"))


# What a kill, a full disk or a crash leaves of five lines, and how many of them are whole.
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "empty": (lambda text: b"", 0),
    "cut in the first line": (lambda text: text[:30], 0),
    "cut in the last line": (lambda text: text[: text.rindex(b"\n", 0, -1) + 30], 4),
    "cut before the last line feed": (lambda text: text[:-1], 4),
    "zeros at the end": (lambda text: text[: text.rindex(b"\n", 0, -1) + 1] + bytes(4000), 4),
}


def test_killed_in_mid_line_nothing_finished_is_lost_or_asked_twice(tmp_path: Path) -> None:
    fake = engine()
    with running(fake) as url:
        grid = small_grid(url, tmp_path, tasks=["aime24"])
        assert led_eval(*grid).returncode == 0
        metrics = (tmp_path / "metrics.json").read_text()
        whole = sorted(map(json.dumps, records(tmp_path)))
        files = sorted(tmp_path.glob("samples/*/*/*/*.jsonl"))
        for (damage, _), file in zip(DAMAGES.values(), files, strict=False):
            file.write_bytes(damage(file.read_bytes()))
        sessions = tmp_path / "sessions.jsonl"
        for lacking, left in ((5 * 5 - sum(kept for _, kept in DAMAGES.values()), 0), (0, 30)):
            sessions.write_bytes(sessions.read_bytes()[:left])
            fake.asked.clear()
            done = led_eval(*grid, "--resume")
            assert done.returncode == 0, done.stderr
            assert sum(fake.asked.values()) == lacking
            assert sorted(map(json.dumps, records(tmp_path))) == whole
            assert (tmp_path / "metrics.json").read_text() == metrics
            assert sessions.read_bytes().count(b"\n") == 1


CHANGES = [
    (["--max-tokens", "128"], "grid.max_tokens: 256 -> 128"),
    (["--n", "8"], "grid.n: 4 -> 8"),
    (["--seed", "1"], "grid.seed: 0 -> 1"),
    (["--seed-per-sample"], "grid.seed_per_sample: false -> true"),
    (["--top-p", "0.9"], "grid.top_p: 0.95 -> 0.9"),
    (["--temperatures", "0.1,0.7"], "grid.temperatures: [0.1, 0.6] -> [0.1, 0.7]"),
    (["--scope", "completion"], 'grid.scope: "answer" -> "completion"'),
    (["--limit", "4"], "tasks.aime24.items: 5 -> 4"),
    (["--samplers", "led,regular"], "grid.samplers"),
]


def test_a_changed_setting_is_refused_by_name(tmp_path: Path) -> None:
    with running(engine()) as url:
        grid = small_grid(url, tmp_path, tasks=["aime24"])
        assert led_eval(*grid).returncode == 0
        before = sorted(map(json.dumps, records(tmp_path)))
        for change, key in CHANGES:
            refused = led_eval(*grid, *change, "--resume")
            assert refused.returncode == 2
            assert key in refused.stderr
    assert sorted(map(json.dumps, records(tmp_path))) == before


def test_a_changed_server_task_or_missing_resume_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "items.jsonl"
    data.write_text('{"id": "1", "problem": "1 + 1?", "expected_answer": "2"}\n')
    run_dir = tmp_path / "run"
    more = ["--data", f"aime24={data}"]
    with running(engine()) as url:
        assert led_eval(*small_grid(url, run_dir, *more, tasks=["aime24"])).returncode == 0
        again = led_eval(*small_grid(url, run_dir, *more, tasks=["aime24"]))
        assert again.returncode == 2
        assert "--resume" in again.stderr
        data.write_text('{"id": "1", "problem": "1 + 2?", "expected_answer": "3"}\n')
        other = led_eval(*small_grid(url, run_dir, *more, "--resume", tasks=["aime24"]))
        assert other.returncode == 2
        assert "tasks.aime24.prompts" in other.stderr
    data.write_text('{"id": "1", "problem": "1 + 1?", "expected_answer": "2"}\n')
    with running(engine(dtype="bfloat16")) as url:
        other = led_eval(*small_grid(url, run_dir, *more, "--resume", tasks=["aime24"]))
    assert other.returncode == 2
    assert 'server.dtype: "float32" -> "bfloat16"' in other.stderr


def test_a_run_goes_on_where_another_sampler_was_enabled(tmp_path: Path) -> None:
    with running(engine()) as url:
        assert led_eval(*small_grid(url, tmp_path, tasks=["aime24"])).returncode == 0
    next(tmp_path.glob("samples/*/*/*/output-rs3.jsonl")).unlink()
    with running(engine(enabled=("led", "regular", "dola"))) as url:
        again = led_eval(*small_grid(url, tmp_path, "--resume", tasks=["aime24"]))
    assert again.returncode == 0, again.stderr
    assert len(records(tmp_path)) == 80


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    with running(engine(delay=0.5)) as url:
        first = subprocess.Popen(
            eval_command(*small_grid(url, tmp_path)), stderr=subprocess.DEVNULL
        )
        try:
            while not (tmp_path / "run.json").exists():
                time.sleep(0.05)
            second = led_eval(*small_grid(url, tmp_path, "--resume"))
        finally:
            first.kill()
            first.wait()
    assert second.returncode == 2
    assert "another process" in second.stderr


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_leaves_a_report_and_says_so(
    tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    with running(engine(delay=0.2)) as url:
        grid = small_grid(url, tmp_path, tasks=["aime24"])
        process = subprocess.Popen(eval_command(*grid), stderr=subprocess.PIPE, text=True)
        while _count_lines(tmp_path) < 20:
            time.sleep(0.02)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status
        assert "--resume" in errors
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["complete"] is False
        assert metrics["samples"]["finished"] == _count_lines(tmp_path) >= 20
        assert "not finished" in (tmp_path / "report.html").read_text()
        assert led_eval(*grid, "--resume").returncode == 0
    assert len(records(tmp_path)) == 80


def test_bad_line_of_a_task_file_is_named(tmp_path: Path) -> None:
    data = tmp_path / "items.jsonl"
    data.write_text('{"id": "1", "problem": "p", "expected_answer": "2"}\n{"id": "2", "prob\n')
    failed = led_eval(
        *small_grid("http://127.0.0.1:9", tmp_path / "run", "--data", f"aime24={data}")
    )
    assert failed.returncode == 2
    assert f"{data}, line 2" in failed.stderr


@pytest.mark.parametrize("tokenizes", [True, False])
def test_never_closed_thinking_is_truncated_not_wrong_format(
    tmp_path: Path, tokenizes: bool
) -> None:
    with running(engine(never_closes=True, tokenizes=tokenizes)) as url:
        assert led_eval(*small_grid(url, tmp_path, tasks=["aime24"])).returncode == 0
    found = records(tmp_path)
    assert {record["outcome"] for record in found} == {"truncated"}
    assert {record["predicted_answer"] for record in found} == {None}
    cell = json.loads((tmp_path / "metrics.json").read_text())["tasks"]["aime24"]["led"]["0.6"]
    first = cell["pass@1[avg-of-4]"]
    assert (first["truncated"], first["no_answer"], first["symbolic_correct"]) == (100, 0, 0)


def test_copies_instead_of_samples_are_noticed(tmp_path: Path) -> None:
    with running(engine(copies=True)) as url:
        done = led_eval(*small_grid(url, tmp_path, tasks=["aime24"]))
    assert done.returncode == 0
    assert "repeat another one of the same problem word for word (75% of" in done.stderr
    assert done.stderr.count("word for word") == 1  # one line, not one a cell


def test_full_disk_keeps_what_is_finished(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the kernel refuses the write."""
    run_dir = tmp_path / "run"
    with running(engine()) as url:
        grid = small_grid(url, run_dir, tasks=["aime24"])
        limited = subprocess.run(
            ["bash", "-c", 'ulimit -f 6; exec "$@"', "bash", *eval_command(*grid)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert limited.returncode == 2, limited.stderr
        assert "cannot write" in limited.stderr
        assert "--resume" in limited.stderr
        kept = records(run_dir)  # every line is whole
        assert 0 < len(kept) < 80
        assert led_eval(*grid, "--resume").returncode == 0
    assert len(records(run_dir)) == 80
    assert {identity(record) for record in kept} <= {identity(r) for r in records(run_dir)}
