"""Ballots from the output folders of runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from latentmas_ray.errors import ConfigError, InputError, JournalError, TaskError
from latentmas_ray.paths import expand_home
from latentmas_ray.report.compared_run import ComparedRun, check_same_questions, read_compared
from latentmas_ray.report.runs import FinishedRun
from latentmas_ray.report.voted.ballots import OPEN, Ballots, GivenAnswers, Voter, make_ballots
from latentmas_ray.report.voted.vote_file import ballots_of_file
from latentmas_ray.runs.folder import read_file, read_yaml
from latentmas_ray.runs.hints.rows import question_of
from latentmas_ray.runs.journal import CONFIG_NAME, STARTED_IN
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks.files import BUILTIN_TASKS, load_task
from latentmas_ray.tasks.hints.copies import copy_id
from latentmas_ray.tasks.inference import Inference
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.record import check_record
from latentmas_ray.tasks.registry import find_benchmark


def ballots_of(given: Sequence[str], num_options: int | str | None = None) -> Ballots:
    """Return the votes of output folders, or of one file of votes."""
    if len(given) == 1:
        path = Path(expand_home("RUN", given[0]))
        try:
            if path.is_file():
                return ballots_of_file(path, num_options)
        except OSError:  # such as a name that is too long: told as a folder that is not there
            pass
    return ballots_of_runs(given, num_options)


def ballots_of_runs(folders: Sequence[str], num_options: int | str | None = None) -> Ballots:
    """Return the votes of runs, one voter for each seed and each hint of each folder, on the questions that all of them
    were asked. A question that a run failed on, or answered without a prediction, has no vote of it.

    Raises ConfigError for fewer than two runs and a repeated folder, JournalError for a folder without a run and for
    runs of other questions, and what `make_ballots` raises.
    """
    compared = _read(folders)
    runs = _by_name(compared)
    if len(runs) < 2:
        raise ConfigError("RUN", " ".join(folders), "it takes at least two runs to vote, or one FILE.jsonl of votes")
    check_same_questions([replace(compared[0], runs=tuple(runs.values()))])
    rows = {name: {answer.id: answer for answer in run.answers} for name, run in runs.items()}
    asked = {name: {*rows[name], *(failure.id for failure in run.failures)} for name, run in runs.items()}
    first, *others = runs
    for name in others:
        if not asked[name] & asked[first]:
            expected = f"it has no question of {runs[first].folder}; vote over runs of the same questions"
            raise JournalError("RUN", str(runs[name].folder), expected)
    shared = [question for question in rows[first] if all(question in found for found in asked.values())]
    if not shared:
        raise JournalError("RUN", str(runs[first].folder), "it has answered no question that all others were asked")
    questions, notes = _questions(runs[first], [rows[first][question] for question in shared])
    given = [
        _given(questions[question], {name: found[question] for name, found in rows.items() if question in found}, runs)
        for question in shared
    ]
    ballots, words = make_ballots(given, num_options, default=OPEN)
    left_out = len(set().union(*asked.values())) - len(shared)
    if left_out:
        notes = [
            *notes,
            f"questions that not all runs were asked, or that the first one failed on, are left out: {left_out}",
        ]
    unfinished = [name for name, run in runs.items() if run.summary is None]
    if unfinished:
        notes = [*notes, f"not finished, so its answers so far are counted: {', '.join(unfinished)}"]
    return Ballots(
        task=runs[first].config.task,
        voters=tuple(_voter(name, run) for name, run in runs.items()),
        ballots=ballots,
        num_options=words,
        notes=tuple(notes),
    )


def _voter(name: str, run: FinishedRun) -> Voter:
    speed = 0.0 if run.summary is None else run.summary.questions_per_second
    return Voter(
        name=name,
        model=run.config.model_names,
        config=run.config,
        seconds_per_question=1 / speed if speed > 0 else None,
    )


def _read(folders: Sequence[str]) -> list[ComparedRun]:
    paths: list[Path] = []
    for folder in folders:
        path = Path(expand_home("RUN", folder))
        try:
            place, is_file = path.resolve(), path.is_file()
        except (OSError, RuntimeError) as error:  # a name that is too long; links in a circle
            raise ConfigError("RUN", folder, "there is no such folder; give the output folder of a run") from error
        if is_file:
            raise ConfigError("RUN", folder, "it is a file; give output folders of runs, or one FILE.jsonl alone")
        if place in paths:
            raise ConfigError("RUN", folder, "it is given twice; give each run once")
        paths.append(place)
    return [read_compared(folder, expand_home("RUN", folder)) for folder in folders]


def _by_name(compared: Sequence[ComparedRun]) -> dict[str, FinishedRun]:
    """Return the runs by the names of their folders, where these differ, else by their paths; with the seed where a
    folder has several, and the hint where it has several of these."""
    short = Counter(Path(run.folder).resolve().name for run in compared)
    found = {}
    for run in compared:
        name = Path(run.folder).resolve().name
        name = name if short[name] == 1 else run.folder.rstrip("/")
        for one in run.runs:
            whole = name if len(run.runs) == 1 else f"{name}/seed-{one.config.seed}"
            found.update({whole + suffix: part for suffix, part in _by_hint(one).items()})
    return found


def _by_hint(run: FinishedRun) -> dict[str, FinishedRun]:
    """Return a run with hints as one run for each of them, by what is added to its name: the answers of each are to the
    questions that its rows are about, not to copies. Return any other run as it is."""
    num_hints = run.config.abstractions
    if num_hints is None:
        return {"": run}
    found = {}
    for number in range(1, num_hints + 1):
        end = copy_id("", number)
        answers = [one for one in run.answers if one.hint is not None and one.hint.number == number]
        failures = [one for one in run.failures if one.id.endswith(end)]
        found[f"/hint-{number}" if num_hints > 1 else ""] = replace(
            run,
            answers=tuple(replace(one, id=question_of(one)) for one in answers),
            failures=tuple(replace(one, id=one.id.removesuffix(end)) for one in failures),
        )
    return found


def _given(question: Question, rows: Mapping[str, Answer], runs: Mapping[str, FinishedRun]) -> GivenAnswers:
    return GivenAnswers(
        question=question,
        predictions={name: rows[name].prediction if name in rows else None for name in runs},
        right=next((row.prediction for row in rows.values() if row.correct), None),
        answers=rows,
        texts={name: row.answer for name, row in rows.items()},
    )


def _questions(run: FinishedRun, rows: Sequence[Answer]) -> tuple[dict[str, Question], list[str]]:
    """Return the questions of these rows with their kinds and options: from the run's task, else from the rows."""
    task = _task_file(run)
    if task is not None:
        try:
            known = {question.id: question for question in load_task(task).questions}
        except InputError:
            known = {}
        asked = [(row.question, row.gold) for row in rows]
        if [(one.question, one.gold) for row in rows if (one := known.get(row.id)) is not None] == asked:
            return {row.id: known[row.id] for row in rows}, []
    benchmark = find_benchmark(run.config.task)
    told = (
        [] if benchmark else [f"the task {run.config.task} is not here as it was: its questions are read from the runs"]
    )
    kind = {"kind": benchmark.kind} if benchmark and benchmark.kind != "code" else {}
    if benchmark and benchmark.kind == "code":
        raise TaskError("task", run.config.task, "its answers are programs, on which there is no vote")
    inference = Inference(run.config.task)
    drafts = []
    for row in rows:
        gold = {} if row.gold is None else {"gold": row.gold}
        drafts.append(
            check_record({"id": row.id, "question": row.question, **gold, **kind}, where=f"question {row.id}: ")
        )
        inference.add(drafts[-1])
    inference.decide()
    return {draft.id: inference.question(draft) for draft in drafts}, told


def _task_file(run: FinishedRun) -> str | None:
    """Return the run's task if it is built in or a file here; None for any other."""
    task = run.config.task
    if task in BUILTIN_TASKS:
        return task
    started_in = read_yaml(read_file(run.folder / CONFIG_NAME)).get(STARTED_IN)
    bases = (*([Path(started_in)] if isinstance(started_in, str) else []), Path())
    try:
        return next((str(base / task) for base in bases if (base / task).is_file()), None)
    except OSError:  # such as a name that is too long
        return None
