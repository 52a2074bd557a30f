"""The first minute of a run: what does not fit is said before anything is generated."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from eval_harness import engine, eval_command, records, running

from led_sglang.common.server_process import free_port
from led_sglang.evaluation.command import evaluate
from led_sglang.evaluation.tasks import load_task
from led_sglang.presets import load_presets


def grid(url: str, run_dir: Path, *more: object) -> list[str]:
    """Two problems, two samplers, one temperature, n = 2."""
    arguments = [*("--base-url", url, "--run-dir", run_dir, "--tasks", "aime24", "--limit", 2)]
    arguments += [*("--samplers", "regular,led", "--n", 2, "--grade-workers", 1), *more]
    return [str(argument) for argument in arguments]


def words(text: str) -> int:
    return len(re.findall(r"\s*\S+|\s+", text))


# The fake engine counts words; those around the prompt are <|im_start|>user and
# <|im_start|>assistant, the delimiter and the line feed on each side of it.
TASK = load_task("aime24", limit=2)
LONGEST = max(words(TASK.prompt(item)) for item in TASK.items) + 5


def test_a_max_tokens_nobody_asked_for_is_lowered_to_the_context(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = engine(context=2048)
    with running(fake) as url:
        assert evaluate(grid(url, tmp_path, "--config", "quick")) == 0
    (limit,) = {body["max_tokens"] for body in fake.requests}
    assert limit == 2048 - LONGEST
    # Nor what only hidden delimiters need.
    assert not any("skip_special_tokens" in body for body in fake.requests)
    error = capsys.readouterr().err
    assert f"max_tokens is {limit:,} and not 8,192" in error
    assert "context holds 2,048 tokens and the longest prompt (aime24, problem" in error
    assert json.loads((tmp_path / "run.json").read_text())["grid"]["max_tokens"] == limit
    assert len(records(tmp_path)) == 8


@pytest.mark.parametrize("how", ["flag", "file"])
def test_a_max_tokens_that_was_asked_for_is_refused_with_one_that_fits(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("max_tokens: 2000\n" if how == "file" else "n: 2\n")
    more = ["--config", own, *(["--max-tokens", 2000] if how == "flag" else [])]
    fake = engine(context=2048)
    with running(fake) as url:
        assert evaluate(grid(url, tmp_path / "run", *more)) == 2
        error = capsys.readouterr().err
        assert fake.requests == []
        assert "max_tokens 2,000 is too large: the server's context holds 2,048 tokens" in error
        (fits,) = re.findall(r"--max-tokens (\d+) or less", error)
        assert evaluate(grid(url, tmp_path / "run", *more, "--max-tokens", fits)) == 0
        assert evaluate(grid(url, tmp_path / "b", *more, "--max-tokens", int(fits) + 1)) == 2


def test_a_prompt_longer_than_the_context_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = engine(context=20)
    with running(fake) as url:
        assert evaluate(grid(url, tmp_path)) == 2
    error = capsys.readouterr().err
    assert "context holds 20 tokens and the longest prompt (aime24, problem" in error
    assert f"takes {LONGEST}: leave it out" in error
    assert fake.requests == []


PRESETS = {preset.name: preset for preset in load_presets()}
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")


@pytest.mark.parametrize(
    ("name", "tokenizes"),
    [("qwen3", False), ("magistral", True), ("gpt_oss", True)],
)
def test_special_delimiters_are_asked_for(name: str, tokenizes: bool, tmp_path: Path) -> None:
    """Without them in the text, the thought would be graded with the answer.

    A server that cannot be asked whether they are special is asked for them all the same.
    """
    start, end = PRESETS[name].think_start, PRESETS[name].think_end
    style: dict[str, Any] = {"special": (start, end)}
    if name == "gpt_oss":  # delimiters of several tokens, and of text between them
        final = "<|start|>assistant<|channel|>final<|message|>"
        style = {"special": HARMONY, "answer_start": final}
    style |= {"think_start": start, "think_end": end, "opened": name == "qwen3"}
    fake = engine(**style, tokenizes=tokenizes)
    with running(fake) as url:
        assert evaluate(grid(url, tmp_path)) == 0
    assert all(body["skip_special_tokens"] is False for body in fake.requests)
    found = records(tmp_path)
    assert not any("let me think" in record["generation"] for record in found)
    assert all("let me think" in record["reasoning_content"] for record in found)
    answers = {record["generation"] for record in found}
    assert any(answer.strip().startswith("So it is") for answer in answers)


def test_a_plain_servers_delimiters_are_those_of_its_family(tmp_path: Path) -> None:
    fake = engine(plugin=False, model_type="seed_oss")
    with running(fake) as url:
        assert evaluate(grid(url, tmp_path, "--samplers", "regular")) == 0
    delimiters = json.loads((tmp_path / "run.json").read_text())["delimiters"]
    assert (delimiters["start"], delimiters["end"]) == ("<seed:think>", "</seed:think>")


@pytest.mark.parametrize(("parser", "opened"), [(None, True), ("qwen3", None)])
def test_behind_a_reasoning_parser_nobody_knows_whether_a_thought_is_open(
    parser: str | None, opened: bool | None, tmp_path: Path
) -> None:
    """What the parser leaves may be an answer, or a thought that it did not know for one."""
    with running(engine(reasoning_parser=parser)) as url:
        assert evaluate(grid(url, tmp_path)) == 0
    assert json.loads((tmp_path / "run.json").read_text())["delimiters"]["opened"] is opened


def test_a_run_without_a_sample_may_start_over_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(engine(failures=[400])) as url:
        assert evaluate(grid(url, tmp_path, "--concurrency", 1)) == 2
        error = capsys.readouterr().err
        assert "scripted 400" in error
        assert "no report could be written" not in error
        assert not (tmp_path / "metrics.json").exists()
        assert evaluate([*("--run-dir", str(tmp_path)), "--report"]) == 2
        assert "holds no finished sample" in capsys.readouterr().err
        assert evaluate(grid(url, tmp_path, "--concurrency", 3, "--max-tokens", 100)) == 0
    assert json.loads((tmp_path / "run.json").read_text())["grid"]["max_tokens"] == 100
    assert json.loads((tmp_path / "metrics.json").read_text())["concurrency"] == [3]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_before_the_first_sample_is_a_normal_end(
    tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    fake = engine(delay=5)
    with running(fake) as url:
        process = subprocess.Popen(
            eval_command(*grid(url, tmp_path)), stderr=subprocess.PIPE, text=True
        )
        until = time.monotonic() + 60
        while not fake.requests and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signum)
        _, error = process.communicate(timeout=30)
    assert process.returncode == status, error
    assert "Traceback" not in error
    assert "stopped before a sample was finished" in error


@contextmanager
def other_server(status: int, body: str) -> Iterator[str]:
    """A server that is no SGLang server: the same answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, "<html>nothing here", "is no SGLang server"),
        (200, "<html>welcome", "is no SGLang server"),
        (200, '{"version": "0.9"}', "is no SGLang server"),
        (401, '{"error": "Unauthorized"}', "OPENAI_API_KEY"),
    ],
)
def test_a_server_that_is_no_sglang_server(
    status: int, body: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with other_server(status, body) as url:
        assert evaluate(grid(url, tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert url in line


def test_a_dead_server_is_asked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    start = time.monotonic()
    assert evaluate(grid(f"http://127.0.0.1:{port}", tmp_path)) == 2
    assert time.monotonic() - start < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no answer from http://127.0.0.1:{port}" in line
    assert "led-sglang serve" in line


def test_a_server_that_never_speaks_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import aiohttp

    from led_sglang.evaluation import endpoint

    monkeypatch.setattr(endpoint, "_FIRST_CONTACT", aiohttp.ClientTimeout(total=0.5))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert evaluate(grid(url, tmp_path)) == 2
    assert "timed out" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["{host}", "http://{host}/v1", " http://{host}/v1/models "])
def test_an_address_is_read_as_people_write_it(address: str, tmp_path: Path) -> None:
    with running(engine()) as url:
        host = url.removeprefix("http://")
        assert evaluate(grid(address.format(host=host), tmp_path)) == 0
    assert len(records(tmp_path)) == 8


def test_a_run_folder_that_cannot_be_written_is_named_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    fake = engine()
    with running(fake) as url:
        for run_dir in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
            assert evaluate(grid(url, run_dir)) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert f"--run-dir {run_dir} cannot be written" in line
    assert fake.requests == []


def test_a_finished_run_is_refused_before_a_server_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(engine()) as url:
        assert evaluate(grid(url, tmp_path)) == 0
    arguments = grid("unused", tmp_path)
    place = arguments.index("--base-url")
    arguments[place : place + 2] = ["--launch", "--model-path nowhere"]
    assert evaluate(arguments) == 2
    assert "add --resume" in capsys.readouterr().err
    assert not (tmp_path / "server.log").exists()


def test_a_gateway_that_drops_the_choice_ends_the_run_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was asked to be `regular` must not count as LED's, or the other way round."""
    for name, gateway, words in (
        ("drops", "drops", ('asked for the sampler "regular"', '"led" answered', "gateway")),
        ("strips", "strips", ("does not say which sampler", "gateway")),
    ):
        with running(engine(gateway=gateway)) as url:
            assert evaluate(grid(url, tmp_path / name)) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        for word in (url, *words):
            assert word in line
    # Where the model's names choose, they are asked for, and the gateway passes them on.
    fake = engine(gateway="drops", names=True)
    with running(fake) as url:
        assert evaluate(grid(url, tmp_path / "names")) == 0
    assert {body["model"] for body in fake.requests} == {"fake/model:led", "fake/model:regular"}


def test_other_settings_than_those_asked_for_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("samplers: [{name: led, label: deep, params: {depth: 4}}]\n")
    with running(engine()) as url:
        arguments = grid(url, tmp_path / "run")
        place = arguments.index("--samplers")
        arguments[place : place + 2] = ["--config", str(file)]
        assert evaluate(arguments) == 2
    assert "depth = 4, and answered with 8" in capsys.readouterr().err


def test_any_openai_endpoint_is_measured_as_regular(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A baseline on another engine: what it cannot say is missing in the report, by name."""
    fake = engine(openai=True, plugin=False)
    with running(fake) as url:
        arguments = grid(url, tmp_path)
        place = arguments.index("--samplers")
        assert evaluate(arguments) == 2
        assert "does not offer the sampler 'led'" in capsys.readouterr().err
        arguments[place + 1] = "regular"
        # Its API has no top_k; the server's own words tell of it.
        assert evaluate(arguments) == 2
        assert "unknown keys" in capsys.readouterr().err
        assert evaluate([*arguments, "--top-k", "-1"]) == 0
    assert len(records(tmp_path)) == 4
    report = (tmp_path / "report.md").read_text()
    assert "does not describe itself as SGLang does" in report
    assert "sampling: {skip_special_tokens: false}" in report
    assert "cannot count tokens" in report


def test_led_behind_a_gateway_that_shows_no_settings(tmp_path: Path) -> None:
    """The names of models tell that it is there."""
    fake = engine(openai=True, names=True, gateway="drops")
    with running(fake) as url:
        assert evaluate(grid(url, tmp_path)) == 2  # nothing says who answered
    assert fake.requests[0]["model"] == "fake/model:regular"
    assert fake.requests[0]["custom_params"] == {"sampler": "regular"}
