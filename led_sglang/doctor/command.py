"""`led-sglang doctor`: what is looked at, and with which flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from led_sglang.common.address import server_url
from led_sglang.common.flags import Parser, above_zero, whole_number

# As in `led_sglang.doctor.device.shape`, which imports torch.
_DTYPES = ("bfloat16", "float16", "float32")
_ONLY_DEVICE = ("model_path", "hidden_size", "vocab_size", "dtype", "depth", "steps")
_ONLY_URL = ("kernels", "sampler", "graphs", "timeout")
_TIMEOUT_S = 60.0
_EXAMPLES = """
examples:
  led-sglang doctor                     the installed SGLang
  led-sglang doctor --device cuda       LED's kernels on this GPU, at Qwen3-4B's shape
  led-sglang doctor --device cuda --model-path ~/models/Qwen3-8B
  led-sglang doctor --url http://localhost:30000 --kernels triton --graphs
                                        a running server, as a readiness probe
"""


def doctor(argv: Sequence[str]) -> int:
    """Run the command on the arguments after `doctor`.

    Returns:
        The exit status: 0; 1 where the device computes something wrong, or the server is not as it
        should be; 2 where the installation is not in order.

    Raises:
        CommandError: nothing can be looked at.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    for flag, given, names in (
        ("--device", options.device, _ONLY_DEVICE),
        ("--url", options.url, _ONLY_URL),
    ):
        for name in names:
            if given is None and getattr(options, name) is not None:
                parser.error(f"--{name.replace('_', '-')} goes with {flag}")
    if options.device is not None:
        return _examine_device(options)
    if options.url is not None:
        return _examine_server(options)
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


def _examine_server(options: argparse.Namespace) -> int:
    from led_sglang.doctor.probe import Expectations, examine_server

    expected = Expectations(options.kernels, options.sampler, bool(options.graphs))
    wrong = examine_server(server_url(options.url), options.timeout or _TIMEOUT_S, expected)
    return int(wrong > 0)


def _parser() -> Parser:
    parser = Parser(
        prog="led-sglang doctor",
        description="Without flags: list every symbol of SGLang that LED touches, and whether the "
        "installed one fits; status 2 where one does not. With --device: check LED's step on that "
        "device against float64, that it repeats to the bit, that it replays as a graph, and what "
        "it takes beside the card's roofline, as a table to paste into an issue. With --url: ask a "
        "running server whether LED is there, in kernels, and explores; status 1 where a check "
        "failed, 2 where nobody answers.",
        epilog=_EXAMPLES,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--device", choices=("cuda", "cpu"), help="check LED's step on a device")
    which.add_argument("--url", help="check a running server")
    device = parser.add_argument_group("with --device")
    device.add_argument("--model-path", type=Path, help="folder whose config.json states the shape")
    device.add_argument(
        "--hidden-size", type=whole_number, help="H (default: 2560 on a GPU, 512 on a CPU)"
    )
    device.add_argument(
        "--vocab-size", type=whole_number, help="V (default: 151936 on a GPU, 16384 on a CPU)"
    )
    device.add_argument(
        "--dtype", choices=_DTYPES, help="of LM head and latents (default: bfloat16)"
    )
    device.add_argument("--depth", type=whole_number, help="layers mixed (default: 8)")
    device.add_argument(
        "--steps", type=whole_number, help="that must repeat (default: 1000 on a GPU, 100 on a CPU)"
    )
    server = parser.add_argument_group("with --url, what it has to be")
    server.add_argument(
        "--kernels", metavar="NAME", help="triton, cpu or torch (default: any but torch)"
    )
    server.add_argument("--sampler", metavar="NAME", help="its default sampler (default: any)")
    server.add_argument(
        "--graphs", action="store_const", const=True, help="decode steps are replayed as graphs"
    )
    server.add_argument(
        "--timeout",
        type=above_zero,
        metavar="SECONDS",
        help=f"of one answer (default: {_TIMEOUT_S:g})",
    )
    return parser
