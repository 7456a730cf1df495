"""`latentmas bench answer` without a model: figures from given times, the tables, the files, and what is refused."""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from latentmas_ray.bench.answer import engines as engines_module
from latentmas_ray.bench.answer.engines import chosen_engines, text_speed_figures
from latentmas_ray.bench.answer.measured_rows import MeasuredRows
from latentmas_ray.bench.answer.methods import method_figures, run_fields
from latentmas_ray.bench.answer.questions import BenchQuestion, Delay, WrittenText, check_texts, draw_questions
from latentmas_ray.bench.answer.settings import AnswerBenchSettings, names_in
from latentmas_ray.bench.answer.sides import SIDES, ContinuousSide, num_threads
from latentmas_ray.bench.answer.task_questions import choose_questions
from latentmas_ray.bench.side_process import SideProcess, serve_side
from latentmas_ray.bench.used_memory import reset_peak, used_bytes
from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.main import main
from latentmas_ray.cli.render.bench.answer_tables import answer_tables
from latentmas_ray.config import make_config
from latentmas_ray.env import set_compute_threads
from latentmas_ray.errors import ConfigError, LatentMASError, RunError
from latentmas_ray.tasks.question import Question
from latentmas_ray.writing.text_engine import TextOutput, TextRequest
from tests.architecture.test_startup import HEAVY, RUN, imported_by
from tests.cases.answers import TOKENS, answer_outcome, measured
from tests.unit.cli.test_commands import make_summary

CPU = torch.device("cpu")


def question(key: str, num_new_tokens: int) -> BenchQuestion:
    return BenchQuestion(key=key, prompt_ids=(1, 2), num_new_tokens=num_new_tokens)


def text(key: str, *ids: int) -> WrittenText:
    return WrittenText(key=key, token_ids=ids, first_token_seconds=0.1, seconds=0.2)


def test_questions_are_drawn_from_the_seed() -> None:
    settings = AnswerBenchSettings(questions=200, prompt_tokens=5)
    drawn = draw_questions(settings)
    assert drawn == draw_questions(settings)
    assert drawn != draw_questions(AnswerBenchSettings(questions=200, prompt_tokens=5, seed=1))
    assert {len(one.prompt_ids) for one in drawn} == {5}
    lengths = [one.num_new_tokens for one in drawn]
    assert 8 <= min(lengths) < 20
    assert 500 < max(lengths) <= 512
    assert len({one.key for one in drawn}) == 200


@pytest.mark.parametrize("texts", [[text("a", 1)], [text("a", 1, 2), text("b", 1)], [text("a", 1, 2)] * 2, []])
def test_an_engine_that_does_other_work_is_not_measured(texts: list[WrittenText]) -> None:
    with pytest.raises(RunError, match="engine fast wrote"):
        check_texts("fast", [question("a", 2)], texts)
    check_texts("fast", [question("a", 2)], [text("a", 1, 2)])


def test_figures_are_medians_and_ratios_are_taken_round_by_round() -> None:
    rounds = [
        {"static": measured(4.0, 3.0), "vllm": measured(1.0, 1.0, peak_bytes=5)},
        {"static": measured(8.0, 3.0), "vllm": measured(4.0, 2.0, peak_bytes=7, tokens={**TOKENS, "q1": (9,)})},
        {"static": measured(4.0, 3.0), "vllm": measured(4.0, 6.0)},
    ]
    figures = text_speed_figures("vllm", "cpu", rounds)
    assert (figures.seconds, figures.cpu_seconds, figures.tokens_per_second) == (4.0, 2.0, 1.0)
    assert figures.speedup == 2.0  # of 4/1, 8/4 and 4/4
    assert figures.cpu_speedup == 1.5  # of 3/1, 3/2 and 3/6
    assert figures.peak_bytes == 10**9
    assert (figures.first_token.p50_seconds, figures.first_token.p99_seconds) == (1.0, 1.0)
    assert (figures.whole_text.p50_seconds, figures.whole_text.p99_seconds) == (2.0, 4.0)
    assert figures.same_texts == 1.0  # by the first round
    assert text_speed_figures("vllm", "cpu", rounds[1:]).same_texts == 0.5
    first = text_speed_figures("static", "cpu", rounds)
    assert (first.speedup, first.cpu_speedup, first.same_texts) == (1.0, 1.0, 1.0)


class CountingEngine:
    """A `TextEngine` that writes 1, 2, 3 … for each question, at most two at the same time."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.chat = type("Chat", (), {"stop_ids": frozenset({2})})()
        self.most = 0
        self._breaks = breaks
        self._running: dict[str, list[int]] = {}  # tokens written and wanted

    def can_start(self, request: TextRequest) -> bool:
        return len(self._running) < 2

    def start(self, request: TextRequest) -> None:
        self._running[request.key] = [0, request.sampling.max_new_tokens]
        self.most = max(self.most, len(self._running))

    def step(self) -> list[TextOutput]:
        if self._breaks:
            return [TextOutput(key=next(iter(self._running)), end="error", error="no blocks")]
        outputs = []
        for key, state in list(self._running.items()):
            state[0] += 1
            end = "length" if state[0] == state[1] else None
            outputs.append(TextOutput(key=key, token_ids=(state[0],), end=end))  # type: ignore[arg-type]
            if end:
                del self._running[key]
        return outputs


def test_waiting_questions_start_as_soon_as_there_is_room() -> None:
    engine: Any = CountingEngine()
    side = ContinuousSide(engine, "cpu")
    texts = side.answer([question("a", 3), question("b", 1), question("c", 2)])
    assert {one.key: one.token_ids for one in texts} == {"a": (1, 2, 3), "b": (1,), "c": (1, 2)}
    assert next(one.key for one in texts) == "b"
    assert engine.most == 2
    assert engine.chat.stop_ids == frozenset()
    by_key = {one.key: one for one in texts}
    assert 0 < by_key["a"].first_token_seconds < by_key["a"].seconds
    assert by_key["b"].first_token_seconds == by_key["b"].seconds
    assert by_key["b"].seconds < by_key["c"].first_token_seconds


def test_a_question_that_fails_ends_the_measurement() -> None:
    engine: Any = CountingEngine(breaks=True)
    with pytest.raises(RunError, match="no blocks"):
        ContinuousSide(engine, "cpu").answer([question("a", 3)])


def test_vllm_reads_the_prompts_again_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load(model: str, **arguments: Any) -> CountingEngine:
        asked.update(arguments)
        return CountingEngine()

    monkeypatch.setattr("latentmas_ray.vllm.load.load_text_engine", load)
    SIDES["vllm"](AnswerBenchSettings(device="cpu"), "tiny")
    assert asked["enable_prefix_caching"] is False


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("engines", "x", "it must be y"), "engines: got 'x'; it must be y"),
        (ValueError("bad\nmore"), "the slow side of the benchmark failed: ValueError: bad"),
    ],
)
def test_a_side_that_fails_sends_one_line(error: Exception, expected: str) -> None:
    class Sent(list[object]):
        send = list.append

    def start() -> Any:
        raise error

    sent: Any = Sent()
    serve_side("slow", sent, start)
    assert isinstance(sent[0], LatentMASError)
    assert str(sent[0]) == expected


def dies(name: str, connection: Any) -> None:
    connection.recv()
    raise SystemExit(3)


@pytest.mark.slow  # a process; what a side sends is tested above
def test_a_side_that_dies_is_told() -> None:
    with SideProcess("slow", dies) as side, pytest.raises(RunError, match="the slow side of the benchmark died"):
        side.ask(None)


def test_the_peak_of_a_process_is_seen_after_it_is_gone() -> None:
    reset_peak(CPU)
    before = used_bytes(CPU, peak=False)
    held = torch.ones(64 * 2**20, dtype=torch.uint8)  # malloc takes so much from the system, not from what was freed
    assert used_bytes(CPU, peak=False) >= before + 0.9 * held.numel()
    del held
    assert used_bytes(CPU, peak=True) >= before + 56 * 2**20


def test_threads_are_those_of_the_settings_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMAS_TORCH_THREADS", "3")
    assert num_threads(AnswerBenchSettings(threads=5)) == 5
    assert num_threads(AnswerBenchSettings()) == 3
    monkeypatch.setenv("LATENTMAS_TORCH_THREADS", "")
    assert num_threads(AnswerBenchSettings()) >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_compute_threads(7)
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("installed", "wanted", "chosen"),
    [
        (True, None, ("static", "continuous", "vllm")),
        (False, None, ("static", "continuous")),
        (False, ("continuous",), ("continuous",)),
        (True, ("vllm", "static"), ("static", "vllm")),
    ],
)
def test_the_engines_are_those_that_are_installed(
    installed: bool, wanted: tuple[str, ...] | None, chosen: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "obstacle", lambda: None if installed else "vLLM is not installed")
    assert chosen_engines(AnswerBenchSettings(engines=wanted)) == chosen


def test_an_engine_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "obstacle", lambda: "vLLM is not installed")
    with pytest.raises(ConfigError, match=r"engines: got 'vllm'; vLLM is not installed: .*make vllm"):
        chosen_engines(AnswerBenchSettings(engines=("static", "vllm")))


@pytest.mark.parametrize("method", ["single", "text", "latent"])
def test_all_methods_have_the_same_engine_and_batches(method: str) -> None:
    settings = AnswerBenchSettings(answer_engine="transformers", latent_steps=7)
    fields = run_fields(settings, method, 8)
    config = make_config(fields)
    assert (config.engine, config.batch_size, config.decode_batch, config.temperature) == ("transformers", 8, 8, 0.0)
    assert ("topology" in fields, "latent_steps" in fields) == (method != "single", method == "latent")
    local = replace(settings, runtime="local")
    assert "decode_batch" not in run_fields(local, method, 8)  # it would do nothing
    keeping = run_fields(replace(settings, keep=0.5), method, 8)
    assert keeping.get("keep") == (0.5 if method == "latent" else None)
    assert "keep" not in fields


def ids(questions: Sequence[Question]) -> list[str]:
    return [one.id for one in questions]


def test_no_question_is_answered_twice_on_the_same_actors() -> None:
    """vLLM keeps what it computed for a prompt."""
    chosen = choose_questions("notes", limit=64, concurrency=(1, 8, 32))
    every = ids([*chosen.warm_up, *(one for measured in chosen.measured.values() for one in measured)])
    assert len(every) == len(set(every)) == 3 * 64 + 8
    assert not chosen.is_repeated


@pytest.mark.parametrize(("num_questions", "num_warm_up", "num_measured"), [(2, 1, 1), (9, 1, 6), (17, 2, 6)])
def test_a_small_task_gives_each_concurrency_the_same_questions(
    num_questions: int, num_warm_up: int, num_measured: int, tmp_path: Path
) -> None:
    task = tmp_path / "few.jsonl"
    task.write_text(
        "".join(
            f'{{"id": "{number}", "question": "1+{number}?", "gold": "{1 + number}"}}\n'
            for number in range(num_questions)
        )
    )
    chosen = choose_questions(str(task), limit=6, concurrency=(1, 2, 3))
    assert (len(chosen.warm_up), len(chosen.measured[1])) == (num_warm_up, num_measured)
    assert chosen.measured[1] == chosen.measured[2] == chosen.measured[3]
    assert not {*ids(chosen.warm_up)} & {*ids(chosen.measured[1])}
    assert chosen.is_repeated
    assert not choose_questions(str(task), limit=6, concurrency=(2,)).is_repeated


def test_a_task_of_one_question_is_refused(tmp_path: Path) -> None:
    task = tmp_path / "one.jsonl"
    task.write_text('{"id": "0", "question": "1+1?", "gold": "2"}\n')
    with pytest.raises(ConfigError, match="a task must have two questions at least: one to warm up with"):
        choose_questions(str(task), limit=6, concurrency=(1,))


def test_rows_on_disk_are_found_by_all_their_settings(tmp_path: Path) -> None:
    rows = MeasuredRows(str(tmp_path))
    rows.add({"method": "single", "limit": 4}, {"seconds": 1.5})
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"settings": {"method": "latent", "limit": 4}, "figu')  # killed while it wrote
    again = MeasuredRows(str(tmp_path))
    assert again.find({"limit": 4, "method": "single"}) == {"seconds": 1.5}
    assert again.find({"limit": 5, "method": "single"}) is None
    assert again.find({"method": "latent", "limit": 4}) is None
    again.add({"method": "latent", "limit": 4}, {"seconds": 2.5})
    assert MeasuredRows(str(tmp_path)).find({"method": "latent", "limit": 4}) == {"seconds": 2.5}
    assert MeasuredRows(None).find({"limit": 4, "method": "single"}) is None


def test_the_parts_are_added_up_over_the_agents() -> None:
    def seconds(**parts: float) -> dict[str, float]:
        return {f"{name}_seconds_per_question": taken for name, taken in parts.items()}

    summary = replace(
        make_summary(make_config({})),
        agents={
            "planner": {"latent_steps": 40.0, **seconds(prefill=1.0, think=2.0)},
            "critic": {"latent_steps": 40.0, **seconds(prefill=0.5, think=2.0, exposed=0.25)},
            "judger": {"latent_steps": 0.0, **seconds(prefill=4.0, decode=8.0, exposed=0.5, wait=99.0)},
        },
    )
    figures = method_figures(summary, "chain", 8, "vllm", Delay.of([3.0, 1.0, 2.0]))
    parts = figures.parts
    assert (parts.thinking, parts.hand_over, parts.prefill, parts.decode) == (5.5, 0.75, 4.0, 8.0)
    assert (figures.delay.p50_seconds, figures.delay.p99_seconds) == (2.0, 3.0)
    assert figures.seconds_per_question == summary.seconds / summary.num_questions


@pytest.mark.parametrize("width", [60, 80])
def test_the_tables_are_readable(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(answer_tables(answer_outcome()))
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, told.splitlines())) <= width
    assert "…" not in told
    assert "\n  method  single" not in told  # a block for each row
    told = "\n".join([told, " ".join(told.split())])
    for part in ("continuous", "50.0 %", "95.3 %", "notes: 64 questions, text by vllm", "1.2 s", "123 µs"):
        assert part in told
    assert "8 at a time, latent next to single: 2.00 × slower" in told
    assert "thinking +1.2 s, exposed hand-over +123 µs" in told
    (row,) = [line.split() for line in told.splitlines() if line.startswith("continuous") and "%" in line]
    assert row[1:] == ["1.33", "2.00", "3", "s", "1.50", "100.0", "%"]


def test_the_figures_are_also_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a" / "b"
    measure_and_show(lambda say: answer_outcome(), answer_tables, output=str(folder), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert json.loads((folder / "figures.json").read_text()) == told
    assert [one["engine"] for one in told["engines"]] == ["static", "continuous", "vllm"]
    assert "seconds per question by part" in (folder / "figures.txt").read_text()


def test_lists_of_names() -> None:
    assert names_in("static, vllm") == ("static", "vllm")
    assert names_in("none") == ()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--engines", "static,fast"], "--engines: got 'static,fast'; it must be names out of static, continuous"),
        (["--engines", ""], "--engines: got ''"),
        (["--methods", "latent,none"], "--methods: got 'latent,none'; it must be names out of single, text, latent"),
        (["--engines", "none", "--methods", "none"], "--methods: got 'none'; without engines, too, nothing is left"),
        (["--questions", "0"], "--questions: got '0'; it must be at least 1"),
        (["--threads", "0"], "--threads: got '0'"),
        (["--min-new-tokens", "9", "--max-new-tokens", "8"], "--max-new-tokens: got '8'; it must be at least"),
        (["--concurrency", "1,x"], "--concurrency: got '1,x'; it must be whole numbers of at least 1, as in 1,8,32"),
        (["--concurrency", "0"], "--concurrency: got '0'"),
        (["--limit", "31"], "--limit: got '31'; it must be at least 32, the largest concurrency"),
        (["--tasks", "notes,"], "--tasks: got 'notes,'"),
        (["--keep", "0"], "--keep: got '0.0'; it must be above 0 and at most 1"),
        (["--dtype", "int8"], "--dtype: got 'int8'; it must be auto, float32 or bfloat16"),
        (["--device", "gpu"], "--device: got 'gpu'"),
        (["--answer-engine", "fast"], "--answer-engine: got 'fast'; it must be auto, transformers or vllm"),
        (["--answer-engine", "vllm", "--runtime", "local"], "--runtime: got 'local'; vLLM changes the process"),
        (["--address", ""], "--address: got ''"),
        (["--output", "/dev/null/x"], "--output: got '/dev/null/x'; it must be a folder that can be made"),
        (["--model", "./nowhere", "--methods", "none"], "--model: got './nowhere'"),
        (["--model", "qwen3-0.6b", "--engines", "none"], "--methods: got 'single,text,latent'; a shape"),
    ],
)
def test_bad_flags_are_told_in_one_line(flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "answer", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


def test_wrong_flags_are_told_before_anything_heavy_is_imported() -> None:
    assert imported_by(RUN, "bench", "answer", "--questions", "0") & HEAVY == set()
