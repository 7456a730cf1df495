"""An output folder with the answers of one rule, as a run would have written it, so that compare and report take it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentmas_ray.config import RunConfig, is_url
from latentmas_ray.errors import ConfigError, RunError
from latentmas_ray.paths import expand_home
from latentmas_ray.report.voted.ballots import Ballot, Ballots
from latentmas_ray.report.voted.evaluate import VoteOutcome
from latentmas_ray.runs.folder import encode_row, write_atomically
from latentmas_ray.runs.journal import RESULTS_NAME, Journal
from latentmas_ray.runs.results import AgentUse, Answer, Transfer
from latentmas_ray.runs.summary import summarise
from latentmas_ray.voting.rules import RuleName, VoteDecision

VOTE_NAME = "vote.json"  # what `latentmas vote --json` prints
VOTES_NAME = "votes.jsonl"  # one row per question: votes, weights, scores
_NO_COST: Mapping[str, Any] = {
    "prompt_tokens": 0,
    "latent_steps": 0,
    "output_tokens": 0,
    "memory_bytes": 0,
    "seconds": {},
}
# Settings that are the vote's own, and not those that its runs have in common.
_OWN = {"task", "model", "models", "method", "topology", "memory", "guard", "seed", "limit", "abstractions", "hints"}


def check_output(output: str) -> Path:
    """Return the folder. Raises ConfigError for a URL, a file, and a folder that has results."""
    path = Path(expand_home("output", output))
    try:
        if not output or is_url(output) or (path.exists() and not path.is_dir()):
            raise ConfigError("output", output, "it must be a folder on this machine")
        if (path / RESULTS_NAME).exists():
            raise ConfigError("output", output, f"{RESULTS_NAME} is already there; choose another folder")
    except OSError as error:  # such as a name that is too long
        raise ConfigError("output", output, f"the folder cannot be used: {error.strerror or error}") from error
    return path


def write_vote(outcome: VoteOutcome, ballots: Ballots, rule: RuleName, folder: Path) -> None:
    """Write config.yaml, results.jsonl and summary.json of the decisions of `rule` on the judged questions, and what
    was voted: vote.json, votes.jsonl.

    A row has the text of the first voter that gave the decided answer, and the agents of all voters as `VOTER/AGENT`
    with their costs and texts: a vote costs what its runs cost. Raises JournalError and RunError, as a run does.
    """
    config = _config(outcome, ballots, rule, folder)
    decisions = outcome.decisions[rule]
    pairs = list(zip(outcome.judged, decisions, strict=True))
    answers = [_answer(ballot, decision) for ballot, decision in pairs]
    with Journal.open(folder, config, [ballot.question for ballot in outcome.judged]) as journal:
        journal.record(*answers)
        journal.finish(summarise(answers, [], config=config, seconds=_seconds(ballots, len(answers))))
        try:
            told = json.dumps({"rule": rule, **outcome.report.to_json()}, indent=2, ensure_ascii=False)
            write_atomically(folder / VOTE_NAME, told.encode(errors="replace") + b"\n")
            write_atomically(folder / VOTES_NAME, b"".join(encode_row(_row(*pair)) for pair in pairs))
        except OSError as error:
            raise RunError(f"{VOTE_NAME} cannot be written to {folder}: {error.strerror or error}") from error


def _config(outcome: VoteOutcome, ballots: Ballots, rule: RuleName, folder: Path) -> RunConfig:
    configs = [voter.config for voter in ballots.voters if voter.config is not None]
    default = RunConfig()
    shared: dict[str, Any] = {}
    for name in default.identity() if configs else ():
        values = [getattr(config, name) for config in configs]
        if name not in _OWN and all(value == values[0] for value in values):
            shared[name] = values[0]
    names = {voter.name: voter.model for voter in ballots.voters if voter.model}
    model = next(iter(names.values()), Path(ballots.task).stem)
    return RunConfig(
        **shared,
        task=ballots.task,
        method="vote",
        topology=rule,
        model=model,
        models={name: one for name, one in names.items() if one != model},
        seed=outcome.report.seed,
        output=str(folder),
    )


def _answer(ballot: Ballot, decision: VoteDecision) -> Answer:
    label = decision.label
    chosen = next((name for name, given in ballot.votes.cast.items() if given == label), None)
    row = None if chosen is None else ballot.answers.get(chosen)
    return Answer(
        id=ballot.question.id,
        question=ballot.question.question,
        gold=ballot.question.gold,
        answer=ballot.texts.get(chosen, "") if chosen is not None else label or "",
        answer_token_ids=() if row is None else row.answer_token_ids,
        prediction=label if row is None else row.prediction,
        correct=None if ballot.gold is None else label == ballot.gold,
        seconds=sum(row.seconds for row in ballot.answers.values()),
        agents=dict(_uses(ballot)),
        transfers=tuple(_transfers(ballot)),
    )


def _uses(ballot: Ballot) -> Iterator[tuple[str, AgentUse]]:
    for name in ballot.votes.votes:
        row = ballot.answers.get(name)
        if row is None or not row.agents:
            yield name, AgentUse(**_NO_COST, text=ballot.texts.get(name))
            continue
        # Only the answering agent has no text of its own in a row, but for latent ones, which come before it.
        answering = [agent for agent, use in row.agents.items() if use.text is None][-1:]
        for agent, use in row.agents.items():
            yield f"{name}/{agent}", replace(use, text=row.answer) if agent in answering else use


def _transfers(ballot: Ballot) -> Iterator[Transfer]:
    for name, row in ballot.answers.items():
        for transfer in row.transfers:
            yield transfer._replace(source=f"{name}/{transfer.source}", reader=f"{name}/{transfer.reader}")


def _seconds(ballots: Ballots, num_questions: int) -> float:
    """Return the seconds that the runs took for so many questions, one run after another; 0 if one is not known."""
    each = [voter.seconds_per_question for voter in ballots.voters]
    return num_questions * sum(one for one in each if one) if all(each) else 0.0


def _row(ballot: Ballot, decision: VoteDecision) -> dict[str, Any]:
    return {
        "id": ballot.question.id,
        "label": decision.label,
        "gold": ballot.gold,
        "num_options": ballot.votes.num_options,
        "votes": dict(ballot.votes.votes),
        "weights": dict(decision.weights),
        "scores": dict(decision.scores),
        "tied": list(decision.tied) if decision.is_tie else [],
    }
