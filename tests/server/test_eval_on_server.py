"""`led-sglang eval` end to end against a real CPU server."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium
from eval_harness import led_eval, records
from harness import Server, assert_progress, serve

from led_sglang.cli import main
from led_sglang.common.server_process import free_port

SAMPLES = 2 * 2 * 4 * 5 * 4


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    with serve(model_path) as running:
        yield running


def test_full_grid_on_a_real_server(server: Server, tmp_path: Path) -> None:
    done = led_eval(
        *("--base-url", server.url, "--run-dir", tmp_path, "--n", 4, "--limit", 5),
        *("--tasks", "aime24,aime25,math500,gsm8k", "--samplers", "regular,led"),
        *("--temperatures", "0.1,0.6", "--max-tokens", 24, "--concurrency", 32),
    )
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert len(found) == SAMPLES
    for record in found:
        assert 1 <= record["num_generated_tokens"] <= 24
        assert 0 <= record["num_reasoning_tokens"] <= record["num_generated_tokens"]
        assert (record["led"] is not None) == (record["sampler"] == "led")
        if record["led"]:
            assert 0 < record["led"]["think_tokens"] <= record["num_generated_tokens"]
    settings = json.loads((tmp_path / "run.json").read_text())
    # The chat template of the model opens the think block, and the server was asked about it.
    assert settings["delimiters"] == {"start": "<think>", "end": "</think>", "opened": True}
    assert settings["server"]["led"]["depth"] == 8
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["complete"] is True
    for task in ("aime24", "aime25", "math500", "gsm8k"):
        for temperature in ("0.1", "0.6"):
            cell = metrics["tasks"][task]["led"][temperature]
            assert cell["num_samples"] == 20
            assert 0 < cell["led"]["explored_share"] < 1
    # Seeds of LED requests are their own: no completion repeats another one.
    led = [r for r in found if r["sampler"] == "led" and r["temperature"] == 0.6]
    texts = {(r["id"], r["reasoning_content"] + r["generation"]) for r in led}
    assert len(texts) == len(led)
    with chromium(tmp_path / "profile") as browser:
        browser.get((tmp_path / "report.html").as_uri())
        assert browser.get_log("browser") == []
        figures = (
            "return [...document.querySelectorAll('figure svg')].map(s => s.closest('figure').id)"
        )
        assert browser.execute_script(figures) == [
            *("pass_at_n", "cover", "paired", "alpha", "length", "exploration")
        ]


def test_launch_starts_a_server_and_ends_it(model_path: Path, tmp_path: Path) -> None:
    port = free_port()
    done = led_eval(
        *("--launch", f"--model-path {model_path} --device cpu --port {port}"),
        *("--run-dir", tmp_path, "--tasks", "gsm8k", "--samplers", "led,dola", "--limit", 2),
        *("--n", 2, "--max-tokens", 16),
    )
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 8
    assert_progress(done.stderr, tmp_path / "server.log")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_launch_that_is_refused_shows_why(model_path: Path, tmp_path: Path) -> None:
    done = led_eval(
        *("--launch", f"--model-path {model_path} --device cpu --led-depth 99"),
        *("--run-dir", tmp_path, "--tasks", "gsm8k", "--samplers", "led"),
    )
    assert done.returncode == 2
    assert "--led-depth 99 is outside" in done.stderr


def test_a_recorded_sample_is_asked_again_with_its_trace(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    done = led_eval(
        *("--base-url", server.url, "--run-dir", run, "--n", 2, "--limit", 1, "--tasks", "gsm8k"),
        *("--samplers", "regular,led", "--temperatures", "0.6", "--max-tokens", 24),
        *("--concurrency", 1, "--grade-workers", 1),
    )
    assert done.returncode == 0, done.stderr
    file = run / "samples" / "gsm8k" / "led" / "T0.6" / "output-rs1.jsonl"
    record = json.loads(file.read_text())
    flags = ["trace", "--from-run", str(run), "--sample", f"gsm8k/{record['id']}/1"]
    flags += ["--base-url", server.url]
    assert main(flags) == 0
    assert "the tokens are those of the recorded sample" in capsys.readouterr().err
    # Where the problem's page links it.
    (problem,) = run.glob("pages/gsm8k/*.html")
    (link,) = re.findall(
        r'href="(\.\./\.\./traces/gsm8k/led/T0.6/[^"]*-1\.html)"', problem.read_text()
    )
    page = problem.parent / link
    found = page.read_text()
    assert '["repeats","yes"]' in found
    assert f'["seed","{record["seed"]}"]' in found
    assert json.dumps(record["request"]["messages"][0]["content"][:40])[1:-1] in found
    # Another sampler has no trace, but its tokens and phases are there.
    main([*flags, "--sampler", "regular"])
    # It draws without the seed, and may come to an end.
    assert re.search(r"^regular: \d+ tokens$", capsys.readouterr().err, re.MULTILINE)

    file.write_text(json.dumps({**record, "reasoning_content": "x"}) + "\n")
    assert main(flags) == 2
    assert "not the recorded one from character 0 on" in capsys.readouterr().err
    settings = json.loads((run / "run.json").read_text())
    settings["server"]["dtype"], settings["server"]["led"]["depth"] = "bfloat16", 4
    (run / "run.json").write_text(json.dumps(settings))
    page.unlink()
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert 'dtype: "bfloat16" -> ' in error
    assert "led.depth: 4 -> 8" in error
    assert error.count("\n") == 1
    assert not page.exists()
