"""The ways in which a trainer replaces the weights of a running server; each returns its answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Server, free_port
from safetensors.torch import load_file


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(model / "model.safetensors")
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def from_disk(server: Server, model: Path, flush_cache: bool = True) -> dict[str, Any]:
    body = {"model_path": str(model), "flush_cache": flush_cache}
    answer: dict[str, Any] = server.post("/update_weights_from_disk", body).json()
    return answer


def in_session(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One update, between the calls that SGLang wants around it."""
    assert server.post("/begin_weight_update", {}).json()["success"]
    try:
        answer: dict[str, Any] = server.post(path, body).json()
    finally:
        assert server.post("/end_weight_update", {}).json()["success"]
    return answer


def serialized(tensors: list[tuple[str, torch.Tensor]]) -> dict[str, Any]:
    """As a trainer on the same machine hands them over."""
    from sglang.srt.utils import MultiprocessingSerializer

    # Processes that are not related share memory by name.
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        text = MultiprocessingSerializer.serialize(tensors, output_str=True)
    finally:
        torch.multiprocessing.set_sharing_strategy(before)
    return {"serialized_named_tensors": [text]}


def from_tensors(server: Server, model: Path) -> dict[str, Any]:
    tensors = list(weights_of(model).items())
    return in_session(server, "/update_weights_from_tensor", serialized(tensors))


def from_distributed(server: Server, model: Path) -> dict[str, Any]:
    """Broadcast by a trainer that is rank 0 of a gloo group."""
    trainer = Path(__file__).with_name("broadcasting_trainer.py")
    port, tensors = free_port(), weights_of(model)
    group = {"group_name": "rollouts", "backend": "gloo"}
    process = subprocess.Popen([sys.executable, trainer, str(port), str(model)])
    try:
        joined = group | {"master_address": "127.0.0.1", "master_port": port}
        joined |= {"rank_offset": 1, "world_size": 2}
        assert server.post("/init_weights_update_group", joined).json()["success"]
        body = {
            "group_name": "rollouts",
            "names": list(tensors),
            "dtypes": [str(t.dtype).removeprefix("torch.") for t in tensors.values()],
            "shapes": [list(t.shape) for t in tensors.values()],
        }
        answer = in_session(server, "/update_weights_from_distributed", body)
        assert process.wait(timeout=60) == 0
        server.post("/destroy_weights_update_group", {"group_name": "rollouts"})
        return answer
    finally:
        process.kill()


WAYS = {"disk": from_disk, "tensors": from_tensors, "distributed": from_distributed}


def released(server: Server, update: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """An update as trainers on the same GPUs make it: in the memory that the server gave away."""

    def call(action: str, *tags: str) -> None:
        body = {"tags": list(tags)}
        assert server.post(f"/{action}_memory_occupation", body).status_code == 200

    before = server.log.read_text().count(" tensors\n")
    call("release", "kv_cache", "weights", "cuda_graph")
    assert server.log.read_text().count(" tensors\n") == before + 1, "nothing was lost"
    call("resume", "weights", "cuda_graph")
    answer = update()
    call("resume", "kv_cache")
    return answer
