"""A trainer that hands its weights to a server over a process group: `PORT MODEL`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from sglang.srt.utils import init_custom_process_group

if __name__ == "__main__":
    port, model = sys.argv[1:]
    group = init_custom_process_group(
        backend="gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        world_size=2,
        rank=0,
        group_name="rollouts",
    )
    for tensor in load_file(Path(model) / "model.safetensors").values():
        torch.distributed.broadcast(tensor.contiguous(), src=0, group=group)
