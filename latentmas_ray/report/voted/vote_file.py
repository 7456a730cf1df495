"""Ballots from a file with one answer a line: question, agent, answer, and where they are known gold and options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentmas_ray.errors import TaskError
from latentmas_ray.report.voted.ballots import Ballots, GivenAnswers, Voter, make_ballots
from latentmas_ray.runs.folder import read_file, read_json
from latentmas_ray.tasks.grading.number import is_plain_number
from latentmas_ray.tasks.question import AnswerKind, Question

_FORM = "it must be one JSON object with question, agent and answer"


@dataclass
class _Votes:
    """What the lines so far say about one question."""

    answers: dict[str, str | None] = field(default_factory=dict)  # by agent
    gold: str | None = None
    options: int | tuple[str, ...] | None = None


def ballots_of_file(path: Path, num_options: int | str | None = None) -> Ballots:
    """Return the votes of a file: JSON objects with `question` and `agent` (texts or whole numbers), `answer` (a text,
    a number, or null for none), `gold`, and `options`: how many there are, or a list of all. An answer that is not
    among listed options is no vote.

    Raises TaskError, with `FILE:LINE`, for a line of another form, a second answer of an agent to a question, and lines
    that contradict each other; TaskError for fewer than two agents; and what `make_ballots` raises.
    """
    questions: dict[str, _Votes] = {}
    try:
        lines = read_file(path).split(b"\n")
    except OSError as error:
        raise TaskError("FILE", str(path), f"it cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _add(questions, line, f"{path.name}:{number}")
    agents = list(dict.fromkeys(agent for votes in questions.values() for agent in votes.answers))
    if len(agents) < 2:
        expected = f"it must have the answers of at least two agents, and has those of {len(agents)}"
        raise TaskError("FILE", str(path), expected)
    kind = _kind(questions)
    given = [_given(name, votes, agents, kind) for name, votes in questions.items()]
    ballots, words = make_ballots(given, num_options)
    return Ballots(
        task=str(path),
        voters=tuple(Voter(name=agent) for agent in agents),
        ballots=ballots,
        num_options=words,
    )


def _add(questions: dict[str, _Votes], line: bytes, place: str) -> None:
    row = _parsed(line, place)
    name, agent = _name(row, "question", place), _name(row, "agent", place)
    if "answer" not in row:
        raise TaskError(f"{place}: answer", "nothing", "each line must have one; null where the agent gave none")
    votes = questions.setdefault(name, _Votes())
    if agent in votes.answers:
        raise TaskError(f"{place}: agent", agent, f"it has answered question {name} in a line before; remove one")
    votes.answers[agent] = _text(row["answer"], f"{place}: answer") or None
    if row.get("gold") is not None:
        if not (gold := _text(row["gold"], f"{place}: gold")):
            raise TaskError(f"{place}: gold", row["gold"], "it must not be empty; leave it out where it is not known")
        votes.gold = _same(votes.gold, gold, f"{place}: gold")
    if row.get("options") is not None:
        votes.options = _same(votes.options, _options(row["options"], f"{place}: options"), f"{place}: options")
    if isinstance(votes.options, tuple) and votes.gold is not None and votes.gold not in votes.options:
        raise TaskError(f"{place}: gold", votes.gold, f"it must be one of the options {', '.join(votes.options)}")


def _parsed(line: bytes, place: str) -> Mapping[str, Any]:
    try:
        row = read_json(line.decode().encode())
    except ValueError:
        raise TaskError(place, line.decode(errors="replace"), _FORM) from None
    if not isinstance(row, dict):
        raise TaskError(place, line.decode(errors="replace"), _FORM)
    return row


def _name(row: Mapping[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.strip():
        raise TaskError(f"{place}: {key}", "nothing" if value is None else value, "it must be a text or a whole number")
    return text.strip()


def _text(value: object, where: str) -> str:
    """Return the text of an answer; empty for none."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TaskError(where, value, "it must be a text or a number")
    return str(value).strip()


def _options(value: object, where: str) -> int | tuple[str, ...]:
    if isinstance(value, list):
        labels = tuple(_text(one, where) for one in value)
        if len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels):
            raise TaskError(where, value, "it must have at least 2 options, all different")
        return labels
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise TaskError(where, value, "it must be the number of options, at least 2, or the list of them")
    return value


def _same(was: Any, now: Any, where: str) -> Any:
    if was not in (None, now):
        raise TaskError(where, now, f"a line before has {was!r} for this question; it must have the same")
    return now


def _kind(questions: Mapping[str, _Votes]) -> AnswerKind:
    """Numbers are compared by value if all answers and golds of the file are some, else everything as text."""
    texts = [text for votes in questions.values() for text in (*votes.answers.values(), votes.gold) if text]
    return "number" if all(map(is_plain_number, texts)) else "text"


def _given(name: str, votes: _Votes, agents: list[str], kind: AnswerKind) -> GivenAnswers:
    return GivenAnswers(
        question=Question(id=name, question=name, kind=kind, gold=votes.gold, record={}),
        predictions={agent: votes.answers.get(agent) for agent in agents},
        options=votes.options if isinstance(votes.options, tuple) else (),
        num_options=votes.options if isinstance(votes.options, int) else None,
        answers={},
        texts={agent: text for agent, text in votes.answers.items() if text is not None},
    )
