"""What a prefill server knows of a request's first token goes to the decode server with it.

The first token is sampled on the prefill server and every other one on the decode server, which
answers. SGLang sends the token and its log-probability in metadata buffers. One buffer more holds
the token's statistics and its entries of per-token lists: the spare places of SGLang's own buffers
would not hold a trace. It is the last one, so that those before it still lie where a server without
it looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor

from led_sglang.methods.led.params import MAX_CANDIDATES
from led_sglang.methods.registry import method_of
from led_sglang.methods.reporting import RequestNotes
from led_sglang.patches.batch_state import notes_of
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none

# Attributes this file adds to SGLang's objects.
_BUFFER_ATTRIBUTE = "led_first_tokens"  # MetadataBuffers: FirstTokens
_TO_SEND_ATTRIBUTE = "led_to_send"  # Scheduler: calls to make once statistics are counted, or None

# Bytes of a number in msgpack, and of the keys and of what else a row holds beside a trace's lists.
_NUMBER, _REST = 9, 1024
_LENGTH = 4
_ALIGNED = 64


class FirstTokens:
    """Rows of bytes, as many and in the same order as the rows of SGLang's metadata buffers.

    Args:
        rows: requests on their way at once.
        depth: the largest exploration depth of a request.
        device: of SGLang's buffers; host memory but with a few transports.

    Attributes:
        buffer: [rows, bytes] uint8.
    """

    def __init__(self, rows: int, depth: int, device: torch.device) -> None:
        # The lists of a trace: ids, final and drawn probabilities, each layer's, entropies.
        numbers = MAX_CANDIDATES * (depth + 3) + depth
        width = -(-(_REST + _NUMBER * numbers) // _ALIGNED) * _ALIGNED
        self.buffer: Tensor = torch.zeros(rows, width, dtype=torch.uint8, device=device)

    def write(self, row: int, room: int, content: Any) -> None:
        """Put a request's first token there.

        Args:
            room: names the request on both servers.
            content: of lists, dicts, numbers and strings.
        """
        packed = msgspec.msgpack.encode((room, content))
        framed = bytearray(len(packed).to_bytes(_LENGTH, "little") + packed)
        self.buffer[row, : len(framed)] = torch.frombuffer(framed, dtype=torch.uint8)

    def read(self, row: int, room: int) -> Any:
        """What was written for the request; None where the row holds another one's."""
        held = self.buffer[row].cpu().numpy().tobytes()
        length = int.from_bytes(held[:_LENGTH], "little")
        if not length:
            return None
        its_room, content = msgspec.msgpack.decode(held[_LENGTH : _LENGTH + length])
        return content if its_room == room else None


def first_token(notes: RequestNotes | None) -> dict[str, Any] | None:
    """A request's statistics and the entries of its first token; None where nothing counts it."""
    method = None if notes is None else method_of(notes.sampler)
    if notes is None or method is None or notes.statistics is None:
        return None
    return {
        "statistics": asdict(notes.statistics),
        "entries": {key: notes.info[key][0] for key in method.lists if key in notes.info},
    }


def take_over(notes: RequestNotes, token: Mapping[str, Any]) -> None:
    """Go on from another server's `first_token`; nothing is counted in this one's sums."""
    method = method_of(notes.sampler)
    assert method is not None, "it has statistics"
    notes.statistics = type(notes.statistics)(**token["statistics"])
    notes.summarise(method.summary)
    for key, entry in token["entries"].items():
        notes.append(key, entry)


@hook("disaggregation.utils.MetadataBuffers.__init__", "AFTER")
def _one_buffer_more(result: Any, self: Any, size: int, *_: Any, **__: Any) -> None:
    settings = settings_or_none()
    if settings is not None:
        rows = FirstTokens(size, settings.depth, self.output_ids.device)
        setattr(self, _BUFFER_ATTRIBUTE, rows)


@hook("disaggregation.utils.MetadataBuffers.get_buf_infos", "AFTER")
def _where_it_is(result: Any, self: Any) -> Any:
    rows: FirstTokens | None = getattr(self, _BUFFER_ATTRIBUTE, None)
    if rows is None:
        return result
    pointers, lengths, row_lengths = result
    buffer = rows.buffer
    return (
        [*pointers, buffer.data_ptr()],
        [*lengths, buffer.nbytes],
        [*row_lengths, buffer[0].nbytes],
    )


@hook("disaggregation.utils.MetadataBuffers.set_buf", "AFTER")
def _write(result: Any, self: Any, req: Any) -> None:
    rows: FirstTokens | None = getattr(self, _BUFFER_ATTRIBUTE, None)
    token = first_token(notes_of(req))
    if rows is not None and token is not None:
        rows.write(req.metadata_buffer_index, req.bootstrap_room or 0, token)


@hook(
    "disaggregation.prefill.SchedulerDisaggregationPrefillMixin."
    "process_batch_result_disagg_prefill",
    "AROUND",
)
def _count_before_sending(original: Any, self: Any, batch: Any, result: Any) -> None:
    """SGLang sends the metadata of a batch's requests in here before it hands out what their tokens
    left behind; what is sent last waits until the end where there is such a thing."""
    if result.auxiliary_host_output is None:
        original(self, batch, result)
        return
    to_send: list[Any] = []
    setattr(self, _TO_SEND_ATTRIBUTE, to_send)
    try:
        original(self, batch, result)
    finally:
        setattr(self, _TO_SEND_ATTRIBUTE, None)
    for send in to_send:
        send()


@hook("disaggregation.prefill.SchedulerDisaggregationPrefillMixin.send_kv_chunk", "AROUND")
def _wait_to_send(
    original: Any, self: Any, req: Any, last_chunk: bool = False, end_idx: int | None = None
) -> None:
    to_send = getattr(self, _TO_SEND_ATTRIBUTE, None)
    send = partial(original, self, req, last_chunk, end_idx)
    if last_chunk and to_send is not None:
        to_send.append(send)
    else:
        send()


@hook(
    "disaggregation.prefill.SchedulerDisaggregationPrefillMixin.optimistic_release_and_requeue",
    "AFTER",
)
def _forget(result: Any, self: Any, req: Any) -> None:
    """The first token is thrown away and will be sampled again."""
    notes = notes_of(req)
    if notes is not None and notes.statistics is not None:
        notes.statistics = type(notes.statistics)()
        notes.info.clear()


@hook("disaggregation.decode.DecodeTransferQueue._commit_transfer_to_req", "AROUND")
def _take_over(original: Any, self: Any, decode_req: Any) -> None:
    req, row = decode_req.req, decode_req.metadata_buffer_index
    tokens = len(req.output_ids)
    # After a retraction the last token comes once more, which has been counted.
    repeats = decode_req.is_rebootstrap and req.pd_rebootstrap_forced_output_id is not None
    original(self, decode_req)
    rows: FirstTokens | None = getattr(self.metadata_buffers, _BUFFER_ATTRIBUTE, None)
    notes = notes_of(req)
    if rows is None or notes is None or repeats or len(req.output_ids) == tokens:
        return
    token = rows.read(row, req.bootstrap_room or 0)
    if token is not None:
        take_over(notes, token)


@hook("managers.schedule_batch.Req.build_rebootstrap_payload", "AFTER")
def _ask_for_the_cache_alone(result: Any, self: Any) -> None:
    """A decode server whose requests were retracted asks for a prompt's cache again. It throws the
    token away that comes with it, if it has the request's last one: nobody need explore for it."""
    sampling = result["sampling_params"]
    if self.pd_rebootstrap_forced_output_id is not None:
        sampling["custom_params"] = {"sampler": "regular"}
    else:
        sampling["custom_params"] = self.sampling_params.custom_params
        sampling["sampling_seed"] = self.sampling_params.sampling_seed
