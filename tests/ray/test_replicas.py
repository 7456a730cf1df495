"""Several replicas of every agent: the work is shared, and the answers are those of one."""

import json
from functools import partial
from pathlib import Path

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.errors import ConfigError
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks import load_questions
from latentmas_ray.transport import pick_transport
from tests.cases.runtime import runtime_of
from tests.cases.scheduler import agent, topology
from tests.ray.actor_cases import actors_of, drive, questions_that_wait, timeless
from tests.ray.stand_ins import StandIn, turns_in

pytestmark = pytest.mark.usefixtures("cluster")

PAIR = """\
name: pair
agents:
  - {name: planner, prompt: "plan {{ question }}"}
  - {name: judger, reads: [planner], thinks: text, prompt: "judge {{ question }}"}
"""


@pytest.mark.slow  # `test_replicas_work_at_the_same_time` has replicas without a model
def test_an_evaluation_with_replicas_writes_the_rows_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(PAIR)
    rows = {}
    for runtime, replicas in (("local", 1), ("ray", {"judger": 2})):
        with LatentMAS(
            model="tiny",
            dtype="float32",  # in bfloat16 rounding depends on which questions are written at the same time
            task="sample",
            topology=str(tmp_path / "pair.yaml"),
            runtime=runtime,
            replicas=replicas,
            output=str(tmp_path / runtime),
            batch_size=3,
            latent_steps=4,
            temperature=0.8,
            max_new_tokens=8,
        ) as system:
            assert system.evaluate().num_failed == 0
        lines = (tmp_path / runtime / "results.jsonl").read_text().splitlines()
        rows[runtime] = [timeless(json.loads(line)) for line in lines]
    assert rows["ray"] == rows["local"]
    assert [row["id"] for row in rows["ray"]] == [question.id for question in load_questions("sample")]


@pytest.mark.slow
def test_a_replica_of_two_ranks_gives_the_answers_of_one_process(tmp_path: Path) -> None:
    """In batches; `test_calls.py` has one question, and memory that is kept and given."""
    (tmp_path / "pair.yaml").write_text(PAIR)
    answers = {}
    for runtime, tp in (("local", 1), ("ray", 2)):
        with LatentMAS(
            model="tiny",
            dtype="float32",
            device="cpu",
            topology=str(tmp_path / "pair.yaml"),
            runtime=runtime,
            placement="colocate",
            tp=tp,
            batch_size=2,
            latent_steps=3,
            max_new_tokens=8,
        ) as system:
            answers[runtime] = {
                answer.id: answer.answer_token_ids for answer in system.run(["a?", "a longer one?", "why?"])
            }
    assert answers["ray"] == answers["local"]
    assert len(answers["ray"]) == 3


def test_replicas_work_at_the_same_time(tmp_path: Path) -> None:
    alone = topology(agent("solver", thinks="text"))
    with actors_of(alone, partial(StandIn, tmp_path), replicas=2) as started:
        answers = drive(*started, alone, questions_that_wait(4, 0.5))
    assert [answer for answer in answers.values() if not isinstance(answer, Answer)] == []
    turns = turns_in(tmp_path)
    assert len({turn.pid for turn in turns}) == 2
    pairs = ((one, other) for one in turns for other in turns if one.pid < other.pid)
    assert any(one.begin < other.end and other.begin < one.end for one, other in pairs)


@pytest.mark.slow  # an actor for one line; `tests/unit/transport/test_choose.py` has the choice
def test_a_transport_that_cannot_be_used_here_is_a_mistake(tmp_path: Path) -> None:
    runtime = runtime_of(["planner"], partial(StandIn, tmp_path), transport=partial(pick_transport, "nccl", "none"))
    try:
        with pytest.raises(ConfigError, match="transport: got 'nccl'; nccl moves memory of cuda only"):
            runtime.start()
    finally:
        runtime.close()
