"""`python -m benchmarks serve-overhead` and `serve-first-token`: their parts, and what they write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.serving.cost_tables import document_part, first_token_lines, overhead_lines
from benchmarks.serving.cpu_parts import CpuParts, cpu_parts
from benchmarks.serving.endless_model import make_endless
from benchmarks.serving.first_token import FirstTokenOutcome, FirstTokenPair, FirstTokenSettings
from benchmarks.serving.overhead import OverheadOutcome, OverheadRound, OverheadSettings
from latentmas_ray import LatentMAS
from latentmas_ray.errors import ModelError

BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"


def overhead_outcome() -> OverheadOutcome:
    settings = OverheadSettings(
        model="tiny",
        topology="sequential",
        task="chain",
        limit=4,
        latent_steps=1,
        max_new_tokens=128,
        batch_size=2,
        decode_batch=2,
        dtype="float32",
        repeats=3,
    )
    seconds = [
        ("driver", 10.0),
        ("server", 11.0),
        ("server", 10.4),
        ("driver", 10.2),
        ("driver", 9.8),
        ("server", 10.5),
    ]
    return OverheadOutcome(
        settings=settings,
        machine="a machine",
        most_questions=10,
        num_measured=2,
        output_tokens=128,
        num_equal=12,
        num_compared=12,
        rounds=tuple(
            OverheadRound(
                way=way, cpu=CpuParts(process=1.0, actors=total - 1.0), whole=CpuParts(actors=2 * total), seconds=1.0
            )
            for way, total in seconds
        ),
    )


def first_token_outcome() -> FirstTokenOutcome:
    settings = FirstTokenSettings(
        model="tiny",
        topology="sequential",
        task="chain",
        limit=3,
        warm_up=0,
        latent_steps=1,
        max_new_tokens=8,
        dtype="auto",
    )
    pairs = [(0.1, 0.12), (0.2, 0.21), (0.1, 0.1)]
    pairs_ = tuple(FirstTokenPair(ask=ask, stream=stream) for ask, stream in pairs)
    return FirstTokenOutcome(settings=settings, machine="a machine", pairs=pairs_)


def test_an_endless_model_writes_all_that_it_may(tmp_path: Path) -> None:
    question = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"
    counts = []
    for model in ("tiny", make_endless("tiny", tmp_path)):
        with LatentMAS(model, method="single", runtime="local", temperature=0.0, max_new_tokens=40) as mas:
            counts.append(len(mas.ask(question).answer_token_ids))
    assert counts[0] < counts[1] == 40


def test_a_model_of_the_hub_has_no_folder_to_copy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it must be tiny, small or a model's folder"):
        make_endless("owner/some-model", tmp_path)


def test_cpu_seconds_are_those_of_their_kind() -> None:
    before = cpu_parts(os.getpid())
    started = [
        subprocess.Popen([title, "-c", BURN], executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for title in ("ray::AgentActor.run_turn", "ray::IDLE")
    ]
    try:
        for one in started:
            assert one.stdout is not None
            one.stdout.readline()
        used = cpu_parts(os.getpid()).since(before)
    finally:
        for one in started:
            one.communicate(b"\n")
    assert min(used.actors, used.ray) >= 0.25
    assert used.total == pytest.approx(used.process + used.actors + used.ray)


def test_the_overhead_is_the_ratio_of_medians_with_its_spread() -> None:
    outcome = overhead_outcome()
    assert outcome.ratio == pytest.approx(10.5 / 10.0)
    assert outcome.ratios == pytest.approx([1.1, 10.4 / 10.2, 10.5 / 9.8])
    text = "\n".join(overhead_lines(outcome, "a command"))
    assert "| all processes | 10.50 (10.40–11.00) | 10.00 (9.80–10.20) | **1.050** |" in text
    assert "round by round: 1.020 to 1.100" in text
    assert "12 of 12 streamed answers" in text
    assert outcome.to_json()["ratio"] == outcome.ratio


def test_first_tokens_are_compared_question_by_question() -> None:
    outcome = first_token_outcome()
    assert (outcome.ask, outcome.stream) == (0.1, 0.12)
    assert outcome.difference == pytest.approx(0.01)
    text = "\n".join(first_token_lines(outcome, "a command"))
    assert "**1.200** of the medians; nine of ten questions between 1.000 and 1.200, median 1.050" in text
    assert outcome.to_json()["pairs"][0] == {"ask": 0.1, "stream": 0.12}


@pytest.mark.parametrize("command", ["serve-overhead", "serve-first-token"])
def test_a_document_without_the_two_lines_is_refused_first(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "figures.md"
    document.write_text("# Figures\n")
    assert main([command, "--document", str(document)]) == 2
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1
    assert "--document" in said
    assert f"the figures of {command}" in said


def test_the_parts_of_the_results_can_be_written(tmp_path: Path) -> None:
    document = tmp_path / "serving.md"
    document.write_text(Path("benchmarks/results/serving.md").read_text())
    for command in ("serve-overhead", "serve-first-token"):
        document_part(command).check(document)
        document_part(command).write(document, ["new figures"])
    assert document.read_text().count("new figures") == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve-overhead", "serve-first-token"])
def test_the_whole_of_it(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    more = ["--repeats", "1", "--batch-size", "1", "--decode-batch", "1"] if command == "serve-overhead" else []
    asked = [command, "--max-new-tokens", "8", "--latent-steps", "1", *more]
    assert main([*asked, "--limit", "12"]) == 0
    said = capfd.readouterr().out
    assert f"`python -m benchmarks {command} --limit 12" in said
    assert ("12 of 12 streamed answers" if more else "Stream over `ask`") in said
    if more:
        assert main([*asked, "--limit", "10"]) == 2
        assert "--limit: got '10'; it must be above 10: 5 are in flight" in capfd.readouterr().err
