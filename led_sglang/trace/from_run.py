"""A recorded sample of `led-sglang eval`, asked for again with its trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from led_sglang.common.client import ServerClient
from led_sglang.evaluation.grading.thinking import Delimiters, split_thinking
from led_sglang.evaluation.server import described, fingerprint
from led_sglang.evaluation.store import Key, RunStore, differences, sample_path
from led_sglang.trace.ask import check_answerer, served_settings, trace_of
from led_sglang.trace.records import Trace, TraceError, trace_entries


@dataclass(frozen=True)
class Recorded:
    """A finished sample of a run.

    Attributes:
        record: its line.
        settings: of the run.
    """

    key: Key
    record: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def sampler(self) -> str:
        """The method that its request named."""
        custom: Mapping[str, Any] = self.record["request"].get("custom_params") or {}
        return str(custom.get("sampler", "regular"))


def find_sample(
    folder: Path, name: str, sampler: str | None = None, temperature: float | None = None
) -> Recorded:
    """The sample of a run that a user names.

    Args:
        name: TASK/ID/SAMPLE; an id may hold slashes.
        sampler: its label; `led` where the run has it, or the only one, where None.
        temperature: needed where the run has several.

    Raises:
        TraceError: there is none, or it names several; says what there is.
    """
    store = RunStore(folder)
    settings = store.settings()
    task, _, rest = name.partition("/")
    item, _, index = rest.rpartition("/")
    if not (task and item and index.isdecimal()):
        raise TraceError(f"--sample {name} is no TASK/ID/SAMPLE, such as gsm8k/17/0")
    labels = [entry["label"] for entry in settings["grid"]["samplers"]]
    if sampler is None and "led" in labels:
        sampler = "led"
    sampler = _chosen("--sampler", labels, sampler)
    temperatures = settings["grid"]["temperatures"]
    key = Key(task, sampler, _chosen("--temperature", temperatures, temperature), item, int(index))
    for line in store.journal("samples" / sample_path(key)).lines():
        if line.record.get("id") == item:
            if "request" not in line.record:
                raise TraceError(
                    f"{folder} was made by an earlier version, which did not keep its requests: "
                    "make the run anew"
                )
            return Recorded(key, line.record, settings)
    raise TraceError(
        f"{folder} has no finished sample {name} of {sampler} at T = {key.temperature:g}: "
        f"its tasks are {', '.join(settings['tasks'])}, its samples of a problem 0 to "
        f"{settings['grid']['n'] - 1}, and report.html lists its problems"
    )


def _chosen(flag: str, there: Sequence[Any], given: Any) -> Any:
    """One of what a run has: the given one, or the only one."""
    if given in there:
        return given
    if given is None and len(there) == 1:
        return there[0]
    what = f"{flag} {given} is not in the run" if given is not None else f"{flag} is missing"
    raise TraceError(f"{what}: choose one of {', '.join(map(str, there))}")


def check_server(sample: Recorded, client: ServerClient) -> None:
    """Refuse, by a TraceError, a server whose settings could not give the same tokens."""
    then = sample.settings["server"]
    now = fingerprint(described(client.server_info()))
    # A later version may know more than the run's did.
    shared = {key: now[key] for key in then if key in now}
    if then.get("led") and now.get("led"):
        shared["led"] = {key: now["led"].get(key) for key in then["led"]}
    changed = differences({key: then[key] for key in shared}, shared)
    if changed:
        raise TraceError(
            f"the server at {client.base_url} has other settings than the one that made the "
            f"sample ({'; '.join(changed)}): start it as it was"
        )


def ask_again(sample: Recorded, client: ServerClient) -> tuple[Trace, int | None]:
    """Repeat the sample's request with the trace on.

    Returns:
        The trace, and the character from which the answer differs from the recorded one, None
        where it is the same.
    """
    request = dict(sample.record["request"])
    led: dict[str, Any] = {}
    if sample.sampler == "led":
        led = dict(request["custom_params"].get("led") or {})
        request["custom_params"] = {"sampler": "led", "led": {**led, "trace": True}}
    else:
        request["return_token_ids"] = True
    response = client.chat({**request, "return_meta_info": True})
    choice = response["choices"][0]
    if "custom_params" in request:
        check_answerer(client, request["custom_params"], choice)
    if sample.sampler == "led":
        ids = [entry["token_id"] for entry in trace_entries(response)]
    else:
        ids = list(choice.get("response_token_ids") or [])
    key, prompt = sample.key, request["messages"][0]["content"]
    shown = {"sample": f"{key.task}/{key.item}/{key.sample}"}
    asked = ("temperature", "top_p", "top_k", "seed", "max_tokens")
    trace = trace_of(
        *(client, served_settings(client), response, ids),
        sampler=sample.sampler,
        prompt=prompt,
        led=led,
        asked={**shown, **{name: request[name] for name in asked if name in request}},
    )
    differs = _first_difference(sample, choice, len(ids))
    note = "yes" if differs is None else "no, the recorded answer is another"
    return replace(trace, request={**trace.request, "repeats": note}), differs


def _first_difference(sample: Recorded, choice: Mapping[str, Any], tokens: int) -> int | None:
    message, record = choice["message"], sample.record
    delimiters = Delimiters(**sample.settings["delimiters"])
    parts = split_thinking(
        message.get("content") or "",
        message.get("reasoning_content"),
        str(choice["finish_reason"]),
        delimiters,
    )
    now = parts.reasoning + parts.answer
    then = (record["reasoning_content"] or "") + record["generation"]
    for place, (new, old) in enumerate(zip_longest(now, then)):
        if new != old:
            return place
    return None if tokens == record["num_generated_tokens"] else len(now)
