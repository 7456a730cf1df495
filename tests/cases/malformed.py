"""Strategies for requests that are almost right: fields of other types, fields that are not there, bytes that are no
JSON."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.cases.served_app import MODEL

CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Sure?"},
    ],
    "max_tokens": 1,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "n": 1,
    "stop": ["\n"],
    "stream": False,
    "user": "u",
    "metadata": {"run": "a"},
    "latentmas": {"latent_steps": 1, "memory": "matched", "trace": False},
}
COMPLETION: dict[str, Any] = {
    **{key: value for key, value in CHAT.items() if key != "messages"},
    "prompt": ["How many?", "Why?"],
}
PATHS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}
# Names of fields that are refused, or of other projects.
_NAMES = [
    "logprobs", "top_logprobs", "tools", "tool_choice", "functions", "function_call", "response_format",
    "logit_bias", "presence_penalty", "frequency_penalty", "audio", "modalities", "store", "prediction",
    "reasoning_effort", "stream_options", "best_of", "echo", "suffix", "prompt", "messages",
    "max_completion_tokens", "top_k", "min_p", "name", "role", "content", "type",
    "text", "conversation", "memory", "latentmas", "__class__",
]  # fmt: skip

_texts = st.text(max_size=30) | st.sampled_from(
    ["", " ", "\0", "{{ 7 * 7 }}", "{% for x in y %}", "\ud800", "<|im_end|>", "é" * 300, "tool", "text", "NaN"]
)
_numbers = (
    st.integers(-5, 5)
    | st.sampled_from([2**31, 2**63, -(2**63), 10**25, 1e308, float("inf"), float("-inf"), float("nan")])
    | st.floats()
)
_scalars = st.none() | st.booleans() | _numbers | _texts
values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts | st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=8,
)


def places(value: Any) -> list[tuple[Any, ...]]:
    """Every place in a body, as keys and indices."""
    found: list[tuple[Any, ...]] = [()]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(key, *rest) for rest in places(inner)]
    return found


@st.composite
def changed(draw: st.DrawFn, body: dict[str, Any]) -> Any:
    """A body with one to three mistakes: a value of another kind, a field too few or too many."""
    found: Any = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([place for place in places(found) if place] or [("model",)]))
        holder: Any = found
        for key in path:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "nest"])):
            case "replace":
                holder[last] = draw(values)
            case "remove":
                del holder[last]
            case "nest":
                holder[last] = [holder[last]]
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(_NAMES) | _texts)] = draw(values)
            case _:
                holder.append(draw(values))
        if not isinstance(found, dict) or not found:
            break
    return found


@st.composite
def damaged(draw: st.DrawFn, body: dict[str, Any]) -> bytes:
    """The bytes of a body, cut, or with others in between."""
    text = json.dumps(body).encode()
    at = draw(st.integers(0, len(text)))
    inserted = draw(st.binary(max_size=6) | st.sampled_from([b"[" * 500, b"\\ud800", b"1e999", b"9" * 5000, b"\xff"]))
    return text[:at] + inserted + text[at + draw(st.integers(0, 3)) :]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body."""
    path = draw(st.sampled_from(sorted(PATHS)))
    kind = draw(st.sampled_from(["changed"] * 6 + ["damaged"] * 2 + ["any"]))
    if kind == "damaged":
        return path, draw(damaged(PATHS[path]))
    body = draw(changed(PATHS[path]) if kind == "changed" else values)
    return path, json.dumps(body).encode()  # a half of a surrogate pair is written as an escape


headers = st.dictionaries(
    st.sampled_from(
        ["Content-Type", "Authorization", "X-Request-Id", "Origin", "Host", "Content-Length", "Transfer-Encoding",
         "Access-Control-Request-Method", "Accept", "Cookie"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
    | st.sampled_from(["application/json", "Bearer x", "*", "-1", "9" * 30, "chunked"]),
    max_size=4,
)  # fmt: skip
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "X"])
paths = st.sampled_from(
    ["/", "/v1", "/v1/models", "/v1/models/x", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/health",
     "/ready", "/metrics", "/docs", "/openapi.json", "//v1/models", "/v1/models/../../etc/passwd", "/%00", "/a" * 500]
)  # fmt: skip
