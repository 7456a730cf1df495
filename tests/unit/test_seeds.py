"""One run per seed: its files, errors before anything starts, and resumed runs."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.cli.main import main
from latentmas_ray.cli.render.run_tables import results_console, seeds_table
from latentmas_ray.errors import ConfigError, JournalError
from latentmas_ray.report import load_runs
from latentmas_ray.runs.multi_seed import SeedsSummary
from latentmas_ray.runs.run_events import Observer, QuestionAnswered, RunEvent
from latentmas_ray.seeds import parse_seeds, seed_folders
from latentmas_ray.stats import mean_interval
from latentmas_ray.system.setup import Setup
from latentmas_ray.topology import Topology
from tests.cases.fake_runtime import FakeRuntime


class CountedRuntime(FakeRuntime):
    """Counts how often it is started."""

    num_starts = 0

    def start(self) -> Any:
        self.num_starts += 1
        return super().start()

    def seeds(self) -> list[int]:
        return list(dict.fromkeys(work.sampling.seed for work in self.works))


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> list[CountedRuntime]:
    """Those that systems have made; a test puts one in first to have it taken."""
    made: list[CountedRuntime] = []

    def make(setup: Setup, topology: Topology, num_batches: int, config: object = None) -> CountedRuntime:
        made.append(CountedRuntime())
        return made[-1]

    monkeypatch.setattr(Setup, "make_runtime", make)
    return made


def evaluate(
    folder: Path | None,
    seeds: Any,
    *,
    observer: Observer | None = None,
    on_seed: Callable[[int], None] | None = None,
    **fields: Any,
) -> SeedsSummary:
    output = None if folder is None else str(folder)
    values = {"task": "notes", "limit": 5, "batch_size": 2, "runtime": "local", "output": output, **fields}
    with LatentMAS(observer=observer, **values) as system:
        return system.evaluate(seeds=seeds, on_seed=on_seed or (lambda seed: None))


@pytest.mark.parametrize(
    ("given", "seeds"), [("1,2,3", (1, 2, 3)), (" 7 , 0", (7, 0)), ([4, 2], (4, 2)), (str(2**63 - 1), (2**63 - 1,))]
)
def test_seeds_are_read(given: Any, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize(
    "given",
    [
        "",
        ",",
        "1,",
        "1,1",
        "1,2,01",
        "a",
        "1.5",
        "-1",
        "1 2",
        "²",
        "9" * 30,
        str(2**63),
        [],
        [True],
        [-1],
        [1.5],
        5,
        None,
    ],
)
def test_what_is_no_list_of_seeds_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="different whole numbers from 0"):
        parse_seeds(given)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--seeds", ""], ["--seeds", "1,2,3"]),
        (["--seeds", "3,1,3"], ["--seeds", "'3,1,3'", "3 is given twice"]),
        (["--seeds", "one"], ["--seeds", "'one'"]),
        (["--seeds", "1,2", "--seed", "42"], ["--seeds", "'1,2'", "--seed 42"]),
    ],
)
def test_bad_seeds_are_one_line_errors(flags: list[str], named: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *flags]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    for word in named:
        assert word in err


def test_each_seed_has_its_run_and_its_folder_and_models_are_loaded_once(
    tmp_path: Path, runtimes: list[CountedRuntime]
) -> None:
    started: list[int] = []
    summary = evaluate(tmp_path / "runs", (5, 3), on_seed=started.append)
    (runtime,) = runtimes
    assert (runtime.num_starts, runtime.seeds(), started) == (1, [5, 3], [5, 3])
    for seed in (5, 3):
        names = {path.name for path in (tmp_path / "runs" / f"seed-{seed}").iterdir()}
        assert names == {".lock", "config.yaml", "results.jsonl", "summary.json", "timeline.jsonl"}
    stored = json.loads((tmp_path / "runs" / "summary.json").read_text())
    assert stored == json.loads(json.dumps(summary.to_json()))
    assert stored["seeds"] == [5, 3]
    runs = load_runs(tmp_path / "runs")
    assert [run.config.seed for run in runs] == [3, 5]
    assert {run.config.seed: run.summary for run in runs} == summary.runs
    assert [len(run.answers) for run in runs] == [5, 5]


def test_the_figures_over_seeds(runtimes: list[CountedRuntime]) -> None:
    summary = evaluate(None, "1,2,3")
    runs = list(summary.runs.values())
    over_seeds = mean_interval([run.accuracy or 0.0 for run in runs])
    assert (summary.accuracy, summary.accuracy_half_width) == (over_seeds.mean, over_seeds.half_width)
    assert summary.num_questions == 5
    assert summary.seconds == pytest.approx(sum(run.seconds for run in runs))
    assert summary.questions_per_second == pytest.approx(15 / summary.seconds)
    assert summary.prompt_tokens_per_question == pytest.approx(runs[0].prompt_tokens_per_question)
    assert len(runtimes) == 1


def test_one_seed_has_no_interval_over_seeds(runtimes: list[CountedRuntime]) -> None:
    assert evaluate(None, "1").accuracy_half_width is None


def test_a_run_that_is_broken_off_goes_on_with_the_seed_it_was_in(
    tmp_path: Path, runtimes: list[CountedRuntime]
) -> None:
    evaluate(tmp_path / "whole", (1, 2, 3))

    class Interrupting:
        """Presses Ctrl-C after the third answer of the second seed."""

        num_answers = 0

        def on_event(self, event: RunEvent) -> None:
            self.num_answers += isinstance(event, QuestionAnswered)
            if self.num_answers == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "broken", (1, 2, 3), observer=Interrupting())
    assert not (tmp_path / "broken" / "summary.json").exists()
    num_kept = len(load_runs(tmp_path / "broken")[1].answers)
    assert 0 < num_kept < 5
    evaluate(tmp_path / "broken", (1, 2, 3), resume=True)
    assert runtimes[-1].seeds() == [2, 3]
    whole, broken = load_runs(tmp_path / "whole"), load_runs(tmp_path / "broken")
    assert [[answer.answer for answer in run.answers] for run in broken] == [
        [answer.answer for answer in run.answers] for run in whole
    ]
    summary = json.loads((tmp_path / "broken" / "summary.json").read_text())
    assert [run["num_resumed"] for run in summary["runs"].values()] == [0, num_kept, 0]


def test_resuming_what_is_complete_computes_nothing_and_more_seeds_are_added(
    tmp_path: Path, runtimes: list[CountedRuntime]
) -> None:
    first = evaluate(tmp_path, (1, 2))
    again = evaluate(tmp_path, (1, 2), resume=True)
    assert len(runtimes) == 1
    assert again == first
    more = evaluate(tmp_path, (1, 2, 9), resume=True)
    assert runtimes[-1].seeds() == [9]
    assert more.seeds == (1, 2, 9)
    assert more.runs[1] == first.runs[1]


def test_what_does_not_belong_together_is_refused_and_left_as_it_is(
    tmp_path: Path, runtimes: list[CountedRuntime]
) -> None:
    evaluate(tmp_path / "seeds", (1, 2))
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    with pytest.raises(JournalError, match="--resume"):
        evaluate(tmp_path / "seeds", (1, 2))
    with pytest.raises(JournalError, match="with seeds 2 too"):
        evaluate(tmp_path / "seeds", (1,), resume=True)
    with pytest.raises(JournalError, match="latent_steps: got '3'"):
        evaluate(tmp_path / "seeds", (1, 2), latent_steps=3, resume=True)
    single = {"task": "notes", "limit": 5, "runtime": "local"}
    with LatentMAS(output=str(tmp_path / "seeds"), **single) as system, pytest.raises(JournalError, match="seeds 1, 2"):
        system.evaluate()
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
    with LatentMAS(output=str(tmp_path / "one"), **single) as system:
        system.evaluate()
    with pytest.raises(JournalError, match="a run without seeds"):
        evaluate(tmp_path / "one", (1, 2))
    assert len(runtimes) == 2


def test_seeds_in_a_store(runtimes: list[CountedRuntime]) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.store.clear()
    with LatentMAS(task="notes", limit=2, runtime="local", output="memory://bucket/runs") as system:
        system.evaluate(seeds="1,2")
    found = set(store.find("/bucket/runs"))
    names = ("config.yaml", "results.jsonl", "summary.json", "timeline.jsonl")
    assert found == {"/bucket/runs/summary.json"} | {
        f"/bucket/runs/seed-{seed}/{name}" for seed in (1, 2) for name in names
    }
    store.store.clear()


def test_a_folder_of_one_run_reads_as_one(tmp_path: Path, runtimes: list[CountedRuntime]) -> None:
    with LatentMAS(task="notes", limit=2, runtime="local", output=str(tmp_path)) as system:
        system.evaluate()
    (run,) = load_runs(tmp_path)
    assert run.folder == tmp_path
    with pytest.raises(JournalError, match="no such folder"):
        load_runs(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(JournalError, match=re.escape("config.yaml")):
        load_runs(tmp_path / "empty")


def test_only_folders_of_seeds_are_taken_for_them(tmp_path: Path) -> None:
    for name in ("seed-10", "seed-9", "seed-01", "seed-x", "seed-", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-4").write_text("")
    assert list(seed_folders(tmp_path)) == [9, 10]


def test_the_command_shows_each_seed_and_says_what_greedy_decoding_means(
    runtimes: list[CountedRuntime], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    flags = ["eval", "--task", "notes", "--limit", "4", "--runtime", "local", "--seeds", "1,2"]
    assert main(flags) == 0
    out, err = capfd.readouterr()
    assert "greedily" not in err
    assert "seed 1\n" in err
    for words in ("accuracy over seeds", "over questions", "questions/s"):
        assert words in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert main([*flags, "--temperature", "0", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["seeds"] == [1, 2]
    assert "all seeds give the same answers" in err


def test_the_table_tells_of_all_seeds_what_the_one_of_a_single_run_tells(
    runtimes: list[CountedRuntime], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = evaluate(None, "1,2")
    changes: dict[str, Any] = {"codec": "int8", "num_alarmed": 2, "alarms": {"expert_1": 2}, "num_resumed": 3}
    changes |= {"keep": 0.25, "keep_by": "reader", "evicted_bytes_per_question": 3000.0}
    runs = {seed: replace(run, **changes, relative_error=0.01 * seed) for seed, run in summary.runs.items()}
    results_console(100).print(seeds_table(replace(summary, runs=runs)))
    out = " ".join(capsys.readouterr().out.split())
    assert "guard alarms in 4 of 10 questions: expert_1 4" in out
    assert "codec int8: KV arrives with a relative error of up to 2.0%" in out
    assert "kept 0.25 of the prompts' positions, chosen by reader: 3 KB of KV a question dropped" in out
    assert "before this start 6 questions, which these times leave out" in out


def test_where_one_seed_is_refused_nothing_is_made_for_the_others(
    runtimes: list[CountedRuntime], tmp_path: Path
) -> None:
    evaluate(tmp_path, "1")
    with pytest.raises(JournalError, match="add --resume"):
        evaluate(tmp_path, "3,1")
    assert list(seed_folders(tmp_path)) == [1]
    assert (tmp_path / "summary.json").exists()
