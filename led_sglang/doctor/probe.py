"""`led-sglang doctor --url`: is the server at an address ready, and does it decode with LED?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from led_sglang.common.answers import Answerer
from led_sglang.common.client import ServerClient
from led_sglang.methods.registry import sampler_names

# Any ids do: LED explores at every token, whatever the prompt says.
_PROMPT = (1, 2, 3)
_TOKENS = 4
# A prompt that is cached, or a batch of another shape, rounds otherwise, which may turn a near tie.
_TRIES = 4
_LED = {"gate": "always", "think_only": False}


@dataclass(frozen=True)
class Expectations:
    """What the server has to be, beside able to decode with LED; None: anything.

    Attributes:
        kernels: what computes LED's steps: `triton`, `cpu`, or `torch`.
        sampler: of requests that name none.
        graphs: whether decode steps are replayed as graphs.
    """

    kernels: str | None = None
    sampler: str | None = None
    graphs: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: in a few words.
        found: what it is.
        wrong: a sentence with cause and way out; None where all is well.
    """

    what: str
    found: str
    wrong: str | None = None


def examine_server(url: str, timeout_s: float, expected: Expectations) -> int:
    """Print what is found of a server.

    Args:
        url: base URL of the server.
        timeout_s: seconds to wait for one answer.

    Returns:
        The number of things that are not as they should be.

    Raises:
        ServerError: nobody answers, or no SGLang server.
    """
    client = ServerClient(url, timeout_s)
    findings = examine(client, expected)
    for finding in findings:
        state = "ok  " if finding.wrong is None else "FAIL"
        print(f"{state} {finding.what:<8} {finding.found}")
        if finding.wrong is not None:
            print(f"     {finding.wrong}")
    return sum(finding.wrong is not None for finding in findings)


def examine(client: ServerClient, expected: Expectations) -> list[Finding]:
    """All that is looked at; nothing is asked of a server that has no LED.

    Raises:
        ServerError: see `examine_server`.
    """
    info = client.server_info()
    states = [state for state in info.get("internal_states") or [] if isinstance(state, dict)]
    parts: list[Any] = [state.get("led") for state in states]
    server = f"SGLang {info.get('version')}, {info.get('served_model_name')}"
    if not parts or not all(parts):
        return [
            Finding("server", server),
            Finding(
                "led",
                "not there",
                f"the server at {client.base_url} decodes without LED: start it with `led-sglang "
                "serve`",
            ),
        ]
    settings = parts[0]["settings"]
    role = info.get("disaggregation_mode") or "null"
    return [
        Finding("server", server),
        *(_kernels(part["kernels"], expected.kernels) for part in _each(parts, "kernels")),
        _graphs(states, expected.graphs),
        _sampler(settings, expected.sampler),
        *(_answers(client, settings) if role == "null" else [_half_of_a_pair(role)]),
    ]


def _each(parts: list[Any], key: str) -> list[Any]:
    """The parts that say something else than those before them: replicas need not be alike."""
    return list({str(part[key]): part for part in parts}.values())


def _kernels(kernels: str, wanted: str | None) -> Finding:
    name, _, reason = kernels.partition(": ")
    wrong = None
    if wanted is not None and name != wanted:
        why = f" ({reason})" if reason else ""
        wrong = f"LED's steps run in {name} and not in {wanted}, which was expected{why}"
    elif wanted is None and name == "torch":
        wrong = (
            f"LED's steps fell back to plain torch ({reason or 'as it was asked for'}): correct, "
            "and slower; --kernels torch accepts it"
        )
    return Finding("kernels", kernels, wrong)


def _graphs(states: list[dict[str, Any]], wanted: bool) -> Finding:
    sizes = min((state.get("decode_cuda_graph_bs") or [] for state in states), key=len)
    shown = f"decode batches of {sizes[0]} to {sizes[-1]}" if sizes else "none"
    wrong = None
    if wanted and not sizes:
        wrong = (
            "decode steps are not replayed as graphs: start on a GPU, and without "
            "--disable-cuda-graph"
        )
    return Finding("graphs", shown, wrong)


def _sampler(settings: Mapping[str, Any], wanted: str | None) -> Finding:
    found = settings["sampler"]
    wrong = None
    if wanted is not None and found != wanted:
        wrong = (
            f"requests that name no sampler get {found} and not {wanted}: start the server with "
            f"--sampler {wanted}"
        )
    enabled = ", ".join(settings["enabled"])
    return Finding("sampler", f"{found} by default, of {enabled}", wrong)


def _half_of_a_pair(role: str) -> Finding:
    found = f"not asked: the {role} server of a pair answers through a gateway alone"
    return Finding("probe", found)


def _answers(client: ServerClient, settings: Mapping[str, Any]) -> list[Finding]:
    """A seeded request explores at every token, and two in a row get the same tokens."""
    wrong: str | None = None
    if "led" not in settings["enabled"]:
        way_out = "requests cannot choose led: start the server with --enable-samplers led"
        return [Finding("probe", "not asked", way_out)]
    sampling = {
        "max_new_tokens": _TOKENS,
        "temperature": 1.0,
        "ignore_eos": True,
        "sampling_seed": 1,
        "custom_params": {"sampler": "led", "led": _LED},
    }
    answer, repeats = client.generate(_PROMPT, sampling), False
    for _ in range(_TRIES - 1):
        before, answer = answer, client.generate(_PROMPT, sampling)
        repeats = answer.get("output_ids") == before.get("output_ids")
        if repeats:
            break
    meta_info = answer.get("meta_info") or {}
    explored = (meta_info.get("led") or {}).get("explored_tokens", 0)
    made = Answerer(meta_info).complaint("led", _LED, sampler_names())
    if made is not None:
        wrong = f"{client.base_url} {made}"
    elif explored != _TOKENS:
        wrong = f"a request that explores at each of {_TOKENS} tokens explored at {explored}"
    elif not repeats:
        wrong = f"the same seeded request gave other tokens each of {_TRIES} times"
    return [Finding("probe", f"{explored} of {_TOKENS} tokens explored, with a seed", wrong)]
