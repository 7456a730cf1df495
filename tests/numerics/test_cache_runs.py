"""Whole runs of models that cache latents or states, from a folder: what they hand over, and what is refused before
anything is started."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.errors import InputError
from latentmas_ray.models.devices import check_divisible
from latentmas_ray.vllm.reference import make_reference
from tests.cases.scheduler import agent, topology
from tests.numerics.cache_kinds import config_of, make_cache_lm

QUESTIONS = ["What is 4 + 9?", "Which one?"]
CHAIN = topology(agent("planner"), agent("critic", "planner"), agent("judger", "critic", thinks="text"))
BRANCHES = topology(agent("left"), agent("right"), agent("end", "left", "right", thinks="text"))
Start = Callable[..., LatentMAS]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """`start(family, topology, …)`: a system in this process, on a model in a folder."""
    folders: dict[str, Path] = {}

    def make(family: str, **fields: Any) -> LatentMAS:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            lm = make_cache_lm(family)
            lm.model.save_pretrained(folders[family])
            lm.chat.tokenizer.save_pretrained(folders[family])
        own = {"runtime": "local", "latent_steps": 2, "max_new_tokens": 3, "temperature": 0.0, "batch_size": 2}
        return LatentMAS(model=str(folders[family]), **{**own, **fields})

    return make


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_next"])
def test_a_chain_answers_and_says_its_bytes(start: Start, family: str) -> None:
    spec = make_cache_lm(family).spec
    with start(family, topology=CHAIN) as system:
        answers = list(system.run(QUESTIONS))
    for answer in answers:
        first, second = answer.transfers[0], answer.transfers[-1]
        tokens = answer.agents["planner"].prompt_tokens + 2
        assert first.num_bytes == tokens * spec.bytes_per_token + spec.state_bytes
        assert second.reader == "judger"
    with start(family, topology=CHAIN, batch_size=1, transfer="recompute") as system:
        assert [answer.answer_token_ids for answer in system.run(QUESTIONS)] == [
            answer.answer_token_ids for answer in answers
        ]


def test_latents_of_branches_are_merged(start: Start) -> None:
    with start("deepseek_v3", topology=BRANCHES) as system:
        assert len(list(system.run(QUESTIONS))) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"topology": BRANCHES}, r"agents.end.reads: got 'left, right'; .* cannot merge parallel branches.*sequential"),
        ({"topology": "hierarchical"}, "cannot merge parallel branches"),
        (
            {"topology": topology(agent("a", hands_over="prompt"), agent("b", "a", thinks="text"))},
            "agents.a.hands_over: got 'prompt'; it must be all",
        ),
        ({"keep": 0.5}, "keep: got .*it must be 1"),
        ({"guard": "drop"}, "guard: got 'drop'; it must be off or warn"),
        ({"latent_steps": "auto"}, r"latent_steps: got .*use a number, or max:N"),
        ({"trace": 1}, "trace: got .*it must be 0"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_states_cannot_do_is_refused_in_one_line(start: Start, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        start("qwen3_next", **{"topology": CHAIN, **fields})
    line = str(caught.value)
    assert "keep states" in line
    assert "\n" not in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("family", "reason"), [("deepseek_v3", "all heads of my-model share one latent"), ("qwen3_next", "are not divided")]
)
def test_latents_and_states_are_not_divided(family: str, reason: str) -> None:
    config = config_of(family)
    check_divisible(config, "my-model", 1)
    with pytest.raises(InputError, match=f"tp: got .*it must be 1: .*{reason}"):
        check_divisible(config, "my-model", 2)


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_next"])
def test_vllm_is_refused_with_the_layer_s_reason(family: str, tmp_path: Path) -> None:
    """Before vLLM starts, which takes a key and a value of one shape."""
    lm = make_cache_lm(family)
    lm.model.save_pretrained(tmp_path)
    lm.chat.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"model: got .*vLLM .*; layer 0 caches (latent|conv_0).*use engine transformers"
    ):
        make_reference(str(tmp_path), dtype="float32", revision=None)
