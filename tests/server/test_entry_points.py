"""Every way to start a server: SGLang's own command, its engine, a config file, no model at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness import Server, serve

SGLANG = str(Path(sys.executable).with_name("sglang"))
SAMPLING = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}


def led_answer(server: Server, prompt: Sequence[int]) -> list[int]:
    answer = server.generate(prompt, {"led": {"gate": "always"}}, **SAMPLING)
    assert answer["meta_info"]["led"]["explored_tokens"] > 0
    tokens: list[int] = answer["output_ids"]
    return tokens


def settings(server: Server) -> dict[str, object]:
    led = server.get("/server_info").json()["internal_states"][0]["led"]
    result: dict[str, object] = led["settings"]
    return result


@pytest.fixture(scope="module")
def expected(model_path: Path, prompts: list[Sequence[int]]) -> list[int]:
    with serve(model_path, "--led-depth", "5") as server:
        assert settings(server)["depth"] == 5
        return led_answer(server, prompts[0])


def test_sglang_serve(model_path: Path, prompts: list[Sequence[int]], expected: list[int]) -> None:
    flags = ("--sampling-backend", "led", "--led-depth", "5")
    with serve(model_path, *flags, command=(SGLANG, "serve"), device=None) as server:
        assert led_answer(server, prompts[0]) == expected


def test_config_file(
    model_path: Path, prompts: list[Sequence[int]], expected: list[int], tmp_path: Path
) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("sampler: regular\nenable-samplers: led\nled-depth: 5\n")
    with serve(model_path, "--config", str(config)) as server:
        assert settings(server)["sampler"] == "regular"
        answer = server.generate(
            prompts[0], {"sampler": "led", "led": {"gate": "always"}}, **SAMPLING
        )
        assert answer["output_ids"] == expected


ENGINE = """
import json, sys
import sglang

if __name__ == "__main__":
    engine = sglang.Engine(model_path=sys.argv[1], sampling_backend="led")
    params = json.loads(sys.argv[3]) | {"custom_params": {"led": {"gate": "always"}}}
    answer = engine.generate(input_ids=json.loads(sys.argv[2]), sampling_params=params)
    print("ANSWER", json.dumps([answer["output_ids"], answer["meta_info"]["led"]]))
    params |= {"temperature": 0.8, "custom_params": {"led": {"behaviour_logprobs": True}}}
    rollout = engine.generate(
        input_ids=json.loads(sys.argv[2]), sampling_params=params, return_logprob=True
    )
    print("ROLLOUT", json.dumps(rollout["meta_info"]))
    engine.shutdown()
"""


def test_engine(
    model_path: Path, prompts: list[Sequence[int]], expected: list[int], tmp_path: Path
) -> None:
    """Its settings come by `LED_SGLANG`, log q in the field that trainers read among them."""
    script = tmp_path / "engine.py"
    script.write_text(ENGINE)
    arguments = [str(model_path), json.dumps(list(prompts[0])), json.dumps(SAMPLING)]
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=os.environ
        | {"SGLANG_PLATFORM": "led_cpu", "OMP_NUM_THREADS": "1"}
        | {"LED_SGLANG": '{"led_depth": 5, "led_logprobs": "behaviour"}'},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    words = [line.split(" ", 1) for line in done.stdout.splitlines()]
    said = {first: rest[0] for first, *rest in words if first in ("ANSWER", "ROLLOUT")}
    assert len(said) == 2, done.stdout[-2000:] + done.stderr[-4000:]
    tokens, led = json.loads(said["ANSWER"])
    assert tokens == expected
    assert led["explored_tokens"] > 0
    meta = json.loads(said["ROLLOUT"])
    assert meta["sampler"]["settings"]["logprobs"] == "behaviour"
    assert meta["led"]["think_tokens"] == 16
    stated = [logprob for logprob, *_ in meta["output_token_logprobs"]]
    assert stated == pytest.approx(meta["led_behaviour_logprobs"], abs=1e-6)
    assert min(stated) < -0.1
