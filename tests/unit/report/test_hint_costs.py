"""What a question costs in a run with hints: all of its hints together, not one of them."""

import json
import re
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.report.compare import compare_folders
from latentmas_ray.report.html.comparison import Compared
from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.html.headline import make_headline
from latentmas_ray.report.html.table import make_table
from latentmas_ray.report.runs import load_runs
from latentmas_ray.runs.hints.rows import HintUse
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.results import AgentUse, Answer
from latentmas_ray.runs.summary import summarise
from latentmas_ray.tasks.question import Question

NUM_QUESTIONS, SECONDS = 3, 6.0


def write_run(folder: Path, method: str, num_hints: int | None = None) -> str:
    """Three questions, or that many hints for each; every row takes 10 prompt tokens and 4 of output."""
    config = RunConfig(output=str(folder), task="made-up.jsonl", method=method, abstractions=num_hints)
    names = [f"q{index}" for index in range(NUM_QUESTIONS)]
    rows = [(name, number) for name in names for number in range(1, (num_hints or 1) + 1)]
    ids = [name if num_hints is None else f"{name}.hint-{number}" for name, number in rows]
    questions = [Question(id=one, question="?", kind="text", gold="yes", record={}) for one in ids]
    answers = [
        Answer(
            id=one,
            question="?",
            gold="yes",
            answer="",
            answer_token_ids=(),
            prediction="yes",
            correct=True,
            seconds=1.0,
            agents={"solver": AgentUse(prompt_tokens=10, latent_steps=0, output_tokens=4, memory_bytes=0, seconds={})},
            hint=None if num_hints is None else HintUse(question=name, number=number, of=num_hints, source="own"),
        )
        for one, (name, number) in zip(ids, rows, strict=True)
    ]
    with Journal.open(folder, config, questions) as journal:
        journal.record(*answers)
        journal.finish(summarise(answers, [], config=config, seconds=SECONDS))
    return str(folder)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return [write_run(tmp_path / "alone", "single"), write_run(tmp_path / "hints", "text", 4)]


def test_compared_costs_are_those_of_questions(folders: list[str]) -> None:
    alone, hints = compare_folders(folders).runs
    assert (alone.num_questions, hints.num_questions) == (NUM_QUESTIONS, NUM_QUESTIONS)
    assert (hints.output_tokens_per_question, hints.total_tokens_per_question) == (16, 56)
    assert (hints.output_tokens_to_single, hints.total_tokens_to_single) == (4, 4)
    assert alone.questions_per_second == hints.questions_per_second == NUM_QUESTIONS / SECONDS
    assert hints.speed_to_single == 1


def test_so_are_those_of_the_report(folders: list[str]) -> None:
    entries = tuple(Entry(f"r{at}", folder, tuple(load_runs(folder))) for at, folder in enumerate(folders))
    group = Group("made-up", "tiny", entries)
    alone, hints = make_table(Compared(group), with_published=False).rows
    assert (alone.num_questions.value, hints.num_questions.value) == (NUM_QUESTIONS, NUM_QUESTIONS)
    assert (alone.output_tokens.value, hints.output_tokens.value) == (4, 16)
    assert (alone.total_tokens.value, hints.total_tokens.value) == (14, 56)
    assert hints.output_tokens_ratio.value == 4
    assert alone.speed.value == hints.speed.value == NUM_QUESTIONS / SECONDS
    (sentence,) = make_headline(group)
    assert sentence.endswith("in the same time, with 4.0 times as many decoded tokens.")


def test_a_run_says_that_it_counts_hints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--task", "chain", "--topology", "abstraction", "--method", "text", "--abstractions", "2", "--limit", "2"]
    assert (
        main(["eval", *flags, "--runtime", "local", "--max-new-tokens", "40", "--output", str(tmp_path / "run")]) == 0
    )
    out = capsys.readouterr().out
    assert re.search(r"questions +4, counted once for each of 2 hints\n", re.sub(r" +\n", "\n", out))
    assert "tokens per hint" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["num_questions"] == 4
