"""What LED costs on a server: the bundled model and shapes of real models with random weights.

    python -m benchmarks.server --list                what there is, and the commands
    python -m benchmarks.server bundled               one of them
    python -m benchmarks.server plain                 LED's server, `regular` alone, against a plain

A benchmark is `led-sglang bench` with the settings below; flags given here follow them and win.
`plain` needs two servers, which are measured alternately.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from benchmarks.server.against_plain import against_plain
from benchmarks.server.prompts import write_prompts
from benchmarks.server.shapes import SHAPES, write_shape
from led_sglang.bench.command import bench
from led_sglang.common.flags import split_flags
from led_sglang.models.bundled import bundled_model

_BATCHES = "1,8,16,32,64,128,256"
_GPU = (
    f"--load-format dummy --batch-sizes {_BATCHES} --context 2048 --output-len 256 "
    "--explore-rate 0.05,0.1,0.2 --profile"
)
_BUNDLED = "--device cpu --batch-sizes 16 --context 64 --output-len 192 --repeats 5"
# Settings of each benchmark; those of a shape run on random weights, which are never sure.
SETTINGS = {
    "bundled": _BUNDLED,
    "bundled-random-ids": _BUNDLED,
    "0.6B": "--load-format dummy --device cpu --batch-sizes 8 --context 32 --output-len 48 "
    "--explore-rate 0.1 --repeats 5",
    "4B": _GPU,
    "8B": _GPU,
    "32B": _GPU,
    "plain": _BUNDLED,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=SETTINGS, help="which benchmark")
    parser.add_argument("--list", action="store_true", help="show all, and what they run")
    parser.add_argument("--models", type=Path, default=Path("build/shapes"), help="made if missing")
    parser.add_argument("--out", type=Path, default=Path("results/server"), help="of all")
    own, serve_flags = split_flags(sys.argv[1:])
    arguments, more = parser.parse_known_args(own)
    more += ["--", *serve_flags]
    if arguments.list or arguments.name is None:
        for name in SETTINGS:
            print(f"{name}: {shlex.join(_flags(name, arguments.models, arguments.out))}")
        return 0
    flags = _flags(arguments.name, arguments.models, arguments.out)
    if arguments.name in SHAPES:
        write_shape(arguments.name, arguments.models / arguments.name)
    if "--prompts" in flags:
        write_prompts(Path(flags[flags.index("--prompts") + 1]))
    return (against_plain if arguments.name == "plain" else bench)([*flags, *more])


def _flags(name: str, models: Path, out: Path) -> list[str]:
    model = models / name if name in SHAPES else bundled_model()
    flags = ["--model-path", str(model), "--out", str(out / name), *shlex.split(SETTINGS[name])]
    if name == "bundled":
        flags += ["--prompts", str(models / "puzzles.jsonl")]
    return flags


if __name__ == "__main__":
    sys.exit(main())
