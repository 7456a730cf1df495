"""`latentmas ask` with the embedded model: what it answers, what it refuses, and questions that it makes itself."""

import json
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.tasks.trained import EXAMPLE_OF_CHAIN, EXAMPLE_OF_NOTES

HENS = "A farmer has 12 hens and buys 7 more. How many has he?"
QUICK = ["--runtime", "local", "--latent-steps", "2", "--temperature", "0"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [(EXAMPLE_OF_CHAIN, "5+3=8. \\boxed{8}\n"), (EXAMPLE_OF_NOTES, "So Tom=7, Zoe=9. 7+9=16. \\boxed{16}\n")],
)
def test_a_question_in_the_words_of_its_training_is_answered(
    question: str, answer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", question, *QUICK]) == 0
    assert capfd.readouterr() == (answer, "")


def test_another_question_is_refused_with_one_that_would_be_right(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", HENS]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: QUESTION: got '{HENS}'; the embedded model tiny only knows ")
    for words in (EXAMPLE_OF_CHAIN, "--example", "--model", "--anyway"):
        assert words in err


def test_it_is_asked_anyway_where_the_user_insists(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", HENS, "--anyway", *QUICK]) == 0
    out, err = capfd.readouterr()
    assert out.strip()
    assert err.startswith("note: the embedded model tiny only knows ")
    assert (err.count("\n"), "mean nothing" in err) == (1, True)


def test_another_model_is_asked_anything(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", HENS, "--model", "tests/golden/model", "--max-new-tokens", "2", "--runtime", "local"]) == 0
    cut_off = "warning: the text of judger is cut off at max_new_tokens; raise --max-new-tokens\n"
    assert capfd.readouterr().err == cut_off


def test_an_example_is_shown_with_its_gold(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--example", "chain", "--seed", "1", *QUICK]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert out.startswith("question Ruth has 3 toys. Then Ruth buys 7 more.")
    assert out.endswith("answer 3+7=10. 10+7=17. 17-8=9. \\boxed{9} gold 9 (the answer is right)")


def test_an_example_of_notes_shows_what_each_expert_reads(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--example", "notes", "--seed", "1", *QUICK]) == 0
    out = capfd.readouterr().out
    assert [line.split("  ")[0].strip() for line in out.splitlines() if line[1:2] not in ("", " ")] == [
        *(f"notes of expert {number}" for number in (1, 2, 3)),
        *("question", "answer", "gold"),
    ]


def test_without_a_seed_each_example_is_another_one(capfd: pytest.CaptureFixture[str]) -> None:
    questions = set()
    for _ in range(3):
        assert main(["ask", "--example", "chain", "--json", "--method", "single", "--runtime", "local"]) == 0
        questions.add(json.loads(capfd.readouterr().out)["question"])
    assert len(questions) > 1


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "error: QUESTION: got 'nothing'; give the question in quotes, or --example chain\n"),
        (["--example", "hens"], "error: --example: got 'hens'; it must be chain or notes\n"),
        (
            ["why?", "--example", "chain"],
            "error: QUESTION: got 'why?'; it cannot be used with --example; give one of the two\n",
        ),
        (
            ["--from-memory", "m", "--example", "chain"],
            "error: --from-memory: got 'm'; it cannot be used with --example; give one of the two\n",
        ),
        (
            ["why?", "--anyway", "--from-memory", "m", "--save-memory", "d"],
            "error: --save-memory: got 'd'; it cannot be used with --from-memory, where no agent makes memory to "
            "save; leave one out\n",
        ),
    ],
)
def test_what_is_asked_must_be_clear(args: list[str], line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", *args]) == 2
    assert capfd.readouterr() == ("", line)


def test_facts_that_are_in_a_memory_need_not_be_told_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", EXAMPLE_OF_NOTES, *QUICK, "--save-memory", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    capfd.readouterr()
    assert main(["ask", "How many keys has Uma?", *QUICK, "--from-memory", str(file)]) == 0
    out, err = capfd.readouterr()
    assert out == "So Uma=4. \\boxed{4}\n"
    assert err.startswith("note: --latent-steps 2 does nothing with --from-memory: the answering agent runs alone")
    assert main(["ask", "How many keys has Uma?", *QUICK]) == 2


def test_a_task_that_it_was_not_trained_for_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    run = ["--limit", "1", "--max-new-tokens", "2", "--method", "single", "--runtime", "local", "--json"]
    assert main(["eval", "--task", "sample", *run]) == 0
    assert "note: the embedded model tiny only knows" in capfd.readouterr().err
    assert main(["eval", *run]) == 0
    assert "note" not in capfd.readouterr().err
