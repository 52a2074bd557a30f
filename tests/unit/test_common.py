"""What the commands share: addresses, places to write, how a command ends, help without torch."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from led_sglang.cli import main
from led_sglang.common.address import ServerError, server_info, server_url
from led_sglang.common.client import ServerClient
from led_sglang.common.flags import split_flags
from led_sglang.common.paths import writable_file, writable_folder
from led_sglang.common.terminal import CommandError
from led_sglang.common.threads import run_all
from led_sglang.common.user_files import check_keys, parse_yaml

COMMANDS = ("serve", "eval", "bench", "trace", "analyze", "doctor")


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("localhost:30000", "http://localhost:30000"),
        ("http://localhost:30000", "http://localhost:30000"),
        ("http://localhost:30000/", "http://localhost:30000"),
        (" HTTP://127.0.0.1:30000/v1/ ", "http://127.0.0.1:30000"),
        ("127.0.0.1:30000/v1", "http://127.0.0.1:30000"),
        ("localhost", "http://localhost"),
        ("[::1]:30000", "http://[::1]:30000"),
        ("gpu-7.cluster.local:8000/v1/chat/completions", "http://gpu-7.cluster.local:8000"),
        ("https://example.org/llm/v1", "https://example.org/llm"),
        ("example.org/llm/", "http://example.org/llm"),
        ("http://localhost:30000/generate", "http://localhost:30000"),
        ("user:secret@host:1/v1", "http://user:secret@host:1"),
    ],
)
def test_addresses_as_people_write_them(written: str, url: str) -> None:
    assert server_url(written) == url
    assert ServerClient(written).base_url == url


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "30000", ":30000", "http://", "http:/localhost:1", "http//localhost:1", "/v1"),
        *("ftp://localhost:1", "localhost:abc", "localhost:99999", "localhost:0", "a b", "[::1:80"),
        *("http://local host:1", "localhost:1/v1?x=1", "unix:///tmp/socket", "http://a,b:30000"),
    ],
)
def test_what_is_no_address(written: str) -> None:
    with pytest.raises(ServerError, match="write it as http://localhost:30000") as caught:
        server_url(written)
    assert repr(written) in str(caught.value)


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (404, "<html>File not found</html>", "no SGLang server: its /server_info answers HTTP 404"),
        (200, "<html>welcome</html>", "HTTP 200 with something else"),
        (200, '{"version": "vllm"}', "HTTP 200 with something else"),
        (200, "[]", "HTTP 200 with something else"),
        (500, "", "HTTP 500"),
        (401, '{"error": "Unauthorized"}', "wants a key"),
    ],
)
def test_what_is_no_server_of_sglang(status: int, text: str, said: str) -> None:
    with pytest.raises(ServerError, match=said):
        server_info("http://h:1", status, text)


def answering(reply: bytes) -> int:
    """The port of a server that answers each connection with the same bytes and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

    threading.Thread(target=run, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def test_nobody_and_strangers_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    strangers = {
        f"127.0.0.1:{free}": "no answer from .* (connection refused)",
        "no-such-host.invalid:30000": "no answer from .* (unknown host)",
        f"localhost:{answering(b'')}": "no answer from ",
        f"localhost:{answering(b'SSH-2.0-OpenSSH_9.2')}": "no answer from ",
        f"https://localhost:{answering(b'HTTP/1.0 200 OK')}": "does not speak https",
        f"localhost:{answering(b'HTTP/1.0 404 Not Found')}": "is no SGLang server",
    }
    for address, said in strangers.items():
        with pytest.raises(ServerError) as caught:
            ServerClient(address, timeout_s=5).led_settings()
        message = str(caught.value)
        assert all(part in message for part in said.split(".*")), message
        assert "start one with `led-sglang serve`, or name another address" in message
        assert "\n" not in message


def test_a_place_to_write_is_made_and_left_as_it_was(tmp_path: Path) -> None:
    page = tmp_path / "new" / "folder" / "page.html"
    writable_file(page, "--out")
    assert page.parent.is_dir()
    assert not page.exists()
    page.write_text("old")
    writable_file(page, "--out")
    assert page.read_text() == "old"
    writable_folder(tmp_path / "a" / "b", "--out")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("check", [writable_file, writable_folder])
def test_a_place_that_cannot_be_written(check: Callable[[Path, str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "x", Path("/proc/nowhere/x"), tmp_path / ("n" * 300)]
    places += [tmp_path if check is writable_file else tmp_path / "file", Path("/proc/1/x\0")]
    for place in places:
        with pytest.raises(CommandError, match="name another place with --out") as caught:
            check(place, "--out")
        assert str(place) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "Errno" not in str(caught.value)


def test_help_needs_no_torch_and_shows_defaults() -> None:
    """In an interpreter where importing torch or SGLang fails."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['sglang'] = None\n"
        "from led_sglang.cli import main\n"
        "sys.exit(main([sys.argv[1], '--help']))\n"
    )
    defaults = {
        "serve": ["default: led"],
        "bench": ["regular,led)", "1,8,16,32,64,128,256)", "2048)", "0.6)", "confidence)"],
        "trace": ["http://127.0.0.1:30000)", "trace.html;", "1024)", "0.6)", "(default: led)"],
        "analyze": ["30)", "8192)", "0.6)", "0.05)", "16)", "auto)"],
        "doctor": [],
        "eval": [],
    }
    assert set(defaults) == set(COMMANDS)
    for command, shown in defaults.items():
        done = subprocess.run(
            [sys.executable, "-c", code, command], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        text = " ".join(done.stdout.split())
        assert text.startswith(f"usage: led-sglang {command}")
        assert all(default in text for default in shown), text
        assert "default: None" not in text
        assert "default: False" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dctor"],
        ["--nothing"],
        ["doctor", "--nothing"],
        ["trace"],
        ["trace", "--prompt", "x", "--temperature", "hot"],
        ["trace", "--prompt", "x", "--led", "{"],
        ["trace", "--prompt-file", "/no/such/file"],
        ["trace", "--prompt", "x", "--compare", "a,b,c"],
        ["bench"],
        ["bench", "--model-path", "m", "--nothing"],
        ["analyze", "--prompts", "x", "--out", "y"],
        ["analyze", "--base-url", "u", "--prompts", "x", "--out", "y", "--limit", "none"],
        ["analyze", "--base-url", "u", "--prompts", "x", "--out", "y", "--limit", "0"],
        ["analyze", "--base-url", "u", "--tasks", "x", "--out", "y", "--temperature", "nan"],
        ["analyze", "--base-url", "u", "--tasks", "x", "--out", "y", "--", "--tp", "2"],
    ],
)
def test_usage_errors_are_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "--help` lists the flags" in printed.err


def test_every_command_s_bad_place_and_address_come_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("one prompt\n")
    bad, prompts = str(tmp_path / "file" / "x"), ["--prompts", str(tmp_path / "file")]
    nowhere = ["--base-url", "30000"]
    good = str(tmp_path / "out")
    commands = {
        ("trace", "--prompt", "x", "--out", bad): "--out",
        ("trace", "--prompt", "x", "--out", good, *nowhere): "no address",
        ("trace", "--prompt", "x", "--out", good, "--base-url", "127.0.0.1:9"): "no answer",
        ("bench", "--model-path", "m", "--out", bad): "--out",
        ("bench", "--model-path", "m", "--out", bad, "--resume"): "--out",
        ("analyze", "--model-path", "m", *prompts, "--out", bad): "--out",
        ("analyze", *nowhere, *prompts, "--out", good): "no address",
        ("analyze", "--base-url", "", *prompts, "--out", good): "no address",
        ("analyze", "--base-url", "127.0.0.1:9", *prompts, "--out", good): "no answer",
        ("analyze", *nowhere, *prompts, "--out", good, "--device", "warp"): "--device",
        ("analyze", *nowhere, *prompts, "--out", good, "--device", "cuda:77"): "--device",
    }
    for command, said in commands.items():
        assert main(command) == 2
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == 1, printed.err
        assert said in printed.err
        assert printed.err.startswith("led-sglang: ")


def test_calls_on_threads_keep_their_order_and_their_error() -> None:
    seen: list[int] = []

    def call(item: int) -> int:
        if item == 9:
            raise ServerError("nine")
        time.sleep(0.01 * (5 - item))
        return item * item

    assert run_all(call, range(5), 3, seen.append) == [0, 1, 4, 9, 16]
    assert seen[-1] == 5
    with pytest.raises(ServerError, match="nine"):
        run_all(call, [1, 9, 2], 2, seen.append)
    assert run_all(call, [], 4, seen.append) == []


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("a: 1\nb: 2", None),
        ("a: 1", None),
        ("a: 1\nc: 2", "x.yaml: unknown key c (allowed: a, b)"),
        ("b: 2", "x.yaml: key a is missing"),
        ("[a]", "x.yaml must be a mapping of a, b, not ['a']"),
        ("", "x.yaml must be a mapping of a, b, not None"),
        (
            "a: [",
            "x.yaml is not YAML (line 1: expected the node content, but found '<stream end>')",
        ),
        (b"a: \xff", "x.yaml is not YAML"),
        ("a: 1\nb: {c: 1, c: 2}", "x.yaml is not YAML (line 2: the key c stands twice)"),
        (
            "d: &d {a: 1}\na: 1\nb: {<<: *d, a: 2}\nd: 3",
            "x.yaml is not YAML (line 4: the key d stands twice)",
        ),
        ("a: 2024-13-45", "x.yaml is not YAML (month must be in 1..12)"),
    ],
)
def test_a_file_that_people_write(written: str | bytes, sentence: str | None) -> None:
    def read() -> object:
        keys = parse_yaml(written, "x.yaml", ServerError)
        return check_keys(keys, "x.yaml", required=["a"], optional=["b"], error=ServerError)

    if sentence is None:
        assert read() == yaml.safe_load(written)
        return
    with pytest.raises(ServerError) as caught:
        read()
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("argv", "own", "servers"),
    [
        ([], [], []),
        (["--out", "x"], ["--out", "x"], []),
        (["--out", "x", "--", "--tp", "2"], ["--out", "x"], ["--tp", "2"]),
        (["--", "--a", "--", "b"], [], ["--a", "--", "b"]),
        (["--out", "x", "--"], ["--out", "x"], []),
    ],
)
def test_flags_behind_two_dashes_are_the_servers(
    argv: list[str], own: list[str], servers: list[str]
) -> None:
    assert split_flags(argv) == (own, servers)


def test_the_client_is_found_where_earlier_versions_had_it() -> None:
    from led_sglang import client, trace

    assert client.ServerClient is trace.ServerClient is ServerClient
    assert client.ServerError is ServerError
