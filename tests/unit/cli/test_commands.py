"""The commands against a system that only pretends: what they print, where, and with which exit code."""

import errno
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.errors import ClusterError, TaskError, TurnError, WireError
from latentmas_ray.runs.results import AgentUse, Answer, Failure, Summary, Transfer
from latentmas_ray.runs.run_events import Observer, QuestionFailed, RunEnded, RunStarted

QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"


def make_answer(text: str = "The answer is 4.") -> Answer:
    thinking = AgentUse(
        prompt_tokens=212,
        latent_steps=40,
        output_tokens=0,
        memory_bytes=1_230_000,
        seconds={"absorb": 0.0, "prefill": 0.12, "think": 0.85, "decode": 0.0, "emit": 0.002},
    )
    answering = AgentUse(
        prompt_tokens=180, latent_steps=0, output_tokens=37, memory_bytes=0, seconds={"prefill": 0.1, "decode": 1.2}
    )
    moved = Transfer(source="planner", reader="judger", num_bytes=1_230_000, transport="loopback", seconds=0.003)
    return Answer(
        id="q1",
        question="2+2?",
        gold="4",
        answer=text,
        answer_token_ids=(1, 2),
        prediction="4",
        correct=True,
        seconds=2.5,
        agents={"planner": thinking, "judger": answering},
        transfers=(moved,),
    )


def make_summary(config: RunConfig, num_failed: int = 0) -> Summary:
    return Summary(
        method=config.method,
        topology=config.topology,
        model=config.model,
        memory=config.memory,
        num_questions=8,
        num_failed=num_failed,
        accuracy=0.625,
        prompt_tokens_per_question=392.0,
        latent_steps_per_question=40.0,
        output_tokens_per_question=37.25,
        memory_bytes_per_question=1_230_000.0,
        moved_bytes=9_840_000,
        seconds=75.0,
        questions_per_second=0.107,
        agents={
            "planner": {"prompt_tokens": 212.0, "output_tokens": 0.0, "memory_bytes": 1.23e6, "think_seconds": 0.85},
            "judger": {"prompt_tokens": 180.0, "output_tokens": 37.25, "memory_bytes": 0.0, "decode_seconds": 1.2},
        },
    )


class PretendedSystem:
    """Stands in for `LatentMAS`; tests set what goes wrong."""

    configs: ClassVar[list[RunConfig]] = []
    asked: ClassVar[list[Any]] = []
    num_failed: ClassVar[int] = 0
    raised_at_start: ClassVar[BaseException | None] = None
    raised_in_run: ClassVar[BaseException | None] = None
    answer: ClassVar[Answer] = make_answer()

    def __init__(self, config: RunConfig, *, observer: Observer) -> None:
        if self.raised_at_start is not None:
            raise self.raised_at_start
        self.config, self.observer = config, observer
        self.configs.append(config)

    def __enter__(self) -> "PretendedSystem":
        return self

    def running_turns(self) -> list[TurnProgress]:
        return []

    def __exit__(self, *exception: object) -> None:
        pass

    def map(self, questions: Iterable[Any], memory: None = None) -> Iterator[Answer]:
        self.asked.extend(questions)
        self.observer.on_event(RunStarted(description="2 actors", num_questions=1, num_done=0))
        if self.raised_in_run is not None:
            raise self.raised_in_run
        yield self.answer
        self.observer.on_event(RunEnded())

    def evaluate(self) -> Summary:
        self.observer.on_event(RunStarted(description="2 actors", num_questions=8, num_done=0))
        if self.raised_in_run is not None:
            raise self.raised_in_run
        for index in range(self.num_failed):
            failure = Failure(id=f"q{index}", agent="judger", error="out of\nmemory " + 500 * "!")
            self.observer.on_event(QuestionFailed(failure=failure))
        self.observer.on_event(RunEnded())
        return make_summary(self.config, self.num_failed)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> type[PretendedSystem]:
    class Fresh(PretendedSystem):
        configs: ClassVar[list[RunConfig]] = []
        asked: ClassVar[list[Any]] = []

    # The commands import `latentmas_ray.system` when they run; a module put there first spares torch and ray.
    module = ModuleType("latentmas_ray.system")
    module.LatentMAS = Fresh  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "latentmas_ray.system", module)
    monkeypatch.setenv("COLUMNS", "80")
    return Fresh


def test_ask_prints_the_answer_and_nothing_else(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", QUESTION, "--method", "text", "--temperature", "0"]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("The answer is 4.\n", "")
    assert system.asked == [{"question": QUESTION}]
    assert system.configs == [make_config({"method": "text", "temperature": 0.0})]


def test_an_answer_is_printed_as_it_is(system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]) -> None:
    text = "[bold]no markup[/bold] :smile: \\boxed{4} " + 200 * "long "
    system.answer = make_answer(text)
    assert main(["ask", QUESTION]) == 0
    assert capfd.readouterr().out == text + "\n"


def test_ask_trace_shows_what_each_agent_did(system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", QUESTION, "--trace"]) == 0
    out = capfd.readouterr().out
    for words in (
        "planner",
        "212 prompt tokens, 40 latent steps",
        "prefill 120 ms, think 850 ms, emit 2 ms",
        "handed over 1.23 MB",
        "read planner's memory: 1.23 MB, loopback, 3 ms",
        "180 prompt tokens, 37 output tokens",
    ):
        assert words in out
    assert out.endswith("\nThe answer is 4.\n")


def test_ask_json_is_one_row_of_the_results_file(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", QUESTION, "--json", "--trace"]) == 0
    assert Answer.from_row(json.loads(capfd.readouterr().out)) == make_answer()


def test_eval_prints_tables_that_fit_80_columns(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--limit", "8", "--runtime", "local"]) == 0
    out, err = capfd.readouterr()
    assert max(len(line) for line in out.splitlines()) <= 80
    for words in ("62.5 %", "392 prompt, 40 latent, 37.2 output", "1 min 15 s", "9.84 MB", "planner", "850 ms"):
        assert words in out
    assert "latent steps" not in out.split("per question")[-1]  # zero for every agent
    assert err.splitlines() == [
        "latent: 8 questions; 2 actors",
        "results: only here; --output DIR keeps them for latentmas report and compare",
    ]
    assert system.configs == [make_config({"limit": 8, "runtime": "local"})]


def test_eval_json_is_the_summary(system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == make_summary(make_config({})).to_json()


def test_failed_questions_are_named_and_give_exit_code_1(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    system.num_failed = 12
    assert main(["eval", "--output", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert "8, 12 failed" in out
    _, first, *failures, more, where, last = err.splitlines()
    assert first == "error: 12 questions failed"
    assert failures[0].startswith("  q0 (judger): out of memory !!!")
    assert len(failures) == 10
    assert all(len(line) <= 202 for line in failures)
    assert more == "  … and 2 more"
    assert str(tmp_path / "failures.jsonl") in where
    assert last.startswith(f"results: {tmp_path}; next: latentmas report")


def test_demo_compares_the_three_methods_and_a_control(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--runtime", "local"]) == 0
    out = capfd.readouterr().out
    assert [config.method for config in system.configs] == ["single", "text", "latent", "latent"]
    assert [config.memory for config in system.configs] == [*["matched"] * 3, "deranged"]
    assert {(config.model, config.task, config.runtime) for config in system.configs} == {("tiny", "notes", "local")}
    for words in ("single", "text", "deranged", "accuracy", "output tokens", "memory", "latentmas eval"):
        assert words in out


def test_input_that_only_the_system_can_judge_is_exit_code_2(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]
) -> None:
    system.raised_at_start = TaskError("task", "no.jsonl", "no such file; built-in tasks are sample")
    assert main(["eval", "--task", "no.jsonl"]) == 2
    assert capfd.readouterr().err == "error: --task: got 'no.jsonl'; no such file; built-in tasks are sample\n"


def test_a_bad_environment_variable_is_named(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTMAS_TORCH_THREADS", "lots")
    assert main(["ask", QUESTION]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: LATENTMAS_TORCH_THREADS: got 'lots'; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ClusterError("no node answers"), TurnError("no node answers"), WireError("no node answers")]
)
def test_a_failed_run_is_exit_code_1(
    error: Exception, system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]
) -> None:
    system.raised_in_run = error
    assert main(["ask", QUESTION]) == 1
    assert capfd.readouterr() == ("", "error: no node answers\n")


def test_a_failed_run_with_a_journal_says_how_to_go_on(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    system.raised_in_run = ClusterError("no node answers")
    (tmp_path / "results.jsonl").touch()
    assert main(["eval", "--output", str(tmp_path)]) == 1
    _, error, note = capfd.readouterr().err.splitlines()
    assert error == "error: no node answers"
    assert str(tmp_path) in note
    assert "--resume" in note


def test_ctrl_c_is_one_line_and_exit_code_130(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    system.raised_in_run = KeyboardInterrupt()
    assert main(["ask", QUESTION]) == 130
    assert capfd.readouterr().err == "error: interrupted\n"
    (tmp_path / "results.jsonl").touch()
    system.raised_in_run = KeyboardInterrupt()
    assert main(["eval", "--output", str(tmp_path)]) == 130
    assert "--resume" in capfd.readouterr().err


def test_what_the_file_system_refuses_is_told_in_one_line(
    system: type[PretendedSystem], capfd: pytest.CaptureFixture[str]
) -> None:
    system.raised_at_start = PermissionError(errno.EACCES, "Permission denied", "/root/out/results.jsonl")
    assert main(["eval"]) == 2
    assert capfd.readouterr().err == "error: /root/out/results.jsonl: Permission denied\n"
    system.raised_at_start = OSError(errno.ENOSPC, "No space left on device")
    assert main(["eval"]) == 1
    assert capfd.readouterr().err == "error: No space left on device\n"


def test_a_bug_keeps_its_traceback(system: type[PretendedSystem]) -> None:
    system.raised_in_run = KeyError("ours")
    with pytest.raises(KeyError, match="ours"):
        main(["eval"])


@pytest.mark.parametrize("flags", [(), ("--replicas", "1,2", "--turn-seconds", "1")])
@pytest.mark.parametrize("name", ["engine", "scaling"])
def test_a_benchmark_that_has_moved_says_where(
    name: str, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", name, *flags]) == 2
    expected = (
        f"error: bench: got '{name}'; it is run from a checkout of the project now: python -m benchmarks {name}\n"
    )
    assert capsys.readouterr().err == expected
