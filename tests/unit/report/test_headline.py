"""The headline of a report: gains with their uncertainty and costs, also where there is no gain."""

import json
from pathlib import Path

import pytest

from latentmas_ray.config import RunConfig
from latentmas_ray.report import load_runs
from latentmas_ray.report.html.groups import make_groups
from latentmas_ray.report.html.headline import make_headline
from tests.cases.report import make_answer, parts_of, write_run, write_simple_run


def headline(*folders: Path) -> tuple[str, ...]:
    (group,) = make_groups([load_runs(folder) for folder in folders])
    return make_headline(group)


def set_speed(folder: Path, questions_per_second: float, **changes: object) -> Path:
    path = folder / "summary.json"
    summary = json.loads(path.read_text()) | {"questions_per_second": questions_per_second} | changes
    path.write_text(json.dumps(summary))
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return set_speed(write_simple_run(tmp_path / "text", "1" * 8 + "0" * 32, method="text"), 1.0)


def latent(tmp_path: Path, right: str, speed: float = 3.1, name: str = "latent", **config: object) -> Path:
    return set_speed(write_simple_run(tmp_path / name, right, method="latent", **config), speed)


def test_a_gain_has_its_interval_time_and_tokens(tmp_path: Path, text: Path) -> None:
    (sentence,) = headline(text, latent(tmp_path, "1" * 20 + "0" * 20))
    assert sentence.startswith("Latent answers 12 more of 40 questions right than text (+30.0 points, 95 % interval +1")
    assert sentence.endswith("), in 68 % less time, with 68 % fewer decoded tokens.")


def test_it_compares_with_text_and_with_one_agent_alone(tmp_path: Path, text: Path) -> None:
    single = set_speed(write_simple_run(tmp_path / "single", "0" * 40), 9.3)
    first, second = headline(single, text, latent(tmp_path, "1" * 20 + "0" * 20))
    assert "than text" in first
    assert second.startswith("Latent answers 20 more of 40 questions right than one agent alone (+50.0 points")
    assert second.endswith(", in 3.0 times the time, with as many decoded tokens.")


def test_a_loss(tmp_path: Path, text: Path) -> None:
    (sentence,) = headline(set_speed(text, 1.2), latent(tmp_path, "0" * 40, speed=1.0))
    assert sentence.startswith("Latent answers 8 fewer of 40 questions right than text (−20.0 points, 95 % interval −3")
    assert "they differ on 8 questions only, so the interval is rough" in sentence
    assert ", in 20 % more time, " in sentence


def test_a_difference_that_may_be_chance(tmp_path: Path, text: Path) -> None:
    (sentence,) = headline(text, latent(tmp_path, "0" * 7 + "1" * 10 + "0" * 23))
    assert sentence.startswith(
        "Latent answers 2 more of 40 questions right than text, which may be chance (+5.0 points"
    )
    assert ": 0 is in it)" in sentence


def test_no_difference(tmp_path: Path, text: Path) -> None:
    (sentence,) = headline(text, latent(tmp_path, "0" * 32 + "1" * 8))
    assert sentence.startswith("Latent answers as many of 40 questions right as text (0.0 points, 95 % interval −")


def test_one_run_has_no_gain(tmp_path: Path) -> None:
    (sentence,) = headline(latent(tmp_path, "1110"))
    assert sentence.startswith("Latent answers 3 of 4 questions right (75.0 %, 95 % interval ")
    assert sentence.endswith(" One run alone shows no gain: add one to compare it with.")


def test_runs_of_other_questions_are_not_compared(tmp_path: Path) -> None:
    config = RunConfig(task="sums", method="text")
    other = write_run(tmp_path / "text", [make_answer(number, config) for number in (7, 8)], config=config)
    (sentence,) = headline(other, latent(tmp_path, "10"))
    assert sentence == (
        "Latent and text have no graded question in common and cannot be compared: 50.0 % and 100.0 % are right, on "
        "different questions."
    )


def test_costs_of_other_questions_are_left_out(tmp_path: Path, text: Path) -> None:
    (sentence,) = headline(text, latent(tmp_path, "1" * 20))
    assert "of 20 questions" in sentence
    assert "time" not in sentence
    assert "tokens" not in sentence


@pytest.mark.parametrize(("speed", "num_resumed"), [(1.0, 3), (0.0, 0)])
def test_a_time_that_is_not_that_of_the_run_is_left_out(
    tmp_path: Path, text: Path, speed: float, num_resumed: int
) -> None:
    (sentence,) = headline(set_speed(text, speed, num_resumed=num_resumed), latent(tmp_path, "1" * 40))
    assert "time" not in sentence
    assert "fewer decoded tokens" in sentence


def test_it_says_that_the_best_of_several_was_chosen(tmp_path: Path, text: Path) -> None:
    folders = [latent(tmp_path, "1" * (10 + m) + "0" * (30 - m), name=f"m{m}", latent_steps=m) for m in (2, 10)]
    first, chosen = headline(text, *folders)
    assert first.startswith("Latent (m\u00a0=\u00a010) answers 12 more of 40 questions right than text")
    assert chosen.startswith("Latent (m\u00a0=\u00a010) is the best of 2 latent runs, chosen by these questions")
    (alone,) = headline(*folders)
    assert alone == (
        "The accuracies of these 2 runs lie between 30.0 % for latent (m\u00a0=\u00a02) and 50.0 % for latent "
        "(m\u00a0=\u00a010)."
    )


def test_without_another_method_it_compares_with_the_control(tmp_path: Path) -> None:
    control = latent(tmp_path, "0" * 40, name="deranged", memory="deranged")
    (sentence,) = headline(latent(tmp_path, "1" * 30 + "0" * 10), control)
    assert sentence.startswith(
        "Latent answers 30 more of 40 questions right than latent (deranged memory) (+75.0 points"
    )


def test_over_seeds_it_has_no_number_of_questions(tmp_path: Path, text: Path) -> None:
    for seed, right in ((1, "1" * 20 + "0" * 20), (2, "1" * 21 + "0" * 19)):
        write_simple_run(tmp_path / "seeds" / f"seed-{seed}", right, method="latent", seed=seed)
    (sentence,) = headline(text, tmp_path / "seeds")
    assert "answers more of 40 questions right than text" in sentence
    assert "(+31.2 points" in sentence or "(+31.3 points" in sentence


def test_an_unfinished_run(tmp_path: Path, text: Path) -> None:
    folder = latent(tmp_path, "1" * 40)
    (folder / "summary.json").unlink()
    assert headline(text, folder)[-1] == "Latent is not finished: only its answers so far are counted."


def test_without_answers_or_golds_there_is_no_gain(tmp_path: Path) -> None:
    assert headline(write_simple_run(tmp_path / "none", "")) == ("No question has an answer yet.",)
    (sentence,) = headline(write_simple_run(tmp_path / "ungraded", "--"))
    assert sentence == "No question has a gold answer, so no answer is graded."


def test_the_page_begins_with_it(tmp_path: Path, text: Path) -> None:
    page = parts_of([text, latent(tmp_path, "1" * 20 + "0" * 20)]).text
    assert page.index("Latent answers 12 more of 40 questions right") < page.index("Results")
