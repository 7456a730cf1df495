"""The run's configuration: frozen, derived values, and errors with the field, the value and the expected form."""

from typing import Any

import pytest
from pydantic import ValidationError

from latentmas_ray import LatentMAS
from latentmas_ray.config import (
    DecisionConfig,
    HintsConfig,
    MethodConfig,
    ModelConfig,
    OutputConfig,
    PlacementConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
    TransferConfig,
    WritingConfig,
    current_transfer,
    format_transport,
    least_by_agent,
    make_config,
    most_by_agent,
    replicas_by_agent,
    stored_fields,
)
from latentmas_ray.config.translation import TranslationConfig
from latentmas_ray.errors import ConfigError, OldNameWarning

PARTS = (
    *(
        ModelConfig,
        TranslationConfig,
        TaskConfig,
        MethodConfig,
        HintsConfig,
        SamplingConfig,
        DecisionConfig,
        WritingConfig,
    ),
    *(TransferConfig, PlacementConfig, OutputConfig),
)


def test_defaults_are_valid_and_every_field_is_described() -> None:
    assert make_config({}) == RunConfig()
    assert [name for name, field in RunConfig.model_fields.items() if not field.description] == []


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError):
        RunConfig().seed = 7  # type: ignore[misc]


def test_it_survives_a_round_trip_through_plain_data() -> None:
    config = make_config(
        {"method": "text", "limit": 3, "device": "cuda:1", "runtime": "local", "memory_in_flight": "2GiB"}
    )
    assert make_config(config.model_dump()) == config


@pytest.mark.parametrize(("text", "num_bytes"), [("auto", None), ("4GB", 4 * 10**9), ("1 KiB", 1024)])
def test_memory_in_flight(text: str, num_bytes: int | None) -> None:
    assert make_config({"memory_in_flight": text}).memory_in_flight_bytes == num_bytes


def test_a_stored_number_of_bytes_is_read() -> None:
    """Versions before wrote sizes without a unit as they were given."""
    assert stored_fields({"memory_in_flight": "4000000000"})["memory_in_flight"] == "4000000000B"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_devices(device: str) -> None:
    assert make_config({"device": device, "runtime": "local"}).device == device


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_devices_of_actors(device: str) -> None:
    assert make_config({"device": device, "runtime": "ray"}).device == device


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("task", "", "at least 1 character"),
        ("model", "   ", "at least 1 character"),
        ("method", "latnet", "'single', 'text' or 'latent'"),
        ("keep", 0, "a number above 0 and at most 1"),
        ("keep", 1.01, "a number above 0 and at most 1"),
        ("keep", "nan", "a number above 0 and at most 1"),
        ("keep", True, "not true or false"),
        ("keep", "a quarter", "it must be a number above 0 and at most 1"),
        ("keep_by", "chance", "'prompt', 'thoughts', 'reader', 'random' or 'window'"),
        ("latent_steps", -1, "a whole number from 0 to 100000, auto"),
        ("latent_steps", 1.5, "a whole number"),
        ("latent_steps", "many", "a whole number"),
        ("latent_steps", "9" * 5000, "a whole number"),
        ("realign", "maybe", "true or false"),
        ("thoughts", "telepathy", "realign, identity, soft, blend, noise, with parameters if need be"),
        ("thoughts", "soft:", "as in soft:temperature=0.7,top_k=50"),
        ("thoughts", 3, "as in soft:temperature=0.7,top_k=50"),
        ("thoughts", "soft:heat=1", "soft has no parameter 'heat'; it has rescale, temperature, top_k"),
        ("thoughts", "noise:top_k=3", "noise has no parameter 'top_k'; it has seed"),
        ("thoughts", "soft:temperature=0", "temperature must be a number above 0 and at most 10, not '0'"),
        ("thoughts", "soft:temperature=nan", "temperature must be "),
        ("thoughts", "soft:top_k=0", "top_k must be a whole number from 1 to 1000, not '0'"),
        ("thoughts", "soft:top_k=1001", "top_k must be a whole number from 1 to 1000, not '1001'"),
        ("thoughts", "soft:top_k=1.5", "top_k must be a whole number from 1 to 1000, not '1.5'"),
        ("thoughts", "soft:top_k=1,top_k=2", "each parameter once"),
        ("thoughts", "blend:weight=1.1", "weight must be a number from 0 to 1, not '1.1'"),
        ("thoughts", "identity:rescale=maybe", "rescale must be true or false, not 'maybe'"),
        ("thoughts", "noise:seed=-1", "seed must be a whole number from 0 to 9223372036854775807, not '-1'"),
        ("pp", 2, "divide each layer over the GPUs of a node with tp"),
        ("pipeline_parallel_size", 1, "a model is not divided into pipeline stages"),
        ("batch_size", 0, "a whole number from 1 to 4096"),
        ("dtype", "float16", "'auto', 'float32' or 'bfloat16'"),
        ("device", "gpu", "auto, cpu, cuda or cuda:N"),
        ("device", "cuda:1", "Ray chooses the GPU"),
        ("device", "cuda:", "auto, cpu, cuda or cuda:N"),
        ("device", "cuda:٣", "auto, cpu, cuda or cuda:N"),
        ("temperature", float("nan"), "it must be"),
        ("temperature", float("inf"), "it must be"),
        ("top_p", 0, "a number above 0 and at most 1"),
        ("top_p", float("nan"), "it must be"),
        ("max_new_tokens", 0, "a whole number from 1 to 1000000"),
        ("seed", 2**63, "a whole number from 0 to 9223372036854775807"),
        ("limit", 0, "a whole number of at least 1"),
        ("transport", "pigeon", "'auto'"),
        ("transport", "same_node=pigeon", "the links are same_gpu, same_node, cross_node"),
        ("transport", "near=tcp", "the links are same_gpu, same_node, cross_node"),
        ("transport", "same_node=tcp,same_node=gloo", "each link once"),
        ("transport", "same_node=loopback", "as in same_node=shared_memory,cross_node=tcp"),
        ("transport", {}, "as in same_node=shared_memory,cross_node=tcp"),
        ("transport", 3, "it must be one of 'auto'"),
        ("engine", "llamacpp", "'auto', 'transformers' or 'vllm'"),
        ("sampler", "dice", "'counter' or 'engine'"),
        ("decode_batch", 0, "a whole number from 1 to 1024"),
        ("decode_batch", 1025, "a whole number from 1 to 1024"),
        ("decode_batch", True, "a number, not true or false"),
        ("runtime", "spark", "'ray' or 'local'"),
        ("address", "", "at least 1 character"),
        ("memory_in_flight", "0B", "512MB, 4GB or 2GiB"),
        ("memory_in_flight", "9" * 400, "512MB, 4GB or 2GiB"),
        ("memory_in_flight", "4", "a size needs its unit: 4GB or 4GiB; or auto"),
        ("memory_in_flight", 4, "a size needs its unit: 4GB or 4GiB; or auto"),
        ("memory_in_flight", 0.5, "a size needs its unit: 0.5GB or 0.5GiB; or auto"),
        ("memory_in_flight", 4_000_000_000, "a size needs its unit: 4000000000B; or auto"),
        ("memory_in_flight", " 16 ", "a size needs its unit: 16GB or 16GiB; or auto"),
        ("memory_in_flight", True, "512MB, 4GB or 2GiB"),
        ("memory_in_flight", None, "512MB, 4GB or 2GiB"),
        ("output", "", "at least 1 character"),
        ("resume", True, "output folder"),
        ("latent-steps", 3, "latent_steps"),
    ],
)
def test_bad_values_are_one_line_errors(field: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({field: value})
    message = str(caught.value)
    assert caught.value.field == field
    assert message.startswith(f"{field}: got ")
    assert expected in message
    assert "\n" not in message
    assert "pydantic" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("soft", "soft"),
        (" soft : temperature = 1.0 , top_k=50", "soft"),
        ("soft:top_k=10,temperature=0.70", "soft:temperature=0.7,top_k=10"),
        ("identity:rescale=off", "identity:rescale=no"),
        ("blend:weight=0.25", "blend:weight=0.25"),
        ("noise:seed=0", "noise"),
    ],
)
def test_equal_thought_rules_are_stored_alike(given: str, stored: str) -> None:
    """A resumed run must have the same rule, however it is written."""
    config = make_config({"thoughts": given})
    assert config.thoughts == stored
    assert make_config(config.model_dump()) == config
    assert config.identity()["thoughts"] == stored


@pytest.mark.parametrize(("realign", "thoughts"), [(True, "realign"), (False, "identity"), ("no", "identity")])
def test_realign_stands_for_a_thought_rule(realign: object, thoughts: str) -> None:
    assert make_config({"realign": realign}).thoughts == thoughts
    assert make_config({"realign": realign, "thoughts": thoughts}).thoughts == thoughts
    assert stored_fields({"realign": realign})["thoughts"] == thoughts
    other = "identity" if thoughts == "realign" else "realign"
    for contrary in (other, "soft"):
        with pytest.raises(
            ConfigError, match=f"realign: got .* stands for thoughts {thoughts}, and thoughts is {contrary}"
        ):
            make_config({"realign": realign, "thoughts": contrary})


@pytest.mark.parametrize("method", ["single", "text"])
def test_a_guard_is_for_agents_that_think_in_latent_space(method: str) -> None:
    with pytest.raises(ConfigError, match=f"guard: got 'warn'; method {method} has no latent thoughts to guard"):
        make_config({"method": method, "guard": "warn"})
    assert make_config({"method": method, "guard": "off"}).guard == "off"
    assert make_config({"method": "latent", "guard": "warn"}).guard == "warn"


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError):
        make_config({1: "sample"})  # type: ignore[dict-item]


def test_identity_holds_what_is_computed_and_not_where() -> None:
    first = make_config({"runtime": "ray", "replicas": 2, "output": "runs/a"})
    moved = make_config({"runtime": "local", "output": "runs/b", "resume": True})
    assert first.identity() == moved.identity()
    assert first.identity() != make_config({"seed": 7}).identity()
    assert first.identity() != make_config({"latent_steps": 0}).identity()


@pytest.mark.parametrize(
    ("given", "replicas", "most"),
    [
        (3, 3, 3),
        ("3", 3, 3),
        (" planner=2, judger=6 ", {"planner": 2, "judger": 6}, 6),
        ({"planner": 2}, {"planner": 2}, 2),
        (" auto", "auto", 1),
    ],
)
def test_replicas_are_one_number_or_one_for_each_agent(given: object, replicas: object, most: int) -> None:
    config = make_config({"replicas": given})
    assert config.replicas == replicas
    assert config.most_replicas == most
    assert make_config(config.model_dump()) == config


@pytest.mark.parametrize(
    ("given", "transport"),
    [
        ("tcp", "tcp"),
        ("same_node=nccl,cross_node=object_store", {"same_node": "nccl", "cross_node": "object_store"}),
        (" cross_node = tcp ", {"cross_node": "tcp"}),
        ({"same_gpu": "auto"}, {"same_gpu": "auto"}),
    ],
)
def test_a_transport_is_one_name_or_one_for_each_link(given: object, transport: object) -> None:
    config = make_config({"transport": given})
    assert config.transport == transport
    assert make_config(config.model_dump()) == config
    assert make_config({"transport": format_transport(config.transport)}) == config


@pytest.mark.parametrize(
    "given",
    [0, -1, 1025, True, 1.5, None, "", "two", "planner", "planner=", "=2", "a=1,a=2", "a=1,", {}, {"a": 0}, [2]],
)
def test_replicas_that_are_none(given: object) -> None:
    with pytest.raises(ConfigError, match="planner=2,judger=6"):
        make_config({"replicas": given})


def test_replicas_of_an_agent_that_is_not_there() -> None:
    assert replicas_by_agent({"b": 2}, ["a", "b"]) == {"a": 1, "b": 2}
    with pytest.raises(ConfigError, match="no agent 'c'; the agents are a, b"):
        replicas_by_agent({"c": 2}, ["a", "b"])


def test_replicas_that_only_a_plan_can_have() -> None:
    with pytest.raises(ConfigError, match=r"replicas: .*auto.*must be numbers"):
        replicas_by_agent("auto", ["a", "b"])


def test_the_task_left_out_is_one_that_the_model_knows() -> None:
    assert make_config({}).task == "chain"
    assert make_config({"model": "Qwen/Qwen3-4B"}).task == "sample"
    assert make_config({"model": "Qwen/Qwen3-4B", "task": "notes"}).task == "notes"


def test_a_configuration_is_its_parts_and_nothing_else() -> None:
    names = [name for part in PARTS for name in part.model_fields]
    assert list(RunConfig.model_fields) == names
    assert len(set(names)) == len(names)
    assert all(isinstance(RunConfig(), part) for part in PARTS)


def test_what_a_resumed_run_may_change_is_said_by_the_fields() -> None:
    assert set(RunConfig.model_fields) - RunConfig().identity().keys() == {
        *("output", "resume", "trace", "save_memory", "unsafe_programs", "otel"),
        *("runtime", "address", "placement", "hardware", "tp", "threads", "start_timeout", "turn_timeout"),
        "detach",
        *("replicas", "max_replicas", "min_replicas", "rebalance", "drivers"),
        *("transport", "transfer", "overlap", "memory_in_flight", "engine", "decode_batch"),
    }


def test_each_of_several_runs_has_folders_of_its_own() -> None:
    config = make_config({"output": "runs", "seed": 1})
    own = config.with_folders(lambda folder: f"{folder}/2", seed=2)
    assert (own.output, own.save_memory, own.seed) == ("runs/2", None, 2)
    both = make_config({"output": "runs", "save_memory": "memory"}).with_folders(lambda folder: f"{folder}/2")
    assert (both.output, both.save_memory) == ("runs/2", "memory/2")


def test_a_stored_configuration_has_what_its_runs_had_before_a_field_was_there() -> None:
    before = {"models": {}, "revision": None, "sampler": "counter", "keep": 1.0, "keep_by": "prompt"}
    assert {**before, "task": "notes"}.items() <= stored_fields({"task": "notes"}).items()
    given = {"revision": "v2", "sampler": "engine", "models": {"judger": "small"}, "keep": 0.5}
    assert given.items() <= stored_fields(given).items()


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ({"handover": "recipe"}, "recompute", "handover=recipe is now transfer=recompute; the next version refuses it"),
        ({"handover": "auto"}, "auto", "handover=auto is now transfer=auto; the next version refuses it"),
        ({"transfer": "recipe"}, "recompute", "transfer=recipe is now transfer=recompute; the next version refuses it"),
    ],
)
def test_old_names_are_read_with_one_warning(old: dict[str, Any], new: str, warning: str) -> None:
    for read in (make_config, lambda values: RunConfig(**values)):
        with pytest.warns(OldNameWarning) as caught:
            assert read(old).transfer == new
        assert [str(one.message) for one in caught] == [warning]
    with pytest.warns(OldNameWarning) as caught:
        assert LatentMAS("tiny", runtime="local", **old).config.transfer == new
    assert [one.category for one in caught].count(OldNameWarning) == 1
    with pytest.warns(OldNameWarning):
        assert LatentMAS(RunConfig(runtime="local"), **old).config.transfer == new


def test_an_old_name_with_the_new_one_is_an_error() -> None:
    with pytest.raises(ConfigError, match="handover: got 'kv'; it is the old name of transfer; give one of the two"):
        make_config({"handover": "kv", "transfer": "kv"})


def test_a_wrong_value_of_an_old_name_is_an_error_of_the_new_one() -> None:
    with pytest.warns(OldNameWarning), pytest.raises(ConfigError, match="transfer: got 'pigeon'"):
        make_config({"handover": "pigeon"})


def test_rows_with_old_keys_are_read() -> None:
    assert current_transfer({"source": "a", "handover": "recipe"}) == {"source": "a", "mode": "recompute"}
    assert current_transfer({"source": "a", "mode": "kv"}) == {"source": "a", "mode": "kv"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_replicas": 1, "replicas": 2}, "max_replicas: got '1'; planner starts with 2"),
        ({"max_replicas": "nobody=3"}, "there is no agent 'nobody'"),
        ({"max_replicas": "judger=3", "placement": "colocate"}, "colocated agents share their actors"),
        ({"min_replicas": 2}, "min_replicas: got '2'; no agent has more than 1"),
        ({"min_replicas": "judger=3", "replicas": "judger=2"}, "judger has 2"),
        ({"min_replicas": "nobody=1"}, "there is no agent 'nobody'"),
        ({"min_replicas": "auto"}, "min_replicas: got 'auto'; it must be a number"),
    ],
)
def test_replicas_that_contradict_one_another(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        LatentMAS("tiny", **fields)
    assert told in str(raised.value)


def test_how_far_replicas_may_grow_and_with_how_many_a_run_starts() -> None:
    asked = {"planner": 1, "judger": 4}
    assert most_by_agent("auto", asked) == {"planner": None, "judger": None}
    assert most_by_agent({"judger": 6}, asked) == {"judger": 6}
    assert most_by_agent(None, asked) == {}
    assert least_by_agent(2, asked) == {"planner": 1, "judger": 2}
    assert least_by_agent(None, asked) == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "it needs the output folder of the run"),
        ({"output": "s3://bucket/run"}, "the output must be a folder here"),
        ({"output": "run", "tp": 2}, "with tp above 1 it must be left out"),
    ],
)
def test_actors_that_no_later_driver_could_use_are_not_detached(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make_config({"detach": 600, **values})
    assert make_config({"detach": 600, "output": "run"}).detach == 600
