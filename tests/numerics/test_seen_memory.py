"""Where every layer has a window, only what a reader can see is handed over (`keep_by` window): the reader computes the
same, and a plan says how many bytes that are."""

import json
from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from latentmas_ray import LatentMAS
from latentmas_ray.cli.main import main
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.eviction import Eviction
from latentmas_ray.engine.turn import KeepRule
from latentmas_ray.errors import ConfigError
from latentmas_ray.memory import MergedLayout, Segment, merge_layout
from latentmas_ray.topology.agent import AgentMemory
from tests.cases.scheduler import agent, topology
from tests.numerics.position_families import ALL, WINDOW, make
from tests.numerics.sweep.random_models import random_model, save
from tests.numerics.test_recompute import order
from tests.numerics.turns import assert_close, begin, logits_of, memory, place_chain, prompts_of, think

NUM_STEPS = 2
LENGTHS = [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW]
PROMPTS = {name: prompts_of(LENGTHS[seed:] + LENGTHS[:seed], seed) for seed, name in enumerate("abc")}
WORK = order("a", keep=KeepRule(share=1.0, by="window"))
TEAM = topology(agent("left"), agent("right"), agent("sum", "left", "right"), agent("end", "sum", thinks="text"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(make("mistral-window"), cache_dir=tmp_path_factory.mktemp("realign"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("model")
    config = ALL["mistral-window"]()
    save(random_model(config), config, made)
    return str(made)


def think_seen(engine: Engine, name: str, layout: MergedLayout | None = None) -> Segment:
    """A turn that hands over what can be seen."""
    prompts = PROMPTS[name]
    session = engine.open([f"q{row}" for row in range(len(prompts))], num_slots=8 * WINDOW)
    if layout is not None:
        session.absorb(layout)
    Eviction(session, WORK, prompts).prefill()
    session.think(NUM_STEPS)
    return session.emit()


def read(engine: Engine, segments: dict[str, Segment], reads: list[AgentMemory]) -> Tensor:
    return logits_of(begin(engine, PROMPTS["c"], merge_layout(reads, segments, len(LENGTHS)))).clone()


def test_a_chain_reads_the_same(engine: Engine) -> None:
    whole = {"a": think(engine, PROMPTS["a"], NUM_STEPS)}
    whole["b"] = think(engine, PROMPTS["b"], NUM_STEPS, place_chain(whole))
    seen = {"a": think_seen(engine, "a")}
    seen["b"] = think_seen(engine, "b", place_chain(seen))
    assert_close(read(engine, seen, [memory("a", "b")]), read(engine, whole, [memory("a", "b")]), 1e-5)
    for name, segment in seen.items():
        kept = [min(len(ids), WINDOW - 1) + NUM_STEPS for ids in PROMPTS[name]]
        assert list(segment.kv_lengths) == kept
        assert segment.meta.num_bytes == sum(kept) * segment.spec.bytes_per_token
        assert segment.meta.num_bytes < whole[name].meta.num_bytes


def test_merged_branches_are_read_the_same(engine: Engine) -> None:
    """A merge only moves a branch away from its reader, so that what a chain's reader sees is enough."""
    whole = {name: think(engine, PROMPTS[name], NUM_STEPS) for name in "ab"}
    seen = {name: think_seen(engine, name) for name in "ab"}
    for reads in ([memory("a"), memory("b")], [memory("b"), memory("a")]):
        assert_close(read(engine, seen, reads), read(engine, whole, reads), 1e-5)


def test_a_model_with_a_full_layer_hands_over_everything(tmp_path: Path) -> None:
    mixed = Engine(make("gemma3-window"), cache_dir=tmp_path)
    assert think_seen(mixed, "a").kv_lengths == think(mixed, PROMPTS["a"], NUM_STEPS).kv_lengths


def test_a_run_answers_the_same_and_moves_the_planned_bytes(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    question = "How many days are there in 3 weeks, and how many hours are in these days?"
    moved, tokens, prompt_tokens = {}, {}, 0
    settings = {"runtime": "local", "latent_steps": NUM_STEPS, "max_new_tokens": 6, "temperature": 0}
    for by in ("all", "window"):
        told = {"keep_by": by} if by == "window" else {}
        with LatentMAS(folder, topology=TEAM, **settings, **told) as system:
            answer = system.ask(question)
        tokens[by], prompt_tokens = answer.answer_token_ids, answer.agents["left"].prompt_tokens
        moved[by] = Counter({(one.source, one.reader): one.num_bytes for one in answer.transfers})
    assert tokens["window"] == tokens["all"]
    assert prompt_tokens > 3 * WINDOW
    assert all(num_bytes < moved["all"][link] for link, num_bytes in moved["window"].items())
    given = f"plan --json --model {folder} --keep-by window --latent-steps {NUM_STEPS} --topology hierarchical"
    capfd.readouterr()
    assert main([*given.split(), "--prompt-tokens", str(prompt_tokens), "--batch-size", "1"]) == 0
    planned = {one["num_bytes"] for one in json.loads(capfd.readouterr().out)["hand_overs"]}
    assert planned == set(moved["window"].values())
    assert main(["doctor", "--json", "--model", folder]) == 0
    assert json.loads(capfd.readouterr().out)["seen_tokens_of_a_prompt"] == WINDOW - 1


def test_it_is_refused_where_all_is_seen_and_together_with_a_share(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"keep_by: got 'window'; all layers of tiny must have a sliding window"):
        LatentMAS("tiny", keep_by="window", runtime="local").ask("Why?")
    with pytest.raises(ConfigError, match=r"keep: got '0.5'; with keep_by window planner hands over all that a reader"):
        LatentMAS(folder, keep_by="window", keep=0.5, runtime="local").ask("Why?")
