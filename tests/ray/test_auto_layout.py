"""Layouts in which some agents share a GPU: by hand, and as a search chooses them."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.layouts import PUBLISHED, chain, chosen, search_of
from latentmas_ray import LatentMAS, Summary, load_run
from latentmas_ray.placement import ActorPlanner, Plan, PlanRequest
from latentmas_ray.placement.prediction.layout_plans import plan_layout
from latentmas_ray.placement.prediction.layouts import contents_of
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.run_events import LayoutMeasured, RunEvent, RunStarted
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology
from tests.cases.scheduler import agent, topology
from tests.ray.actor_cases import actors_of, drive, groups, questions_that_wait
from tests.ray.stand_ins import StandIn, turns_in
from tests.ray.time_sliced import TimeSlicedRunner

TRIO = topology(agent("planner"), agent("critic", "planner"), agent("judger", "critic", thinks="text"))
SCALE = 0.1  # of the published seconds
MANY = 60  # questions


def test_agents_joined_share_one_gpu_and_others_have_their_own(tmp_path: Path, start_ray: Callable[..., None]) -> None:
    start_ray(num_gpus=2)
    make = partial(plan_layout, counts={("planner", "critic"): 1, ("judger",): 1})
    with actors_of(TRIO, partial(StandIn, tmp_path), planner=ActorPlanner(make_plan=make)) as started:
        _, info = started
        assert "3 actors on 1 node" in info.description
        assert "0.5 to 1 GPU each" in info.description
        (group,) = groups()
        assert [bundle["GPU"] for bundle in group["bundles"].values()] == [1.0, 1.0]
        assert len({one.device for one in started[0]._manager.loaded}) == 2
        planner, critic, judger = (one.device for one in started[0]._manager.loaded)
        assert planner == critic != judger
        answers = drive(*started, TRIO, questions_that_wait(4, 0.0))
    assert all(isinstance(answer, Answer) for answer in answers.values())
    assert len({turn.pid for turn in turns_in(tmp_path)}) == 3


def _chain(seconds: Mapping[str, float]) -> Topology:
    """A chain of timers; the last word of an agent's prompt is the seconds of its turn."""
    timers = chain(seconds)
    agents = [one.model_copy(update={"prompt": f"{{{{ context }}}} {{{{ {one.name} }}}}"}) for one in timers.agents]
    return timers.model_copy(update={"agents": tuple(agents)})


def _questions(count: int, seconds: Mapping[str, float]) -> list[Question]:
    return [
        Question(id=f"q{number}", question="", kind="text", gold=None, record=dict(seconds)) for number in range(count)
    ]


@pytest.mark.slow  # tests/unit/simulation/test_predicted_layouts.py has the same in virtual time
def test_auto_at_published_proportions_on_eight_pretended_gpus(tmp_path: Path, start_ray: Callable[..., None]) -> None:
    start_ray(num_gpus=8)
    seconds = {name: SCALE * one for name, one in PUBLISHED.items()}
    found = chosen(search_of(seconds, 8, apart=True))
    plan = found.plan
    assert any(len(agents) > 1 for agents in contents_of(plan))

    def make(request: PlanRequest) -> Plan:
        """The search's layout on the nodes that Ray has."""
        return plan_layout(request, contents_of(plan))

    chained = _chain(seconds)
    with actors_of(chained, partial(TimeSlicedRunner, tmp_path), planner=ActorPlanner(make_plan=make)) as started:
        drive(
            *started, chained, _questions(8, dict.fromkeys(seconds, 0.0)), replicas=8
        )  # every actor has its first turn
        begin = time.monotonic()
        answers = drive(*started, chained, _questions(MANY, seconds), replicas=8)
        reached = MANY / (time.monotonic() - begin)
    assert all(isinstance(answer, Answer) for answer in answers.values())
    today = 1 / seconds["judger"]
    # The first answers and the last ones do not fill the GPUs: 60 questions are seven and a half rounds on eight GPUs.
    rounds = -(-MANY // 8) / (MANY / 8)
    predicted = found.prediction.questions_per_second / rounds
    print(f"{reached:.2f} questions/s, {predicted:.2f} predicted, {today:.2f} with one replica of each agent")
    # A busy machine is slower than its timers, so only the other side is exact; `python -m benchmarks layouts` compares
    # both sides in virtual time.
    assert reached > 2 * today
    assert reached < 1.15 * predicted


def test_a_run_chooses_its_layout_and_records_it(tmp_path: Path, cluster: None) -> None:
    """Without GPUs: the cores of the node are one device. What it chose is in config.yaml, so that the same run needs
    no search, and what it reaches stands next to what was predicted."""
    events: list[RunEvent] = []

    class Recorder:
        def on_event(self, event: RunEvent) -> None:
            events.append(event)

    fields: dict[str, Any] = {"task": "chain", "limit": 6, "batch_size": 1, "latent_steps": 2, "max_new_tokens": 4}
    with LatentMAS("tiny", replicas="auto", output=str(tmp_path / "a"), observer=Recorder(), **fields) as system:
        summary = system.evaluate()
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert started.description.startswith("layout 1× all in one actor: ")
    assert "questions/s predicted with figures of cpu for " in started.description
    (measured,) = [event for event in events if isinstance(event, LayoutMeasured)]
    assert isinstance(summary, Summary)
    assert summary.layout_speed is not None
    assert summary.layout_speed.layout == measured.speed.layout == "1× all in one actor"
    assert summary.layout_speed.questions_per_second > 0
    assert set(summary.layout_speed.devices) == set(summary.layout_speed.predicted_devices)
    stored = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert (stored["replicas"], stored["placement"], stored["tp"]) == (1, "colocate", 1)
    assert load_run(tmp_path / "a").summary == summary
