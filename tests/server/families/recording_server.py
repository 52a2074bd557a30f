"""`led-sglang serve` for tests, without HTTP: a launch as always, then SGLang's scheduler alone.

A test writes what it asks to a folder, which LED_TEST_RECORD names (`ask`). The ranks of the
launched server answer it once for each mode (graphs/control.py), eagerly and from graphs, and end.
The first one leaves a file for each mode (`read`): the answers, and what every forward captured.
So a family costs no tokenizer, no detokenizer and no requests over HTTP.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from graphs import control
from harness import Body

from families import launch_checks

FOLDER = "LED_TEST_RECORD"
_ASKED, _FLUSH_S = "asked.json", 30.0


def ask(folder: Path, modes: Sequence[str], bodies: Sequence[Body]) -> None:
    """Write what a server is to answer: these requests in one batch, in each of these modes."""
    (folder / _ASKED).write_text(json.dumps({"modes": modes, "bodies": bodies}))


def read(folder: Path, mode: str) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """The tokens of each request, and the forwards that captured anything.

    Returns:
        The answers, and of each forward `hidden` [rows, C*H], the slots and lengths of its rows,
        and whether it was a `decode` step.
    """
    outputs, forwards = torch.load(folder / f"{mode}.pt")
    return outputs, forwards


class _Recorder:
    """What the first rank is asked, answers and captures, in place of SGLang's sockets."""

    def __init__(self, folder: Path) -> None:
        asked = json.loads((folder / _ASKED).read_text())
        self._folder, self._modes, self._bodies = folder, asked["modes"], asked["bodies"]
        self._outputs: dict[str, list[int]] = {}
        self._forwards: list[dict[str, Any]] = []
        self._flushed = False
        self._incoming = self._ask_everything()

    def pull(self, original: Any, receiver: Any) -> list[Any] | None:
        """What the scheduler finds in its socket."""
        from sglang.srt.runtime_context import get_parallel

        return next(self._incoming, []) if get_parallel().tp_rank == 0 else None

    def _ask_everything(self) -> Iterator[list[Any]]:
        from sglang.srt.managers.io_struct import (
            BatchTokenizedGenerateReqInput,
            FlushCacheReqInput,
            ShutdownReq,
        )

        for mode in self._modes:
            control.set_mode(Path(os.environ[control.FOLDER]), mode)
            self._outputs, self._forwards = {}, []
            requests = [_tokenized(str(i), *body) for i, body in enumerate(self._bodies)]
            yield [BatchTokenizedGenerateReqInput(batch=requests)]
            while len(self._outputs) < len(requests):
                yield []
            self._flushed = False
            yield [FlushCacheReqInput(timeout_s=_FLUSH_S)]
            while not self._flushed:
                yield []
            outputs = [self._outputs[request.rid] for request in requests]
            torch.save((outputs, self._forwards), self._folder / f"{mode}.pt")
        yield [ShutdownReq()]

    def send(self, original: Any, sender: Any, output: Any, *rest: Any) -> None:
        """What the scheduler sends anyone."""
        from sglang.srt.managers.io_struct import FlushCacheReqOutput

        if isinstance(output, FlushCacheReqOutput):
            assert output.success, output.message
            self._flushed = True

    def go_on(self, original: Any, sleeper: Any) -> None:
        """In place of a second's sleep until a socket has something."""

    def keep_outputs(self, result: Any, streamer: Any, reqs: Sequence[Any], *_: Any) -> None:
        for req in reqs:
            if req.finished():
                self._outputs[req.rid] = list(req.output_ids)

    def keep_streams(
        self, result: Any, runner: Any, forward_batch: Any, *_: Any, **__: Any
    ) -> None:
        hidden = result.logits_output.hidden_states
        if hidden is not None:
            step = {
                "hidden": hidden.detach().float().clone(),
                "lengths": forward_batch.seq_lens.tolist(),
                "slots": forward_batch.req_pool_indices.tolist(),
                "decode": forward_batch.forward_mode.is_decode(),
            }
            self._forwards.append(step)


def _tokenized(rid: str, ids: Sequence[int], custom: Any, sampling: dict[str, Any]) -> Any:
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    parameters = SamplingParams(custom_params=custom, **sampling)
    parameters.normalize(None)
    return TokenizedGenerateReqInput(
        rid=rid,
        input_text="",
        input_ids=array("q", ids),
        input_embeds=None,
        mm_inputs=None,
        token_type_ids=None,
        sampling_params=parameters,
        return_logprob=False,
        logprob_start_len=-1,
        top_logprobs_num=0,
        token_ids_logprob=None,
        stream=False,
    )


def _run_schedulers(server_args: Any) -> None:
    """In place of SGLang's `run_server`: its ranks without tokenizer, detokenizer and HTTP."""
    from sglang.srt.entrypoints.engine import Engine, _set_envs_and_config
    from sglang.srt.managers.scheduler import run_scheduler_process
    from sglang.srt.runtime_context import publish
    from sglang.srt.server_args import PortArgs

    server_args.resolve_once()
    _set_envs_and_config(server_args)
    publish(server_args, role="tokenizer")
    started, ranks = Engine._launch_scheduler_processes(
        server_args, PortArgs.init_new(server_args), run_scheduler_process
    )
    started.wait_for_ready()
    assert ranks
    for rank in ranks:
        rank.join()
    assert all(rank.exitcode == 0 for rank in ranks), [rank.exitcode for rank in ranks]


def _serve() -> int:
    import sglang.launch_server
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from led_sglang.cli import main

    recorder = _Recorder(Path(os.environ[FOLDER]))
    components = "sglang.srt.managers.scheduler_components."
    runner = "sglang.srt.model_executor.model_runner.ModelRunner"
    for target, hook, kind in (
        (f"{components}request_receiver.SchedulerRequestReceiver._pull_raw_reqs", "pull", "AROUND"),
        (f"{components}output_sender.SenderWrapper.send_output", "send", "AROUND"),
        (
            f"{components}output_streamer.SchedulerOutputStreamer.stream_output",
            "keep_outputs",
            "AFTER",
        ),
        (f"{runner}.forward", "keep_streams", "AFTER"),
        (f"{components}idle_sleeper.IdleSleeper.maybe_sleep", "go_on", "AROUND"),
    ):
        HookRegistry.register(target, getattr(recorder, hook), HookType[kind])
    launch_checks.register()
    sglang.launch_server.run_server = _run_schedulers
    return main()


if __name__ == "__main__":
    sys.exit(_serve())
