"""Hypothesis strategies for request bodies whose `custom_params` may be anything at all.

Bodies are JSON texts, not values: some of them no JSON library would write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from led_sglang.methods.led.params import GATES, LAYERS, PRESETS
from led_sglang.methods.registry import METHODS, sampler_names

ENDPOINTS = ("/generate", "/v1/completions", "/v1/chat/completions")
# The forms of the others are like one of these, or drop `custom_params` where LED carries it.
MORE_ENDPOINTS = (
    *("/v1/messages", "/v1/responses", "/api/chat", "/api/generate", "/invocations"),
    "/vertex_generate",
)

# Keys that mean something to SGLang, to LED, or to Python objects.
RESERVED = (
    "__sglang_reasoning_end_token_ids",
    "__sglang_reasoning_in_grammar",
    "__sglang_anything",
    "__req__",
    "__class__",
    "thinking_budget",
    "token_ids",
    "sampler",
    "",
    *sampler_names(),
)
# The keys of each method's group.
GROUPS = {
    name: [parameter.name for parameter in method.parameters(name)]
    for method in METHODS
    for name in method.samplers
}
METHOD_KEYS = tuple({key for keys_of_group in GROUPS.values() for key in keys_of_group})

numbers = st.one_of(
    st.integers(-3, 70),
    st.integers(),
    st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400]),
    st.floats(),
    st.sampled_from([1e308, -1e308, 5e-324, 0.1, 0.95, -0.0]),
)
text = st.one_of(st.text(max_size=12), st.sampled_from(["\x00", "é", "\ud800", "𝕜" * 9, "NaN"]))
scalars = st.one_of(st.none(), st.booleans(), numbers, text)
keys = st.one_of(st.sampled_from(RESERVED + METHOD_KEYS), text)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)

# Often valid, or wrong in one place.
led_values: dict[str, st.SearchStrategy[Any]] = {
    "depth": st.integers(0, 10),
    "candidates": st.integers(0, 66),
    "gate": st.sampled_from(GATES),
    "layers": st.sampled_from(LAYERS),
    "preset": st.sampled_from(PRESETS),
    "gate_entropy": st.floats(0, 4),
    "gate_rate": st.floats(0, 1),
    "candidate_top_p": st.floats(0, 1),
    "floor": st.floats(0, 1),
}
unlisted = st.one_of(st.booleans(), st.integers(0, 12), st.floats(0, 1), st.text(max_size=4))


def groups(method: str) -> st.SearchStrategy[Any]:
    """The object `custom_params.<method>`: mostly right, or anything."""
    optional = {key: led_values.get(key, unlisted) for key in GROUPS[method]}
    good = st.fixed_dictionaries({}, optional=optional)
    bad = st.one_of(st.just({}), st.dictionaries(keys, trees, max_size=1))
    mostly_right = st.builds(lambda right, wrong: {**right, **wrong}, good, bad)
    return st.one_of(mostly_right, mostly_right, trees)


@st.composite
def near_valid(draw: st.DrawFn) -> dict[str, Any]:
    """A method, its group, and perhaps something that does not belong there."""
    method = draw(st.sampled_from(tuple(GROUPS)))
    optional = {
        "sampler": st.one_of(st.just(method), st.sampled_from([*sampler_names(), "LED"]), scalars),
        method: groups(method),
        draw(keys): scalars,
    }
    custom: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=optional))
    return custom


custom_params = st.one_of(
    near_valid(), near_valid(), st.dictionaries(keys, trees, max_size=3), trees
)

# Keys where nothing reads them.
misplaced = st.one_of(
    st.sampled_from(["sampler", "led", "dola", "soft_thinking", "led_depth"]).flatmap(
        lambda key: st.fixed_dictionaries({key: trees})
    ),
    st.fixed_dictionaries({"extra_body": st.dictionaries(keys, trees, max_size=2)}),
    st.fixed_dictionaries({"extra_body": st.fixed_dictionaries({"custom_params": near_valid()})}),
    st.fixed_dictionaries({"options": st.fixed_dictionaries({"custom_params": trees})}),
)

# What ended SGLang's scheduler, and its like: out of the vocabulary, of float32, of a prompt.
tokens = st.sampled_from([0, 5, 260, 261, 2**31, 2**63 - 1, -1])
lists_of_tokens = st.lists(tokens, max_size=3)
sampling_risks: dict[str, st.SearchStrategy[Any]] = {
    "top_k": st.sampled_from([-1, 1, 5, 2**30, 2**31, 2**62]),
    "top_p": st.sampled_from([1e-40, 0.9, 1.0]),
    "stop_token_ids": lists_of_tokens,
    "logit_bias": st.dictionaries(
        tokens.map(str), st.sampled_from([1.0, -1e38, 1e38, 1e39, -1e300]), max_size=2
    ),
    "repetition_penalty": st.sampled_from([1.0, 2.0, 1e-3, 1e-30, 1e-38]),
    "stop_regex": st.sampled_from(["a", "(", ["b", "c**"], "(?<=a*)b", "(.*)*x", "a{9999999999}"]),
    "n": st.sampled_from([1, 2, 0, -1]),
    "min_new_tokens": st.integers(0, 4),
    "min_tokens": st.integers(0, 4),
    "regex": st.sampled_from(["a", "ab+c", "("]),
    "ebnf": st.sampled_from(["root ::= root", 'root ::= "a" root', "x"]),
    "json_schema": st.sampled_from(['{"$ref": "#"}', '{"enum": []}', '{"type": "integer"}', "x"]),
}
counts = st.sampled_from([0, 1, 5, 261, 262, 10**6])
processors = st.sampled_from(["", "x", "{}", '{"callable": "80"}'])
ids = st.lists(text, max_size=3)
endpoint_risks: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "/generate": {
        "text": st.sampled_from(["", "What", ["What", ""], ["What", "Why"], None]),
        "return_logprob": st.booleans(),
        "top_logprobs_num": counts,
        "logprob_start_len": st.integers(-5, 6),
        "token_ids_logprob": st.one_of(lists_of_tokens, st.lists(lists_of_tokens, max_size=2)),
        "rid": ids,
        "lora_path": st.lists(st.none(), max_size=2),
        "input_embeds": st.sampled_from([[], [[]], [[1.0]], [[[1.0]], []]]),
        "custom_logit_processor": processors,
        # SGLang takes the elements of a batch before anything is checked.
        "positional_embed_overrides": st.just([1, 2]),
    },
    "/v1/completions": {
        "prompt": st.one_of(st.sampled_from(["", "What", ["What", ""]]), lists_of_tokens),
        "logprobs": counts,
        "echo": st.booleans(),
        "rid": ids,
        "custom_logit_processor": processors,
    },
    "/v1/chat/completions": {
        "logprobs": st.booleans(),
        "top_logprobs": counts,
        "rid": ids,
        "response_format": st.one_of(scalars, st.just({"type": "json_object"})),
        "custom_logit_processor": processors,
    },
}


def _megabyte(unit: str, around: str) -> str:
    return around % (unit * (2**20 // len(unit)))


# JSON texts of what is too large or too deep to draw.
MONSTERS: tuple[Callable[[], str], ...] = (
    lambda: _megabyte("x", '{"led": {"gate": "%s"}}'),
    lambda: _megabyte("x", '{"%s": 1}'),
    lambda: _megabyte("x", '{"led": {"%s": 1}}'),
    lambda: _megabyte("1,", '{"led": {"depth": [%s1]}}'),
    lambda: _megabyte("é", '"%s"'),
    lambda: json.dumps({f"key{i}": i for i in range(80_000)}),
    lambda: json.dumps({"led": {f"key{i}": i for i in range(80_000)}}),
    lambda: "[" * 100_000 + "]" * 100_000,
    lambda: '{"led": ' * 900 + "1" + "}" * 900,
    lambda: '{"led": {"depth": ' + "[" * 200 + "]" * 200 + "}}",
    lambda: '{"a": ' * 200 + "1" + "}" * 200,
    lambda: '{"led": {"depth": ' + "9" * 5000 + "}}",
    lambda: '{"led": {"gate_rate": 1e999, "gate": "rate"}}',
    lambda: '{"led": {}, "led": {"depth": 0}}',
    lambda: '{"led": {"depth": 2,}}',
    lambda: '{"led": {"depth": 0x2}}',
    lambda: "",
)


def body_text(
    endpoint: str,
    custom: str,
    stream: bool,
    temperature: float,
    sampling: dict[str, Any] | None = None,
    top: dict[str, Any] | None = None,
) -> str:
    """A body of `endpoint` around the JSON text of its `custom_params`.

    Args:
        endpoint: one of the lists above.
        custom: JSON text, or none.
        stream: whether the answer is to be streamed.
        temperature: of the sampling.
        sampling: further sampling parameters.
        top: further keys at the top level.
    """
    sampling, top = sampling or {}, {"stream": stream} | (top or {})
    if endpoint in ("/generate", "/vertex_generate"):
        text = json.dumps({"max_new_tokens": 2, "temperature": temperature} | sampling)
        inside = f'"sampling_params": {text[:-1]}, "custom_params": {custom}}}'
        if endpoint == "/generate":
            return f"{json.dumps({'text': 'What'} | top)[:-1]}, {inside}}}"
        head = json.dumps({"instances": [{"text": "What"}]} | top)
        return f'{head[:-1]}, "parameters": {{{inside}}}}}'
    rest = {
        "model": "m",
        "prompt": "What",
        "input": "What",
        "messages": [{"role": "user", "content": "What"}],
        "max_tokens": 2,
        "max_output_tokens": 4,
        "temperature": temperature,
    }
    if endpoint.startswith("/api"):
        rest["options"] = {"num_predict": 2, "temperature": temperature} | sampling
    else:
        rest |= sampling
    return f'{json.dumps(rest | top)[:-1]}, "custom_params": {custom}}}'


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str]:
    """An endpoint and a body, as text; every third holds what ends a scheduler, or is misplaced."""
    endpoint = draw(st.sampled_from(ENDPOINTS + MORE_ENDPOINTS))
    custom = json.dumps(draw(custom_params), ensure_ascii=draw(st.booleans()))
    temperature = draw(st.sampled_from([0.0, 0.6, 1.0]))
    sampling: dict[str, Any] = {}
    top: dict[str, Any] = {}
    kind = draw(st.sampled_from(["custom", "custom", "custom", "custom", "risk", "misplaced"]))
    if kind == "risk":
        custom = "null"
        sampling = draw(st.fixed_dictionaries({}, optional=sampling_risks))
        top = draw(st.fixed_dictionaries({}, optional=endpoint_risks.get(endpoint, {})))
    elif kind == "misplaced":
        top = draw(misplaced)
    stream = draw(st.booleans())
    return endpoint, body_text(endpoint, custom, stream, temperature, sampling, top)


def monsters() -> Iterator[tuple[str, str]]:
    """Every monster at every endpoint, with and without streaming."""
    for make in MONSTERS:
        custom = make()
        for endpoint in ENDPOINTS:
            for stream in (False, True):
                yield endpoint, body_text(endpoint, custom, stream, 0.6)
