"""Soak: mixed traffic with aborts on a server whose KV pool is too small for it.

    python tests/soak --requests 5000 --concurrency 64
    python tests/soak --requests 1000 --concurrency 64 --tp 2 --soft
    python tests/soak --requests 1000 --concurrency 32 --pair

Every `regular` answer is compared with a plain server's, every seeded LED or DoLa answer with the
same server's answer to that request alone; with --tp 2 the ranks are compared token by token. With
--pair the servers are a prefill/decode pair, and a single server says what is to be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "server"))

from harness import PLAIN_COMMAND, PLAIN_ENVIRONMENT, gsm8k_problems, serve
from pair import serve_pair
from rank_log import compared, environment
from traffic import Outcome, Traffic
from watch import Memory, drained, memory_of
from workload import Job, answered_alone, build_pool

from led_sglang.methods.soft_thinking.params import SOFT_SAMPLERS
from led_sglang.models.random_qwen3 import write_random_qwen3
from led_sglang.patches.cpu.platform import thread_binding


def main(argv: list[str] | None = None) -> int:
    """Run a soak and print its table; 0 where nothing failed."""
    parser = argparse.ArgumentParser(prog="python tests/soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--abort-share", type=float, default=0.2)
    parser.add_argument("--pool", type=int, default=42, help="different requests")
    parser.add_argument("--kv-tokens", type=int, default=1536)
    parser.add_argument("--retract-every", type=int, default=20, help="steps")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument(
        "--soft", action="store_true", help="soft thinking too, and so without mixed chunks"
    )
    parser.add_argument("--pair", action="store_true", help="a prefill/decode pair")
    parser.add_argument("--max-growth", type=float, help="MiB/min of any process that still pass")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)

    # SGLang's own test switch: in a decode step with such a number a request is thrown out, memory
    # or not, unless it is the only one. Read at import, before a server of the tests is forked.
    os.environ["SGLANG_TEST_RETRACT"] = "1"
    os.environ["SGLANG_TEST_RETRACT_INTERVAL"] = str(options.retract_every)
    with tempfile.TemporaryDirectory(prefix="led-soak-") as folder:
        outcome, memory, left = soak(options, Path(folder))
    for name in sorted(outcome.counts):
        print(f"{name:28} {outcome.counts[name]}")
    print(f"{'seconds':28} {outcome.seconds:.0f}")
    for name, slope in memory.slopes().items():
        middle, end = memory.ends()[name]
        if options.max_growth is not None and slope > options.max_growth:
            outcome.fail(f"{name} grows by more than {options.max_growth:g} MiB/min")
        print(f"RSS {name:24} {middle:.0f} -> {end:.0f} MiB, {slope:+.2f} MiB/min (second half)")
    for name, value in left.items():
        print(f"left: {name:22} {value:g}")
    for failure in outcome.failures:
        print(f"FAILED {failure}")
    return 1 if outcome.counts["failures"] or any(left.values()) else 0


def soak(options: argparse.Namespace, folder: Path) -> tuple[Outcome, Memory, dict[str, float]]:
    """Prepare the expectations, send the traffic, wait until the server is empty."""
    from transformers import AutoTokenizer

    model = write_random_qwen3(folder / "model", seed=1, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = []
    for problem in gsm8k_problems():
        messages = [{"role": "user", "content": problem}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer.encode(text, add_special_tokens=False))
    jobs = build_pool(prompts, options.pool, options.soft, options.seed)

    flags = ["--dtype", "float32", "--tp", str(options.tp), "--grammar-backend", "xgrammar"]
    regular = [job for job in jobs if job.kind == "regular"]
    plain = dict(PLAIN_ENVIRONMENT)
    if options.tp > 1:  # `led-sglang serve` finds cores for its ranks by itself
        plain["SGLANG_CPU_OMP_THREADS_BIND"] = thread_binding(options.tp)
    with serve(model, *flags, command=PLAIN_COMMAND, env=plain) as server:
        expected = answered_alone(server, regular, plain=True)

    small = ["--max-total-tokens", str(options.kv_tokens), "--schedule-conservativeness", "0.1"]
    small += ["--chunked-prefill-size", "128", "--enable-metrics"]
    small += [
        "--enable-samplers",
        ",".join(["led", "dola", *(SOFT_SAMPLERS if options.soft else ())]),
    ]
    if not options.soft:
        small.append("--enable-mixed-chunk")
    log = folder / "ranks"
    log.mkdir()
    seeded = [job for job in jobs if job.kind == "seeded"]
    with ExitStack() as stack:
        serving = serve(model, *flags, *small, env=environment(log))
        if options.pair:
            with serving as single:
                expected += answered_alone(single, seeded, plain=False)
            pair_flags = [flag for flag in small if flag != "--enable-mixed-chunk"]
            pair = stack.enter_context(
                serve_pair(model, *flags, *pair_flags, "--num-reserved-decode-tokens", "8")
            )
            server, servers = pair, {"prefill": pair.prefill, "decode": pair.decode}
        else:
            server = stack.enter_context(serving)
            servers = {"": server}
            expected += answered_alone(server, seeded, plain=False)
        everything: list[Job] = expected + [job for job in jobs if job.kind == "free"]
        traffic = Traffic(server.url, everything, options.abort_share, options.seed)
        with memory_of(servers) as memory:
            outcome = asyncio.run(traffic.run(options.requests, options.concurrency))
        left = drained(servers)
        # After all that: an empty pool, and the first answers once more.
        for emptied in servers.values():
            if emptied.post("/flush_cache", {}).status_code != 200:
                outcome.fail("the cache could not be flushed: something still holds it")
        if answered_alone(server, seeded[:4], plain=False) != expected[len(regular) :][:4]:
            outcome.fail("after the soak a request got other tokens than before it")
    for wanted in ("retractions", "regular compared", "seeded compared"):
        if not outcome.counts[wanted]:
            outcome.fail(f"{wanted}: none")
    if options.abort_share > 0 and not outcome.counts["aborts in time"]:
        outcome.fail("nothing was aborted while it ran")
    if options.tp > 1:
        batches, tokens = compared(log, options.tp)
        outcome.counts["batches equal on all ranks"] = batches
        outcome.counts["tokens equal on all ranks"] = tokens
    return outcome, memory, left


if __name__ == "__main__":
    sys.exit(main())
