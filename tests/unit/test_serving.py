"""What `led-sglang serve` finds out before it imports SGLang, and how it says so."""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest

from led_sglang.common.ports import listens
from led_sglang.common.server_process import free_port
from led_sglang.launch_options import LaunchOptions, flag_of
from led_sglang.models.bundled import bundled_model
from led_sglang.serving.arguments import DEFAULT_HOST, DEFAULT_PORT, normalised, read
from led_sglang.serving.ready import Address, ready_block
from led_sglang.settings import LaunchRefused

# Flags, and what the sentence must say.
FLAGS = [
    ("--led-depth abc", "--led-depth must be a whole number, got 'abc'"),
    ("--led-depth=4.5", "--led-depth must be a whole number, got '4.5'"),
    ("--led-dep x", "--led-depth must be a whole number"),
    ("--led-depth 0", "--led-depth 0"),
    ("--led-depth -1", "--led-depth -1"),
    ("--led-depth 11", "--led-depth 11 is outside 1..10"),  # the bundled model's ten layers
    ("--led-depth 4 --led-depth 11", "--led-depth 11"),
    ("--led-depth", "--led-depth: expected one argument"),
    ("--led-deph 4", "did you mean --led-depth?"),
    ("--led_depth 4", "did you mean --led-depth?"),
    ("--led-xyz 4", "--led-xyz is no flag of led-sglang"),
    ("--Led-Depth 4", "--Led-Depth is no flag of led-sglang; did you mean --led-depth?"),
    ("-led-depth 4", "did you mean --led-depth?"),
    ("--LED_DEPTH=4", "did you mean --led-depth?"),
    ("--samplers regular", "did you mean --sampler?"),
    ("--enabled-samplers=dola", "did you mean --enable-samplers?"),
    ("-- --led-depth abc", "--led-depth is no flag"),
    ("--dola-layer low,12", "--dola-layers"),
    ("--dola-layers middle", "--dola-layers"),
    ("--dola-layers 10", "0..9"),
    ("--led-candidates 65", "1..64"),
    ("--led-candidates=many", "--led-candidates must be a whole number"),
    ("--led-layers papers", "paper, release"),
    ("--led-think-only maybe", "true or false"),
    ("--led-think-start <a> --led-think-end <a>", "think delimiters differ"),
    ("--led-think-end=", "--led-think-end is an empty text"),
    ("--sampler beam", "soft-thinking-gumbel"),
    ("--sampler=", "--sampler '' is not one of"),
    ("--enable-samplers led,beam", "'beam'"),
    ("--port 70000", "1..65535"),
    ("--port http", "1..65535"),
    ("--host 192.0.2.1", "--host 192.0.2.1 is no address of this machine"),
    ("--host no.such.host.invalid", "--host no.such.host.invalid"),
    ("--tokenizer-path /no/such/folder", "--tokenizer-path /no/such/folder does not exist"),
    ("--tokenizer-path /usr", "/usr holds no tokenizer"),
    ("--log-level loud", "one of debug, info, warning, error, critical"),
    ("--led-aliases nowhere", "--led-aliases nowhere is no file and no shipped grid"),
    ("--model-path https://huggingface.co/Qwen/Qwen3-0.6B", "OWNER/NAME"),
    ("--tokenizer-path file:///x", "--tokenizer-path file:///x is an address"),
]


@pytest.mark.parametrize(("flags", "sentence"), FLAGS, ids=[flags for flags, _ in FLAGS])
def test_flags(refused, flags: str, sentence: str) -> None:  # type: ignore[no-untyped-def]
    assert sentence in refused(*flags.split())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("led-depth: abc", "--led-depth must be a whole number, got 'abc'"),
        ("led-depth: [4]", "is a list"),
        ("enable-samplers: [led, dola]", "enable-samplers: led,dola"),
        ("led-dept: 4", None),  # an abbreviation, as on the command line
        ("led-detph: 4", "did you mean --led-depth?"),
        ("led_depth: [4]", "did you mean --led-depth?"),
        ("LED-depth: 4", "did you mean --led-depth?"),
        ("model-path: [./nowhere]", "is a list"),
        ("tokenizer-path:\n- a", "is a list"),
        ("sampler: 3", "--sampler '3'"),
        ("port: 0", "1..65535"),
        ("model-path: ./nowhere", "./nowhere does not exist"),
        ("- port", "`flag: value` lines"),
        ("port: [", "is not YAML (line 2"),
        ("a: 'b", "is not YAML"),
    ],
)
def test_config_files(  # type: ignore[no-untyped-def]
    refused, tmp_path: Path, text: str, sentence: str | None
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text + "\n")
    for argv in (["--config", str(file)], [f"--config={file}"]):
        if sentence is None:
            assert read(normalised(argv)).led_depth == "4"
        else:
            assert sentence in refused(*argv, port="port" not in text)


def test_config_files_that_cannot_be_read(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = tmp_path / "server.txt"
    text.write_text("port: 1\n")
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00")
    for name, sentence in [
        (tmp_path / "none.yaml", "does not exist"),
        (text, ".yaml or .yml"),
        (folder, "cannot be read"),
        (tmp_path / "binary.yml", "is not YAML"),
    ]:
        assert sentence in refused("--config", str(name))
    assert "twice" in refused("--config", "a.yaml", "--config", "b.yaml")
    assert "--config needs a YAML file" in refused("--config", "--port", "1")


def test_a_flag_wins_over_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("port: 1234\nled-depth: 3\nled-think-only: false\n")
    given = read(["--led-depth", "5", "--config", str(file), "--unknown-flag", "x"])
    assert LaunchOptions.from_flags(given) == LaunchOptions(led_depth=5, led_think_only="false")
    assert given.port == "1234"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"led_depth": "abc"}, "led_depth must be a whole number"),
        ({"led_depth": 4.5}, "led_depth must be a whole number"),
        ({"led_depth": True}, "led_depth must be a whole number"),
        ({"led_depth": [4]}, "led_depth must be one value"),
        ({"enable_samplers": ["led"]}, "enable_samplers must be one value"),
        ({"depth": 4}, "unknown key depth (allowed: sampler, "),
        ([1], "must be a mapping of sampler, "),
    ],
)
def test_the_environment(  # type: ignore[no-untyped-def]
    refused, monkeypatch: pytest.MonkeyPatch, value: object, sentence: str
) -> None:
    monkeypatch.setenv("LED_SGLANG", json.dumps(value))
    line = refused()
    assert "LED_SGLANG" in line
    assert sentence in line


def test_the_environment_takes_what_json_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "LED_SGLANG", '{"led_depth": 4, "led_candidates": "8", "led_think_only": false}'
    )
    options = LaunchOptions.from_environment()
    assert (options.led_depth, options.led_candidates) == (4, 8)
    assert options.parse_think_only() is False


def test_a_port_in_use_names_its_holder(refused) -> None:  # type: ignore[no-untyped-def]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            line = refused("--host", host, "--port", str(port))
            assert f"port {port} is in use by process {os.getpid()} (" in line
            assert "--port" in line
        assert listens(os.getpid(), port)
    assert not listens(os.getpid(), port)


def test_another_process_s_listener_is_not_ours() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); "
    code += "print(s.getsockname()[1], flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        assert listens(child.pid, port)
        assert listens(os.getpid(), port)  # a child of this process
        assert not listens(os.getppid(), free_port())
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        assert not listens(other.pid, port)
        other.communicate(b"\n")
    finally:
        child.communicate("\n")


def test_refusals_and_help_import_neither_torch_nor_sglang() -> None:
    code = (
        "import sys; from led_sglang.cli import main\n"
        "for argv in sys.argv[1:]:\n"
        "    try: main(argv.split())\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'sglang', 'transformers', 'numba', 'triton'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    commands = ["--help", "serve --help", "doctor --help", "serve --led-depth abc"]
    commands += ["serve --port 70000", "serve ./none", f"serve {bundled_model()} --led-depth 99"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", code, *commands], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Seconds of a processor, all of them together: a refusal is to be there within three.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 3
    for flag in ("--sampler", "--led-depth", "--dola-layers", "--log-level", "--help-sglang"):
        assert flag in done.stdout


def test_no_flag_of_sglang_is_taken_for_one_of_ours() -> None:
    from sglang.srt.server_args import ServerArgs

    sglangs = argparse.ArgumentParser()
    ServerArgs.add_cli_args(sglangs)
    flags = [flag for action in sglangs._actions for flag in action.option_strings]
    assert len(flags) > 400
    own = {flag_of(option.name) for option in fields(LaunchOptions)}
    for flag in {flag for flag in flags if flag.startswith("--")} - own:
        with suppress(LaunchRefused):  # of one that is read here, and lacks its value
            read([flag])
        given = "warning" if flag == "--log-level" else "x"
        if flag not in ("--config", "--help"):
            read([f"{flag}={given}"])


def test_defaults_are_sglangs_own() -> None:
    import msgspec
    from sglang.srt.server_args import ServerArgs

    defaults = {field.name: field.default for field in msgspec.structs.fields(ServerArgs)}
    assert (defaults["host"], defaults["port"]) == (DEFAULT_HOST, DEFAULT_PORT)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address("127.0.0.1", 1), "http://127.0.0.1:1"),
        (Address("0.0.0.0", 1), "http://127.0.0.1:1"),
        (Address("", 1), "http://127.0.0.1:1"),
        (Address("::", 1), "http://[::1]:1"),
        (Address("::1", 1, tls=True), "https://[::1]:1"),
        (Address("my.host", 1), "http://my.host:1"),
    ],
)
def test_the_url_of_an_address(address: Address, url: str) -> None:
    assert address.url == url


def info_of(**more: object) -> dict[str, object]:
    led = {"settings": {"sampler": "dola"}, "kernels": "torch: no CUDA device"}
    return {"model_path": "/my models/a 'b'", "internal_states": [{"led": led}], **more}


def pasted(command: str) -> list[str]:
    """The words that a shell hands to curl; the key is in the environment."""
    show = command.replace("curl", "printf '%s\\0'", 1)
    environment = {"OPENAI_API_KEY": "se cret", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", show], capture_output=True, env=environment, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_the_ready_block_names_what_serves() -> None:
    block = ready_block(Address("h", 1), info_of(served_model_name="mine"), "?", True, seconds=3.2)
    assert "ready after 3 s" in block
    assert "model    mine" in block
    assert "sampler  dola by default" in block
    assert "kernels  torch: no CUDA device" in block
    assert "model    /my models/a 'b'\n" in ready_block(Address("h", 1), info_of(), "?", True, 1)
    assert "key " not in block


QUESTION = 'What\'s "2 + 3" in $HOME? `é`\n\\'
MESSAGES = {"messages": [{"role": "user", "content": QUESTION}]}


@pytest.mark.parametrize("key", [None, "se cret", "$(whoami)'\""])
@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8"),
        ("0.0.0.0", False, "http://127.0.0.1:8"),
        ("::", False, "http://[::1]:8"),
        ("::1", True, "https://[::1]:8"),
        ("h", True, "https://h:8"),
    ],
)
@pytest.mark.parametrize(
    ("chats", "info", "path", "content"),
    [
        (True, info_of(served_model_name="mine:4b"), "/v1/chat/completions", MESSAGES),
        (False, info_of(), "/v1/completions", {"prompt": QUESTION}),
        (False, info_of(skip_tokenizer_init=True), "/generate", {"input_ids": [1, 2, 3]}),
    ],
)
def test_the_request_to_try_works_when_pasted(
    key: str | None,
    host: str,
    tls: bool,
    url: str,
    chats: bool,
    info: dict[str, object],
    path: str,
    content: dict[str, object],
) -> None:
    block = ready_block(Address(host, 8, tls, key), info, QUESTION, chats, seconds=1)
    head, _, command = block.partition("Try it:\n")
    assert "\n" not in command
    assert f"  url      {url} (OpenAI's API: {url}/v1)" in head
    expected = ["--insecure"] * tls + [url + path, "-H", "content-type: application/json"]
    if key:
        assert key not in block
        assert "  key      asked for; the request below takes it from OPENAI_API_KEY" in head
        expected += ["-H", "authorization: Bearer se cret"]
    *words, flag, body = pasted(command)
    assert [*words, flag] == [*expected, "-d"]
    assert content.items() <= json.loads(body).items()
