"""Ask a running server for a completion with its trace, and for the texts of its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from led_sglang.common.answers import Answerer
from led_sglang.common.client import ServerClient, ServerError
from led_sglang.common.phases import PHASE_NAMES
from led_sglang.methods.registry import sampler_names
from led_sglang.trace.records import Token, Trace, TraceSettings, trace_entries

# What a tokenizer puts where bytes do not make a character.
REPLACEMENT = "\ufffd"
# No character has more bytes, so none is spread over more tokens.
_LONGEST_CHARACTER = 4


def run_trace(
    client: ServerClient,
    prompt: str,
    *,
    sampler: str = "led",
    sampling: Mapping[str, Any] | None = None,
    led: Mapping[str, Any] | None = None,
) -> Trace:
    """Let the server complete a prompt; with sampler `led`, every token carries its trace.

    Args:
        client: of a server that runs led-sglang.
        prompt: one user turn; the server applies the model's chat template.
        sampler: `led`, or another method the server offers, which has no trace: its phases follow
            from the think delimiters.
        sampling: `sampling_params` without `custom_params`.
        led: further keys of `custom_params.led`.

    Raises:
        ServerError: no answer, a refused request, or a server without the plugin.
        TraceError: the answer holds no trace.
    """
    server = served_settings(client)
    custom: dict[str, Any] = {"sampler": sampler}
    if sampler == "led":
        custom["led"] = {**(led or {}), "trace": True}
    response = client.generate(
        client.chat_tokens(prompt), {**(sampling or {}), "custom_params": custom}
    )
    check_answerer(client, custom, response)
    if sampler == "led":
        ids = [entry["token_id"] for entry in trace_entries(response)]
    else:
        ids = list(response["output_ids"])
    return trace_of(
        *(client, server, response, ids),
        sampler=sampler,
        prompt=prompt,
        led=led or {},
        asked=sampling or {},
    )


def served_settings(client: ServerClient) -> dict[str, Any]:
    """LED's settings on the server; a ServerError where it runs without led-sglang."""
    server = client.led_settings()
    if server is None:
        raise ServerError(
            f"the server at {client.base_url} runs without led-sglang: start it with "
            "`led-sglang serve`"
        )
    return server


def trace_of(
    client: ServerClient,
    server: Mapping[str, Any],
    response: Mapping[str, Any],
    ids: Sequence[int],
    *,
    sampler: str,
    prompt: str,
    led: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> Trace:
    """An answer's trace, with the texts of its tokens.

    Args:
        server: LED's settings there.
        response: of `/generate` or `/v1/chat/completions`; with sampler `led`, its trace in it.
        ids: of the generated tokens.
        prompt: one user turn.
        led: keys of `custom_params.led`.
        asked: what else the request said, for display.
    """
    entries = trace_entries(response) if sampler == "led" else []
    candidates = {i for entry in entries for i in entry.get("candidate_ids", ())}
    texts = _token_texts(client, candidates.union(ids))
    pieces = _joined_characters(client, ids, texts)
    model = client.model_path()
    if sampler != "led":
        phases = phases_of(client, server, client.chat_tokens(prompt), ids)
        found = enumerate(zip(ids, pieces, phases, strict=True))
        tokens = tuple(Token(i, token, piece, phase, None) for i, (token, piece, phase) in found)
        return Trace(tokens, sampler, False, prompt, model, TraceSettings(), texts, dict(asked))
    settings = trace_settings(server, led)
    return Trace.from_response(
        response,
        prompt=prompt,
        model=model,
        settings=settings,
        token_texts=texts,
        texts=pieces,
        # what shapes a step is shown even where the request left it alone
        request={
            "depth": server["depth"],
            "candidates": server["candidates"],
            "layers": "release" if settings.release_layers else "paper",
            "gate": settings.gate,
            **led,
            **asked,
        },
    )


def check_answerer(
    client: ServerClient, custom_params: Mapping[str, Any], answer: Mapping[str, Any]
) -> None:
    """Check who made an answer.

    Args:
        custom_params: of the request.
        answer: of `/generate`, or a choice of a chat.

    Raises:
        ServerError: it was another sampler than the one that was asked, or had other settings.
    """
    sampler = custom_params["sampler"]
    made_by = Answerer(answer.get("meta_info"))
    wrong = made_by.complaint(sampler, custom_params.get(sampler) or {}, sampler_names())
    if wrong is not None:
        raise ServerError(f"{client.base_url} {wrong}")


def trace_settings(server: Mapping[str, Any], led: Mapping[str, Any]) -> TraceSettings:
    """What a reader needs of a request's `custom_params.led`, given the server's LED settings."""
    release = led.get("preset") == "release"
    layers = led.get("layers", "release" if release else server["layers"])
    captured = server["captured_layers"]
    return TraceSettings(
        gate=str(led.get("gate", "confidence")),
        num_layers=captured[0] + 1 if captured else None,
        release_layers=layers == "release",
    )


def phases_of(
    client: ServerClient, server: Mapping[str, Any], prompt_ids: Sequence[int], ids: Sequence[int]
) -> list[str]:
    """The phase each token was sampled in; without delimiters every token may be LED's.

    Args:
        server: LED's settings on it.
        prompt_ids, ids: of the prompt and of what was generated.
    """
    from led_sglang.phase import Phase, ThinkAutomaton  # torch: `--help` does without

    start, end, tool = (
        client.tokens(server[key]) if server[key] else []
        for key in ("think_start", "think_end", "tool_start")
    )
    if not start or not end:
        return [PHASE_NAMES[Phase.THINK]] * len(ids)
    automaton = ThinkAutomaton(start, end, server["boundary_ids"], tool)
    state, phases = automaton.scan_prompt(prompt_ids), []
    for token in ids:
        phases.append(PHASE_NAMES[automaton.phase(state)])
        state = automaton.advance(state, [token])
    return phases


def _token_texts(client: ServerClient, ids: Iterable[int]) -> dict[int, str]:
    ordered = sorted(set(ids))
    return dict(zip(ordered, client.texts([[i] for i in ordered]), strict=True))


def _joined_characters(
    client: ServerClient, ids: Sequence[int], texts: Mapping[int, str]
) -> list[str]:
    """Each token's text; a character spread over several tokens goes to the last of them whole,
    and the ones before it get the empty text."""
    pieces = [texts[i] for i in ids]
    partial = [REPLACEMENT in piece for piece in pieces]
    windows = [
        (begin, begin + size)
        for begin in range(len(ids))
        for size in range(2, _LONGEST_CHARACTER + 1)
        if begin + size <= len(ids) and all(partial[begin : begin + size])
    ]
    joined = client.texts([ids[begin:end] for begin, end in windows])
    done = 0
    for (begin, end), text in zip(windows, joined, strict=True):
        if begin >= done and REPLACEMENT not in text:
            pieces[begin:end] = [""] * (end - begin - 1) + [text]
            done = end
    return pieces
