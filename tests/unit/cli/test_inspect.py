"""`latentmas inspect` on a small run: what it shows, and what it says to a mistake."""

from dataclasses import replace
from pathlib import Path

import pytest

from latentmas_ray import LatentMAS, RunConfig
from latentmas_ray.cli.main import main
from latentmas_ray.cli.render.inspect_tables import thought_table
from latentmas_ray.cli.render.run_tables import results_console
from latentmas_ray.engine.diagnostics.trace import Alarm, Thought
from latentmas_ray.report.inspect import describe_alarm


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions, of which two are traced."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    config = RunConfig(
        task="notes", topology="hierarchical", limit=3, trace=2, runtime="local", latent_steps=3, max_new_tokens=12,
        temperature=0, output=str(folder),
    )  # fmt: skip
    with LatentMAS(config) as system:
        system.evaluate()
    return folder


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["inspect", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_question_is_shown_from_its_prompts_to_its_answer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, run, "--question", "notes-1", "--width", 100)
    assert out.count("prompt ") == 4
    assert out.count("thoughts ") == 3
    for heading in ("expert_1 ─", "expert_2 ─", "expert_3 ─", "answerer ─", "answer ─"):
        assert heading in out
    assert out.index("read ") < out.index("nats") < out.index("wrote ")
    assert "gold 39" in out
    assert max(map(len, out.splitlines())) <= 100


def test_one_agent_of_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, run, "--question", "notes-1", "--agent", "answerer", "--width", 60)
    assert "thoughts" not in out
    assert "expert_2 ─" not in out
    assert max(map(len, out.splitlines())) <= 60


def test_without_a_question_it_tells_which_there_are(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, run)
    assert "notes-0" in out
    assert "notes-1" in out
    assert "notes-2" not in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--question", "notes-2"], ["question: got 'notes-2'", "not traced", "--trace N", "notes-0", "notes-1"]),
        (["--question", "note-0"], ["no such question", "notes-0"]),
        (["--question", "notes-0", "--agent", "judger"], ["agent: got 'judger'", "expert_1, expert_2", "answerer"]),
        (["--width", "5"], ["width"]),
    ],
)
def test_mistakes_are_told_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: list[str]
) -> None:
    line = refused(capsys, run, *arguments)
    assert [part for part in told if part not in line] == []


def test_a_run_without_traces_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = RunConfig(task="notes", limit=1, method="single", runtime="local", max_new_tokens=2, output=str(tmp_path))
    with LatentMAS(config) as system:
        system.evaluate()
    assert "--trace N" in refused(capsys, tmp_path)
    assert "no such folder" in refused(capsys, tmp_path / "none")


def test_of_a_run_over_several_seeds_one_is_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = ["--task", "notes", "--limit", "1", "--trace", "1", "--method", "single", "--runtime", "local"]
    assert main(["eval", *fields, "--max-new-tokens", "2", "--seeds", "1,2", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert f"such as {tmp_path}/seed-1" in refused(capsys, tmp_path)
    assert "notes-0" in shown(capsys, tmp_path / "seed-2")


def test_what_a_model_says_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    wild = Thought(
        tokens=(("\x1b[2J\n", 0.9), ("[red]", 0.1)), entropy=1.0, norm=2.0, distance=0.5, nearest="\x07", xy=(0.0, 0.0)
    )
    broken = Thought(tokens=(), entropy=0.0, norm=0.0, distance=0.0, nearest="", xy=(0.0, 0.0))
    silent = replace(wild, tokens=(), entropy=0.0)
    results_console(100).print(thought_table([wild, broken, silent]))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[2J⏎ 90%  [red] 10%" in out
    assert out.count("not finite") == 1
    assert "nothing that is finite" in out
    assert out.count("0.500") == 2  # how far it is from the nearest embedding is known all the same


@pytest.mark.parametrize(
    ("alarm", "told"),
    [
        (Alarm(kind="norm", step=3, value=2300.0, limit=2000.0), "norm at thought 3 is 2300, beyond 2000"),
        (Alarm(kind="norm", step=0, value=0.001, limit=0.01), "norm at thought 0 is 0.001, below 0.01"),
        (Alarm(kind="entropy", step=4, value=5.5, limit=5.352), "entropy jumps by 5.5 at thought 4, beyond 5.352"),
        (Alarm(kind="not-finite", step=2, value=5.0), "not finite: 5 of the thoughts from thought 2 on"),
        (Alarm(kind="no-effect", source="critic", value=0.0, limit=0.001), "memory of critic changes nothing"),
        (Alarm(kind="repetition", step=7, value=0.9999, limit=0.999), "thoughts repeat at thought 7"),
    ],
)
def test_alarms_are_told_with_their_numbers(alarm: Alarm, told: str) -> None:
    assert told in describe_alarm(alarm)
