"""How a run makes one answer of several: checks it before anything starts."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.runs.decisions.accuracies import read_accuracies
from latentmas_ray.runs.decisions.decide import DecisionSettings, decide_run
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology
from latentmas_ray.voting.answers import option_labels
from latentmas_ray.voting.rules import BY_AGREEMENT

FIRST_ID: Final = "q0"  # of the only question of a call that has no id of its own
_WITH_ACCURACIES = ("ow", *sorted(BY_AGREEMENT))  # the others estimate them, or need none


def decision_of(config: RunConfig, topology: Topology) -> DecisionSettings:
    """Return how a run decides; `topology` is the one that runs. The accuracies are read from their file.

    Raises ConfigError, and TopologyError for a rule of the topology, if there is nothing to decide, and ConfigError for
    accuracies that the rule does not take, of which one is missing, or that are none.
    """
    agents = [agent.name for agent in topology.answering_agents]
    rule = config.decides or topology.decides or "majority"
    if len(agents) * config.samples == 1:
        _check_nothing_is_decided(config, topology)
        return DecisionSettings(seed=config.seed)
    if config.decide_accuracies is None:
        return DecisionSettings(rule=rule, seed=config.seed, votes=True)
    if rule not in _WITH_ACCURACIES:
        expected = f"rule {rule} takes no accuracies; leave them out, or use rule {', '.join(_WITH_ACCURACIES)}"
        raise ConfigError("decide_accuracies", config.decide_accuracies, expected)
    accuracies = read_accuracies(config.decide_accuracies, agents)
    return DecisionSettings(rule=rule, accuracies=accuracies, seed=config.seed, votes=True)


def _check_nothing_is_decided(config: RunConfig, topology: Topology) -> None:
    expected = "there is one answer to a question, so nothing is decided; use samples above 1, or let several agents "
    expected += "answer (a topology with decides)"
    for field in ("decides", "decide_accuracies"):
        if (value := getattr(config, field)) is not None:
            raise ConfigError(field, value, expected)
    if topology.decides is not None:
        where = topology.at("decides")
        raise TopologyError(where, topology.decides, f"{topology.answering_agent.name} alone answers: {expected}")


def check_votes(questions: Iterable[Question]) -> None:
    """Raise TaskError for a question whose answers cannot vote: code, and choices without options."""
    for question in questions:
        option_labels(question)


def decide_answers(
    answers: Sequence[Answer], questions: Sequence[Question], settings: DecisionSettings
) -> list[Answer]:
    """Return the answers of a whole run as its rule decides them: those of rules that decide each question alone are
    decided already."""
    if settings.is_per_question:
        return list(answers)
    return decide_run(answers, {question.id: question for question in questions}, settings)


def decide_alone(answer: Answer, questions: Sequence[Question], settings: DecisionSettings) -> Answer:
    """Return the answer to one of `questions` as its rule decides it without the others, and whatever its id, which
    ties depend on: as `LatentMAS.ask` decides the only question of a call."""
    if answer.decision is None:
        return answer
    question = replace(next(one for one in questions if one.id == answer.id), id=FIRST_ID)
    (decided,) = decide_run([replace(answer, id=FIRST_ID)], {FIRST_ID: question}, settings)
    return replace(decided, id=answer.id)


def decider(questions: Sequence[Question], settings: DecisionSettings) -> Callable[[list[Answer]], list[Answer]] | None:
    """Return what decides all questions of a call when they are answered; None if each is decided alone."""
    if settings.is_per_question:
        return None
    return lambda answers: decide_answers(answers, questions, settings)


def pinned_accuracies(settings: DecisionSettings) -> dict[str, str]:
    """Return what a resumed run must share of the accuracies."""
    if settings.accuracies is None:
        return {}
    # In place of the name of the file, whose content may have changed.
    return {"decide_accuracies": json.dumps(dict(settings.accuracies), sort_keys=True)}
