"""Front-loading reasoning data: problems, data mixes, training that resumes, grading, cells and tables."""

from argparse import Namespace
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from examples.tiny_model.document import Document
from examples.training.front_loading.__main__ import STUDY
from examples.training.front_loading.cells import cells_of_seed, make_cells, run_cell, verdicts_by_seed
from examples.training.front_loading.documents import (
    CONTROLS,
    END_ID,
    MIXES,
    PAD_ID,
    PLAIN,
    DocumentMaker,
    MixStream,
    high_quality,
    make_tokenizer,
    mixed_quality,
    worked_answer,
)
from examples.training.front_loading.families import FAMILIES, NARROW, WORDS, is_held_out, make_problem
from examples.training.front_loading.judge import MAX_ANSWER, answer_in, grade, held_out_problems, write_answers
from examples.training.front_loading.plot import plot_stages
from examples.training.front_loading.rewards import advantages_of, token_log_probabilities
from examples.training.front_loading.sizes import ModelSize, PoolSizes, minute_size
from examples.training.front_loading.supervised import new_model, rate_at
from examples.training.front_loading.tables import FINDINGS, Finding, make_tables, verdict_on
from examples.training.studies.cell import CellRun, StudyCell
from examples.training.studies.command import study_command
from examples.training.studies.folder import StudyRow, pack, unpack
from latentmas_ray.stats import MeanInterval

SIZES = PoolSizes(small=30, large=60)
SIZE = minute_size()
TOKENIZER = make_tokenizer()


def stream_of(mix: str, *, share: float = 0.2, seed: int = 1) -> MixStream:
    return MixStream(DocumentMaker(TOKENIZER), mix, SIZES, share=share, marks=PLAIN, seed=seed)


def text_of(document: Document) -> str:
    return str(
        TOKENIZER.decode([token for part in document.branches[0] for token in part.ids], skip_special_tokens=False)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_a_problem_has_its_steps_and_only_known_words(family: str, num_steps: int) -> None:
    rng = Random(f"{family} {num_steps}")
    for _ in range(50):
        problem = make_problem(rng, family, num_steps)
        assert len(problem.steps) == num_steps
        assert problem.answer in problem.steps[-1].split() or family == "swap"
        assert set(f"{problem.question} {' '.join(problem.steps)} {problem.answer}".split()) <= set(WORDS)
        assert len(worked_answer(problem).split()) < MAX_ANSWER


def test_answers_are_right() -> None:
    """Each family's answer by another way, from the question alone."""

    def solve(family: str, words: list[str]) -> str:
        if family == "account":
            value = int(words[1])
            for word, number in zip(words[2:-1:2], words[3:-1:2], strict=True):
                value += int(number) if word == "add" else -int(number)
            return str(value)
        if family == "clock":
            return str(sum(map(int, (word for word in words if word.isdigit()))) % 12)
        if family in ("follow", "climb"):
            pairs = [
                pair.split()
                for pair in " ".join(words).replace(" from ", " , from ").replace(" top ", " , top ").split(" , ")
            ]
            arrows = (
                {one: other for one, _, other in pairs[:-1]}
                if family == "follow"
                else {low: up for up, _, low in pairs[:-1]}
            )
            place = pairs[-1][1] if family == "follow" else pairs[-1][2]
            for _ in range(int(pairs[-1][3]) if family == "follow" else 99):
                place = arrows.get(place, place)
            return place
        if family == "swap":
            boxes, places = words[1:4], ("first", "second", "third")
            for one, other in zip(words[5:-2:3], words[6:-2:3], strict=True):
                i, j = places.index(one), places.index(other)
                boxes[i], boxes[j] = boxes[j], boxes[i]
            return boxes[places.index(words[-1])]
        if family == "turn":
            sides = ("north", "east", "south", "west")
            quarter = sum({"right": 1, "left": 3, "back": 2}[word] for word in words[2:-1])
            return sides[(sides.index(words[1]) + quarter) % 4]
        if family == "count":
            return str(words[1:-2].count(words[-1]))
        return str(sorted(map(int, words[1:-2]), reverse=True)[int(words[-1]) - 1])

    rng = Random(7)
    for family in FAMILIES:
        for _ in range(30):
            problem = make_problem(rng, family, rng.randint(1, 4))
            assert solve(family, problem.question.split()) == problem.answer, problem


def test_no_training_data_has_a_question_of_the_test() -> None:
    asked = {problem.question for problem in held_out_problems(160)}
    assert all(map(is_held_out, asked))
    assert Counter(problem.family for problem in held_out_problems(160)) == dict.fromkeys(FAMILIES, 20)
    documents = [text_of(one) for mix in ("small", "large") for one in islice(stream_of(mix, share=0.9), 300)]
    trained = {text.removeprefix("problem ").partition(" work")[0] for text in documents if text.startswith("problem")}
    assert len(trained) > 100
    assert not any(map(is_held_out, trained))
    assert held_out_problems(16) == held_out_problems(16)


def test_the_small_set_is_narrow_long_and_right_and_the_large_one_is_not() -> None:
    rng = Random(1)
    small = [high_quality(rng) for _ in range(200)]
    large = [mixed_quality(rng) for _ in range(2000)]
    assert {problem.family for problem, _ in small} == set(NARROW)
    assert {problem.family for problem, _ in large} == set(FAMILIES)
    assert all(answer == worked_answer(problem) for problem, answer in small)
    assert min(len(problem.steps) for problem, _ in small) == 3
    right = sum(answer.endswith(f"so {problem.answer}") for problem, answer in large) / len(large)
    complete = sum(answer == worked_answer(problem) for problem, answer in large) / len(large)
    bare = sum(answer == f"so {problem.answer}" for problem, answer in large) / len(large)
    assert 0.8 < right < 0.95
    assert 0.4 < complete < 0.55
    assert 0.2 < bare < 0.35


@pytest.mark.parametrize("mix", [*MIXES, *CONTROLS])
def test_mixes_have_equal_shares_and_say_how_often_data_repeats(mix: str) -> None:
    stream = stream_of(mix)
    seen = Counter(text_of(document) for document in islice(stream, 1200))
    told = stream.figures()
    total = told["base_tokens"] + told["reasoning_tokens"]
    assert told["reasoning_tokens"] / total == pytest.approx(0.0 if mix == "none" else 0.2, abs=0.01)
    sizes = {"none": 0, "small": 30, "large": 60, "union": 90, "small-fresh": 60, "large-repeated": 30}
    assert len(stream.pool) == sizes[mix]
    pooled = [text_of(document) for document in stream.pool]
    if pooled:
        drawn = told["epochs"] * len(pooled)
        assert drawn == stream.state.drawn["reasoning"]
        # Every document as often as any other, but for the epoch that has begun.
        often = {seen[text] // pooled.count(text) for text in pooled if pooled.count(text) == 1}
        assert max(often) - min(often) <= 1


def test_a_stream_that_resumes_gives_the_same_documents() -> None:
    whole = [text_of(document) for document in islice(stream_of("union"), 300)]
    first, later = stream_of("union"), stream_of("union")
    assert [text_of(document) for document in islice(first, 170)] == whole[:170]
    later.state = first.state
    assert [text_of(document) for document in islice(later, 130)] == whole[170:]
    assert whole != [text_of(document) for document in islice(stream_of("union", seed=2), 300)]


def cells_by_name() -> dict[str, StudyCell]:
    return {cell.name: cell for cell in cells_of_seed(SIZE, 1, [*MIXES, *CONTROLS])}


def test_the_cells_of_a_seed() -> None:
    names = list(cells_by_name())
    assert len(names) == 6 + 4 * 6 + 2 + 2
    assert cells_by_name()["rl-union-1"].after == ("sft-union-small-1",)
    single, doubled = (cells_by_name()[f"sft-none-large{more}-1"] for more in ("", "x2"))
    assert doubled.settings["training"]["num_steps"] == 2 * single.settings["training"]["num_steps"]
    given = Namespace(seeds=(1, 2), minute=True, mixes="none,union", questions=None)
    assert len(make_cells(given)) == 2 * 2 * (1 + 6 + 1)


@pytest.mark.parametrize("name", ["pretrain-union-1", "sft-union-small-1", "rl-union-1"])
def test_a_cell_that_resumes_gives_what_an_undisturbed_one_gives(name: str) -> None:
    """From every state that it saves."""
    cell = cells_by_name()[name]
    torch.manual_seed(0)
    start = new_model(SIZE.model, TOKENIZER.get_vocab_size(), 9).state_dict()
    weights = dict.fromkeys(cell.after, start)
    states: list[bytes] = []
    whole = run_cell(CellRun(cell, weights, write=lambda state: states.append(pack(state)), save_seconds=0.0))
    assert len(states) >= 2
    again = run_cell(CellRun(cell, weights, unpack(states[0])))
    assert again.figures == whole.figures
    assert whole.weights is not None
    assert again.weights is not None
    for key, value in whole.weights.items():
        torch.testing.assert_close(again.weights[key], value)
    assert len(whole.figures["verdicts"]) == SIZE.num_questions


def test_training_makes_the_loss_smaller() -> None:
    """A hundred small steps on one set, from the loss of guessing."""
    cell = StudyCell(
        name="c",
        seed=1,
        settings={
            "model": {"hidden_size": 32, "num_layers": 2},
            "num_questions": 16,
            "pools": {"small": 20, "large": 20},
            "data": "small",
            "training": {"num_steps": 100, "reasoning": 1.0, "num_rows": 2},
        },
    )
    assert run_cell(CellRun(cell, {})).figures["loss"] < 1.5  # of guessing: 4.4


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 200) for step in range(200)]
    assert rates[0] < 0.1
    assert rates[50] == 1.0
    assert rates[-1] == 0.02


def test_an_answer_is_the_word_after_so() -> None:
    assert answer_in("3 + 4 = 7 ; so 7 <end> so 8") == "7"
    assert answer_in("3 + 4 = 7") is None
    assert answer_in("3 so <end>") is None
    problem = make_problem(Random(1), "account", 2)
    rows = [TOKENIZER.encode(f"{worked_answer(problem)} <end>").ids, TOKENIZER.encode("so to <end>").ids]
    longest = max(map(len, rows))
    padded = torch.tensor([row + [PAD_ID] * (longest - len(row)) for row in rows])
    assert grade(TOKENIZER, [problem, problem], padded) == [True, False]


def test_a_model_writes_the_same_whatever_is_written_at_the_same_time() -> None:
    """Prompts are padded on the left, which changes no answer."""
    model = new_model(ModelSize(hidden_size=32, num_layers=2), TOKENIZER.get_vocab_size(), 3)
    short, long = [5, 6, 7], list(range(5, 25))
    alone, together = write_answers(model, TOKENIZER, [short])[1], write_answers(model, TOKENIZER, [short, long])[1]
    shared = min(alone.shape[1], together.shape[1])
    assert alone[0, :shared].tolist() == together[0, :shared].tolist()


def test_the_probabilities_of_written_tokens_are_those_of_the_model() -> None:
    """With a prompt padded on the left, as without."""
    model = new_model(ModelSize(hidden_size=32, num_layers=2), TOKENIZER.get_vocab_size(), 3)
    prompt, written = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9, END_ID]])
    plain = model(torch.cat([prompt, written], 1)).logits.float().log_softmax(-1)
    expected = [plain[0, 2 + place, token].item() for place, token in enumerate(written[0].tolist())]
    padded = torch.cat([torch.full((1, 4), PAD_ID), prompt], 1)
    for some in (prompt, padded):
        found = token_log_probabilities(model, some, written)
        assert found[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_advantages_are_normalised_by_problem() -> None:
    found = advantages_of(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    assert found[0].tolist() == pytest.approx([0.866, -0.866, -0.866, 0.866], abs=1e-3)
    assert found[1].tolist() == [0.0] * 4


def row(name: str, seed: int, verdicts: str, **figures: Any) -> StudyRow:
    told = {
        "verdicts": verdicts,
        "base_tokens": 80,
        "reasoning_tokens": 20,
        "pool_tokens": 10,
        "epochs": 2.0,
        **figures,
    }
    return StudyRow(
        cell=f"{name}-{seed}", seed=seed, settings={}, after=[], figures=told, cpu_seconds=1.0, weights=None
    )


def test_tables_compare_by_seed_and_by_question(tmp_path: Path) -> None:
    worse, better = "10000000" * 4, "11110000" * 4
    rows = [row("pretrain-none", seed, worse) for seed in (1, 2, 3)]
    rows += [row("pretrain-small", seed, better) for seed in (1, 2, 3)]
    tables = {table.title.split(" (")[0]: table for table in make_tables(rows)}
    small = tables["After pretraining"].rows[1]
    assert list(small) == ["small", "80", "20", "10", "2.0", "50.0 ± 0.0", "100.0 ± 0.0", "0.0 ± 0.0"]
    (finding,) = tables["The paper's findings here"].rows
    assert (finding[2], finding[4]) == ("+37.5 ± 0.0", "yes")
    assert tables["After fine-tuning on each set, all families"].rows == []
    assert verdicts_by_seed(rows, "pretrain-small") == dict.fromkeys((1, 2, 3), better)
    assert verdicts_by_seed(rows, "pretrain") == {}
    plot_stages(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("sign", "mean", "half_width", "verdict"),
    [
        (1, 0.1, 0.05, "yes"),
        (1, 0.1, 0.2, "unclear"),
        (1, -0.1, 0.05, "no"),
        (-1, -0.1, 0.05, "yes"),
        (-1, 0.1, 0.05, "no"),
        (0, 0.1, 0.2, "yes"),
        (0, 0.1, 0.05, "no"),
        (1, 0.1, None, "one seed"),
    ],
)
def test_a_finding_agrees_where_its_interval_excludes_the_rest(
    sign: int, mean: float, half_width: float | None, verdict: str
) -> None:
    interval = MeanInterval(mean=mean, half_width=half_width, num_values=3)
    assert verdict_on(Finding("f", "a", "b", sign), interval) == verdict


def test_findings_name_cells_that_there_are() -> None:
    names = {name.removesuffix("-1") for name in cells_by_name()}
    assert {name for one in FINDINGS for name in (one.base, one.other)} <= names


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mixes", "none,medium"], "--mixes: got 'medium'; it must be one of none, small, large, union"),
        (["--questions", "8"], "--questions: got '8'; it must be at least 16: two of each family"),
        (["--questions", "many"], "argument --questions: invalid int value"),
        (["--only", "pretrain-medium-*"], "--only: got 'pretrain-medium-*'; it must match a cell"),
    ],
)
def test_bad_input_is_one_line_and_makes_no_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert study_command(STUDY, [str(tmp_path / "folder"), *flags]) == 2
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "folder").exists()
