"""Runs of `led-sglang eval` against an engine that fails, refuses or is another one."""

from __future__ import annotations

import json
from pathlib import Path

from eval_harness import engine, led_eval, records, running, small_grid

from led_sglang.common.server_process import free_port


def test_storm_of_refusals_and_broken_answers_is_ridden_out(tmp_path: Path) -> None:
    storm = [429, 503, 500, 502, 504] * 6
    fake = engine(failures=list(storm), garbage=3)
    with running(fake) as url:
        done = led_eval(*small_grid(url, tmp_path, tasks=["aime24"]))
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 80
    assert len(fake.requests) == 80 + len(storm) + 3


def test_an_endless_storm_ends_with_the_servers_words_and_keeps_what_is_there(
    tmp_path: Path,
) -> None:
    with running(engine()) as url:
        grid = small_grid(url, tmp_path, "--attempts", 3, tasks=["aime24"])
        assert led_eval(*grid).returncode == 0
        (next(tmp_path.glob("samples/*/*/*/output-rs3.jsonl"))).unlink()
    kept = len(records(tmp_path))
    assert kept == 75
    with running(engine(failures=[503] * 1000)) as url:
        grid = small_grid(url, tmp_path, "--attempts", 3, "--resume", tasks=["aime24"])
        failed = led_eval(*grid)
    assert failed.returncode == 2
    assert "failed 3 times" in failed.stderr
    assert "scripted 503" in failed.stderr
    assert len(records(tmp_path)) == kept


def test_endpoint_that_goes_down_keeps_what_is_finished(tmp_path: Path) -> None:
    with running(engine(down_after=30)) as url:
        failed = led_eval(*small_grid(url, tmp_path, "--attempts", 2, tasks=["aime24"]))
    assert failed.returncode == 2
    assert "failed 2 times" in failed.stderr
    assert 20 <= len(records(tmp_path)) <= 30
    assert json.loads((tmp_path / "metrics.json").read_text())["complete"] is False
    with running(engine()) as url:
        assert led_eval(*small_grid(url, tmp_path, "--resume", tasks=["aime24"])).returncode == 0
    assert len(records(tmp_path)) == 80


def test_endpoint_down(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    failed = led_eval(*small_grid(url, tmp_path / "run", "--attempts", 2))
    assert failed.returncode == 2
    assert url in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_refused_request_is_not_repeated(tmp_path: Path) -> None:
    fake = engine(failures=[400])
    with running(fake) as url:
        failed = led_eval(*small_grid(url, tmp_path, "--concurrency", 1, tasks=["aime24"]))
    assert failed.returncode == 2
    assert "HTTP 400" in failed.stderr
    assert "scripted 400" in failed.stderr
    assert len(fake.requests) == 1


def test_wrong_model_and_unknown_sampler(tmp_path: Path) -> None:
    with running(engine()) as url:
        wrong = led_eval(*small_grid(url, tmp_path / "a", "--model", "other/model"))
        unknown = led_eval(*small_grid(url, tmp_path / "b", "--samplers", "regular,dola"))
    assert wrong.returncode == unknown.returncode == 2
    assert "'other/model'" in wrong.stderr
    assert "fake/model" in wrong.stderr
    assert "'dola'" in unknown.stderr
    assert "led, regular" in unknown.stderr


def test_plain_server_is_not_asked_for_led(tmp_path: Path) -> None:
    """It would ignore custom_params, and LED would look like regular decoding."""
    fake = engine(plugin=False)
    with running(fake) as url:
        refused = led_eval(*small_grid(url, tmp_path / "a"))
        fine = led_eval(*small_grid(url, tmp_path / "b", "--samplers", "regular", tasks=["aime24"]))
    assert refused.returncode == 2
    assert "does not offer the sampler 'led'" in refused.stderr
    assert fine.returncode == 0, fine.stderr
    assert all("custom_params" not in body for body in fake.requests)
