"""Settings that do nothing in a run are reported; all others are either in the table or have an effect everywhere."""

import warnings
from typing import Any

import pytest

from latentmas_ray import LatentMAS, UnusedSettingWarning
from latentmas_ray.config import RunConfig, RunSetting, make_config, unused_by_choice, unused_settings
from latentmas_ray.config.unused import UNUSED

# Fields with an effect in every setting, or refused where they have none.
ALWAYS = {
    *("model", "revision", "dtype", "device", "task", "limit", "batch_size", "method", "memory", "temperature"),
    *("max_new_tokens", "runtime", "tp", "threads", "output", "resume", "trace", "save_memory", "unsafe_programs"),
    *("otel", "samples", "decides", "decide_accuracies", "abstractions"),
}


def told(config: dict[str, Any], **setting: Any) -> dict[str, str]:
    """The fields that do nothing, each with its cause, if exactly these fields are given."""
    run = RunSetting(config=make_config(config), **setting)
    return {warning.field: warning.cause for warning in unused_settings(run, config.keys())}


def test_every_field_is_judged() -> None:
    in_table = {name for rule in UNUSED for name in rule.fields}
    assert in_table | ALWAYS == set(RunConfig.model_fields)
    assert not in_table & ALWAYS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("replicas", 2),
        ("replicas", {"planner": 2}),
        ("replicas", 1),
        ("address", "auto"),
        ("placement", "spread"),
        ("memory_in_flight", "4GB"),
        ("overlap", False),
        ("overlap", True),
        ("turn_timeout", 5.0),
        ("transfer", "auto"),
        ("decode_batch", 4),
        ("sampler", "engine"),
    ],
)
def test_in_one_process(field: str, value: Any) -> None:
    assert told({"runtime": "local", field: value}) == {field: "runtime"}
    assert told({field: value}) == {}


@pytest.mark.parametrize("method", ["single", "text"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("codec", "int8"),
        ("keep", 0.25),
        ("transfer", "recompute"),
        ("transport", "tcp"),
        ("latent_steps", 10),
        ("latent_steps", 40),
        ("thoughts", "identity"),
        ("overlap", False),
        ("memory_in_flight", "4GB"),
    ],
)
def test_without_working_memory(method: str, field: str, value: Any) -> None:
    assert told({"method": method, field: value}) == {field: "method"}
    assert told({field: value}) == {}
    assert told({"memory": "none", field: value}) == {field: "memory"}
    assert told({field: value}, from_memory=True) == {field: "from_memory"}


@pytest.mark.parametrize(
    ("config", "setting", "expected"),
    [
        ({"method": "single", "topology": "hierarchical"}, {}, {"topology": "method"}),
        ({"method": "single", "topology": "single"}, {"num_agents": 1}, {}),
        ({"method": "text", "topology": "hierarchical"}, {}, {}),
        ({"method": "single", "placement": "spread"}, {}, {"placement": "method"}),
        ({"method": "single", "placement": "spread", "replicas": 2}, {}, {}),
        ({"latent_steps": 5}, {"own_steps": (10, 20)}, {"latent_steps": "topology"}),
        ({"latent_steps": 5}, {"own_steps": (10, None)}, {}),
        ({"latent_steps": 0, "thoughts": "soft"}, {}, {"thoughts": "latent_steps"}),
        ({"latent_steps": 0, "thoughts": "soft"}, {"own_steps": (None, 3)}, {}),
        ({"latent_steps": 0, "overlap": True}, {}, {"overlap": "latent_steps"}),
        ({"memory": "latent-only", "overlap": False}, {}, {"overlap": "memory"}),
        ({"memory": "latent-only+sink", "overlap": False}, {}, {"overlap": "memory"}),
        ({"memory": "latent-only", "keep": 0.5}, {}, {"keep": "memory"}),
        ({"keep": 0.5}, {"own_shares": (0.25, 1.0)}, {"keep": "topology"}),
        ({"keep": 0.5}, {"own_shares": (0.25, None)}, {}),
        ({"keep_by": "reader", "keep_layers": "own"}, {}, dict.fromkeys(("keep_by", "keep_layers"), "keep")),
        ({"keep_by": "reader"}, {"own_shares": (0.5, None)}, {}),
        ({"keep": 0.5, "keep_by": "random", "keep_layers": "own"}, {}, {"keep_layers": "keep_by"}),
        ({"keep_by": "window", "keep_layers": "own"}, {}, {"keep_layers": "keep_by"}),
        ({"keep": 0.5, "keep_by": "thoughts", "overlap": True}, {}, {"overlap": "keep_by"}),
        ({"keep": 0.5, "keep_by": "reader", "overlap": True}, {}, {}),
        ({"memory": "none", "guard": "warn"}, {}, {"guard": "memory"}),
        ({"guard": "drop", "overlap": True}, {}, {"overlap": "guard"}),
        ({"guard": "warn", "overlap": True}, {}, {}),
        ({"placement": "colocate", "overlap": False}, {}, {"overlap": "placement"}),
        ({"transfer": "recompute", "codec": "int8"}, {}, {"codec": "transfer"}),
        (
            {"placement": "colocate", "decode_batch": 8, "sampler": "counter"},
            {},
            dict.fromkeys(("decode_batch", "sampler"), "placement"),
        ),
        ({"engine": "transformers", "sampler": "engine"}, {}, {"sampler": "engine"}),
        ({"engine": "transformers", "sampler": "engine"}, {"own_engines": (None, "vllm")}, {}),
        ({"engine": "vllm", "sampler": "engine"}, {}, {}),
        ({"engine": "vllm", "transfer": "auto"}, {}, {"transfer": "engine"}),
        ({"engine": "vllm", "transfer": "auto", "method": "text"}, {}, {"transfer": "method"}),
        ({"engine": "vllm", "transfer": "recompute"}, {}, {}),
        ({"engine": "vllm"}, {"own_engines": ("transformers",)}, {"engine": "topology"}),
        ({"engine": "vllm"}, {"own_engines": ("transformers", None)}, {}),
        (
            {"temperature": 0, "seed": 7, "top_p": 0.5, "sampler": "engine"},
            {},
            dict.fromkeys(("seed", "top_p", "sampler"), "temperature"),
        ),
        ({"temperature": 0, "seed": 7, "top_p": 0.5}, {"several_answer": True}, {"top_p": "temperature"}),
        ({"temperature": 0.1, "seed": 7, "top_p": 0.5}, {}, {}),
    ],
)
def test_settings_that_exclude_one_another(
    config: dict[str, Any], setting: dict[str, Any], expected: dict[str, str]
) -> None:
    assert told(config, **setting) == expected


@pytest.mark.parametrize(
    ("config", "asked", "engines", "expected"),
    [
        ({"sampler": "engine"}, (None,), ("transformers",), ["sampler=engine does nothing with engine=transformers"]),
        ({"sampler": "engine"}, (None, None), ("transformers", "vllm"), []),
        ({"sampler": "engine", "engine": "transformers"}, (None,), ("transformers",), []),
        ({"sampler": "engine", "temperature": 0}, (None,), ("transformers",), []),
        ({"sampler": "counter"}, (None,), ("transformers",), []),
        ({"transfer": "auto"}, (None,), ("vllm",), ["transfer=auto does nothing with engine=vllm"]),
        ({"transfer": "auto"}, ("vllm", None), ("vllm", "transformers"), ["transfer=auto does nothing with engine"]),
        ({"transfer": "auto"}, (None,), ("transformers",), []),
        ({"transfer": "auto", "engine": "vllm"}, (None,), ("vllm",), []),
        ({"transfer": "auto", "method": "text"}, (None,), ("vllm",), []),
    ],
)
def test_what_the_choice_of_engines_leaves_without_effect(
    config: dict[str, Any], asked: tuple[str | None, ...], engines: tuple[str, ...], expected: list[str]
) -> None:
    """Where it is asked for, and not chosen, it is told before anything starts."""
    run = RunSetting(config=make_config(config), own_engines=asked)
    found = [str(warning) for warning in unused_by_choice(run, engines)]
    assert [line.startswith(start) for line, start in zip(found, expected, strict=True)] == [True] * len(expected)


def test_a_default_is_not_told() -> None:
    run = RunSetting(config=make_config({"runtime": "local", "method": "single", "temperature": 0}))
    assert [*unused_settings(run, {"runtime", "method", "temperature"})] == []


def test_python_warns_once_for_each_field() -> None:
    with pytest.warns(UnusedSettingWarning) as caught:
        LatentMAS("tiny", runtime="local", method="text", replicas=2, latent_steps=3)
    assert sorted(str(one.message) for one in caught) == [
        "latent_steps=3 does nothing with method=text: the agents hand over text",
        "replicas=2 does nothing with runtime=local: one process runs all agents, one after another",
    ]


def test_python_warns_of_a_configuration_and_of_later_changes() -> None:
    config = make_config({"model": "tiny", "runtime": "local", "turn_timeout": 5})
    with pytest.warns(UnusedSettingWarning, match="^turn_timeout=5.0 does nothing with runtime=local"):
        LatentMAS(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedSettingWarning)
        mas = LatentMAS("tiny", runtime="local", method="single", max_new_tokens=2)
    with mas, pytest.warns(UnusedSettingWarning, match="^latent_steps=3 does nothing with method=single"):
        mas.evaluate("sample", limit=1, latent_steps=3)
