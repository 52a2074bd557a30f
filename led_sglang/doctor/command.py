"""`led-sglang doctor`: what is looked at, and with which flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from led_sglang.common.flags import Parser, whole_number

# As in `led_sglang.doctor.device.shape`, which imports torch.
_DTYPES = ("bfloat16", "float16", "float32")
_EXAMPLES = """
examples:
  led-sglang doctor                     the installed SGLang
  led-sglang doctor --device cuda       LED's kernels on this GPU, at Qwen3-4B's shape
  led-sglang doctor --device cuda --model-path ~/models/Qwen3-8B
"""


def doctor(argv: Sequence[str]) -> int:
    """Run the command on the arguments after `doctor`.

    Returns:
        The exit status: 0; 1 where the device computes something wrong; 2 where the installation is
        not in order.

    Raises:
        CommandError: nothing can be looked at.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.device is not None:
        return _examine_device(options)
    only_device = ("model_path", "hidden_size", "vocab_size", "dtype", "depth", "steps")
    for name in only_device:
        if getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} goes with --device")
    from led_sglang.doctor.installed import examine_installation

    return examine_installation()


def _examine_device(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from led_sglang.doctor.device import examine
    from led_sglang.doctor.device.shape import DTYPES, of_model

    device = examine.find_device(options.device)
    shape, effort = examine.default_shape(device), examine.default_effort(device)
    if options.model_path is not None:
        shape = of_model(options.model_path.expanduser(), shape)
    given = {"hidden": options.hidden_size, "vocab": options.vocab_size, "depth": options.depth}
    given["dtype"] = DTYPES.get(options.dtype)
    shape = replace(shape, **{name: value for name, value in given.items() if value is not None})
    if options.steps is not None:
        effort = replace(effort, steps=options.steps)
    print("### led-sglang doctor --device " + options.device + "\n", flush=True)
    return int(examine.failed(examine.examine_device(device, shape, effort)))


def _parser() -> Parser:
    parser = Parser(
        prog="led-sglang doctor",
        description="Without flags: list every symbol of SGLang that LED touches, and whether the "
        "installed one fits; status 2 where one does not. With --device: check LED's step on that "
        "device against float64, that it repeats to the bit, that it replays as a graph, and what "
        "it takes beside the card's roofline, as a table to paste into an issue; status 1 where a "
        "check failed.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="check LED's step on a device")
    device = parser.add_argument_group("with --device")
    device.add_argument("--model-path", type=Path, help="folder whose config.json states the shape")
    device.add_argument("--hidden-size", type=whole_number, help="H; 2560 on a GPU, 512 on a CPU")
    device.add_argument(
        "--vocab-size", type=whole_number, help="V; 151936 on a GPU, 16384 on a CPU"
    )
    device.add_argument("--dtype", choices=_DTYPES, help="of LM head and latents; bfloat16")
    device.add_argument("--depth", type=whole_number, help="layers mixed; 8")
    device.add_argument(
        "--steps", type=whole_number, help="that must repeat; 1000 on a GPU, 100 on a CPU"
    )
    return parser
