"""The HTML report: its numbers are those of the runs, and everything that a model wrote is escaped."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentmas_ray import LatentMAS, RunConfig
from latentmas_ray.engine.diagnostics.trace import AgentTrace, Alarm, Thought
from latentmas_ray.errors import JournalError
from latentmas_ray.report import load_runs
from latentmas_ray.report.compare import compare_folders
from latentmas_ray.report.html import make_page
from latentmas_ray.runs.results import Failure
from latentmas_ray.runs.traces import Trace
from tests.cases.report import (
    PageParts,
    check_numbers,
    make_answer,
    make_trace,
    parts_of,
    write_run,
    write_simple_run,
)
from tests.cases.timeline import pipelined, write_timeline_rows


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [
        write_simple_run(tmp_path / "a", "1100-"),
        write_simple_run(tmp_path / "b", "10101", method="text"),
        write_simple_run(tmp_path / "c", "01100", method="latent", latent_steps=10, traces=[make_trace()]),
    ]


def test_all_numbers_are_those_of_summary_json(three: list[Path]) -> None:
    fields = check_numbers(parts_of(three), dict(zip(("r0", "r1", "r2"), three, strict=True)))
    assert fields >= {
        "accuracy",
        "accuracy_interval.0",
        "accuracy_interval.1",
        "num_questions",
        "output_tokens_per_question",
        "seconds",
        "questions_per_second",
        "agents.planner.think_seconds",
        "agents.judger.decode_seconds",
        "hand_overs.0.num_bytes",
        "hand_overs.0.exposed_seconds",
    }


def test_a_run_of_the_embedded_model_is_reported_with_its_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = RunConfig(
        task="notes", limit=2, runtime="local", latent_steps=2, max_new_tokens=4, trace=1, output=str(folder)
    )
    with LatentMAS(config) as system:
        summary = system.evaluate()
    assert summary.made_with["torch"] == torch.__version__
    runtime = summary.made_with["runtime"]
    told = r"all agents in this process on cpu, \d+ torch threads?.*, engine transformers \(runtime local\)"
    assert re.fullmatch(told, runtime)
    parts = parts_of([folder])
    assert f"torch {torch.__version__}" in parts.text
    fields = check_numbers(parts, {"r0": folder})
    assert {f"agents.{name}.prefill_seconds" for name in summary.agents} <= fields
    assert {f"hand_overs.{index}.num_bytes" for index in range(len(summary.hand_overs))} <= fields
    assert parts.sections == ["results", "time", "timeline", "hand-overs", "thoughts", "questions"]
    first, second = parts.data("questions-0-0")
    thinking = first["runs"]["r0"]["agents"][0]
    assert len(thinking["thoughts"]) == 2
    assert thinking["prompt"]
    assert "thoughts" not in second["runs"]["r0"]["agents"][0]


def test_lines_over_latent_steps_can_be_distinguished(tmp_path: Path) -> None:
    folders = [
        write_simple_run(tmp_path / f"{topology}{steps}", method="latent", topology=topology, latent_steps=steps)
        for topology in ("sequential", "hierarchical")
        for steps in (0, 10)
    ]
    page = make_page([load_runs(folder) for folder in folders])
    strokes = set(re.findall(r'<line class="stroke ([\w-]+ [\w-]+)"', page))
    assert strokes == {
        "latent dash-0",
        "latent dash-1",
    }  # the colour is that of runs: dashes and labels distinguish them
    labels = re.findall(r'<span class="latent" style="top:[\d.]+%" title="([^"]*)">', page)
    assert sorted(labels) == ["latent · hierarchical", "latent · sequential"]


def test_ratios_are_to_the_single_run(three: list[Path]) -> None:
    parts = parts_of(three)
    ratios = [float(number["value"]) for number in parts.numbers if number.keys() == {"value"}]
    assert 37 / 12 in ratios  # output tokens of the text agents


def test_without_a_single_run_the_page_does_not_mention_ratios(tmp_path: Path) -> None:
    single = write_simple_run(tmp_path / "single", task="gsm8k")
    latent = write_simple_run(tmp_path / "latent", task="data/gsm8k.jsonl", method="latent", latent_steps=3)
    text = parts_of([single, latent]).text
    assert "× is in relation to" not in text
    assert "Cost relative to one agent: add a run of the same --task and --model" in text


def test_cells_of_pairs_count_the_questions_that_both_have_graded(three: list[Path]) -> None:
    parts = parts_of(three)
    cells = {
        number["data-cell"]: int(number["value"])
        for number in parts.numbers
        if number.get("data-pair") == "r0 r1"
    }  # fmt: skip
    assert cells == {"both": 1, "first": 1, "second": 1, "neither": 1}
    assert "If the runs differ on fewer than ten questions, p is too small" in parts.text


def test_gains_over_controls_are_those_of_the_comparison(tmp_path: Path) -> None:
    folders = [
        write_simple_run(tmp_path / "single", "0110"),
        write_simple_run(tmp_path / "matched", "1111", method="latent"),
        write_simple_run(tmp_path / "deranged", "1000", method="latent", memory="deranged"),
    ]
    parts = parts_of(folders)
    assert "gains" in parts.sections
    gains = {gain.kind: gain.pair.paired for gain in compare_folders([str(folder) for folder in folders]).gains}
    assert set(gains) == {"gain over single", "pairing gain P"}
    shown = [float(number["value"]) for number in parts.numbers]
    for kind, paired in gains.items():
        assert kind in parts.text
        assert paired is not None
        assert {paired.difference, *paired.interval, paired.p_value, paired.num_questions} <= set(shown)


def test_missing_gains_are_named_for_a_control_without_its_run(tmp_path: Path) -> None:
    matched = write_simple_run(tmp_path / "a", method="latent", latent_steps=5)
    deranged = write_simple_run(tmp_path / "b", method="latent", latent_steps=6, memory="deranged")
    parts = parts_of([matched, deranged])
    assert "gains" not in parts.sections
    assert "What memory carries: add the same latent run, with no other setting changed" in parts.text


def test_runs_of_different_questions_under_the_same_ids_are_refused(tmp_path: Path) -> None:
    config = RunConfig(task="sums", method="single")
    for name, gold in (("a", "1"), ("b", "2")):
        write_run(tmp_path / name, [make_answer(0, config, gold=gold)], config=config)
    with pytest.raises(JournalError, match="gold of q0"):
        parts_of([tmp_path / "a", tmp_path / "b"])


def test_it_loads_nothing_from_a_network(three: list[Path]) -> None:
    parts = parts_of(three)
    assert [address for address in parts.addresses if not address.startswith(("#", "data:,"))] == []
    assert parts.handlers == []
    assert "@import" not in parts.scripts["style"]
    assert "url(" not in parts.scripts["style"]
    assert not re.search(r"fetch\(|XMLHttpRequest|innerHTML|eval\(|https?:", parts.scripts["script"])


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&amp; <!-- \u2028 \udc80 \0"


def test_texts_of_models_and_files_are_escaped(tmp_path: Path) -> None:
    config = RunConfig(task="sums", method="single", model=HOSTILE[:-3].replace("/", ""), limit=3)
    answers = [
        make_answer(0, config, id=HOSTILE, question=HOSTILE, gold=HOSTILE, answer=HOSTILE, prediction=HOSTILE),
        make_answer(1, config, correct=False),
    ]
    failures = [Failure(id="q9", agent="judger", error=HOSTILE)]
    folders = [
        write_run(tmp_path / "one", answers, config=config, failures=failures),
        write_run(tmp_path / "two", answers, config=config.model_copy(update={"seed": 1})),
    ]
    parts = parts_of(folders)
    assert set(parts.scripts) == {"style", "script", "data-index", "data-questions-0-0"}
    assert "alert" not in parts.scripts["script"]
    assert parts.handlers == []
    assert "x" not in parts.addresses
    asked = parts.data("questions-0-0")[0]
    assert asked["question"] == asked["runs"]["r0"]["answer"] == HOSTILE
    page = make_page([load_runs(folder) for folder in folders])
    assert page.encode(errors="replace")


def test_the_same_runs_give_the_same_page_in_any_folder(tmp_path: Path) -> None:
    pages = []
    for place in ("here", "there"):
        folder = write_simple_run(
            tmp_path / place / "run", model=f"/models/{place}/Some-1B", task=f"/{place}/sums.jsonl"
        )
        pages.append(make_page([load_runs(folder)]))
    assert pages[0] == pages[1]
    assert str(tmp_path) not in pages[0]


def test_sections_without_data_are_left_out_and_named(tmp_path: Path) -> None:
    parts = parts_of([write_simple_run(tmp_path / "run", "10")])
    assert parts.sections == ["results", "time", "questions"]
    assert "× is in relation to" not in parts.text
    for hint in (
        "--method single",
        "--trace",
        "--latent-steps",
        "--memory deranged",
        "add another run",
        "Qwen3-4B",
        "The timeline: ",
    ):
        assert hint in parts.text


def test_every_section_is_there_if_runs_have_its_data(tmp_path: Path) -> None:
    steps = [
        write_simple_run(tmp_path / f"m{m}", "1011", method="latent", latent_steps=m, traces=[make_trace()])
        for m in (0, 10, 40)
    ]
    write_timeline_rows(steps[0], pipelined())
    parts = parts_of([write_simple_run(tmp_path / "one"), *steps])
    named = ["results", "steps", "time", "timeline", "hand-overs", "thoughts", "confusion", "questions"]
    assert parts.sections == named
    assert "m\u00a0=\u00a040" in parts.text


def test_runs_are_labelled_by_the_settings_in_which_they_differ(tmp_path: Path) -> None:
    folders = [
        write_simple_run(tmp_path / "w", method="latent", latent_steps=10, memory="deranged"),
        write_simple_run(tmp_path / "x", method="latent", latent_steps=10),
        write_simple_run(tmp_path / "y", method="latent", latent_steps=2),
        write_simple_run(tmp_path / "z", method="latent", latent_steps=2),
        write_simple_run(tmp_path / "s", method="single", latent_steps=3),
    ]
    runs = parts_of(folders).data("index")["runs"]
    assert [run["label"].replace("\u00a0", " ") for run in runs.values()] == [
        "single",
        "latent · m = 2 · y",
        "latent · m = 2 · z",
        "latent · m = 10",
        "latent · deranged memory · m = 10",
    ]
    assert [run["accent"] for run in runs.values()] == ["single", "latent", "latent", "latent", "control"]


def test_all_software_versions_are_listed(tmp_path: Path) -> None:
    folders = [write_simple_run(tmp_path / name, method=name) for name in ("single", "text", "latent")]
    for folder, number in zip(folders, ("2.9", "2.10", None), strict=True):
        path = folder / "summary.json"
        made = {"made_with": {"torch": number, "runtime": "some actors"}} if number else {}
        path.write_text(json.dumps(json.loads(path.read_text()) | made))
    assert "torch 2.9; or: torch 2.10" in parts_of(folders).text


def labels_of(folders: Sequence[Path]) -> list[str]:
    return [run["label"] for run in parts_of(folders).data("index")["runs"].values()]


def test_no_two_runs_have_the_same_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("x", "y"):
        write_simple_run(tmp_path / place / "run", method="text")
        for seed in (1, 2):
            write_simple_run(tmp_path / place / "seeds" / f"seed-{seed}", method="text", seed=seed)
    same_name = [tmp_path / place / "run" for place in ("x", "y")]
    assert labels_of(same_name) == ["text · run (1)", "text · run (2)"]
    (tmp_path / "y" / "seeds").rename(tmp_path / "y" / "more")
    assert labels_of([tmp_path / "x" / "seeds", tmp_path / "y" / "more"]) == [
        f"text · {name} · seed {seed}" for name in ("seeds", "more") for seed in (1, 2)
    ]
    (tmp_path / "y" / "run").rename(tmp_path / "y" / "other")
    monkeypatch.chdir(tmp_path / "x" / "run")
    assert labels_of([Path(), tmp_path / "y" / "other"]) == ["text · run", "text · other"]


def test_a_guard_is_in_the_labels_of_runs_that_differ_in_it(tmp_path: Path) -> None:
    folders = [write_simple_run(tmp_path / guard, method="latent", guard=guard) for guard in ("off", "drop")]
    assert labels_of(folders) == ["latent · guard off", "latent · guard drop"]


def test_tasks_and_models_are_separate_groups(tmp_path: Path) -> None:
    folders = [write_simple_run(tmp_path / name, task=name, method="single") for name in ("sums", "words")]
    parts = parts_of(folders)
    assert [group["title"] for group in parts.data("index")["groups"]] == ["sums, tiny", "words, tiny"]
    assert "confusion" not in parts.sections


def test_an_unfinished_run_has_no_time(tmp_path: Path) -> None:
    config = RunConfig(task="sums", method="single")
    folder = write_run(tmp_path / "run", [make_answer(0, config)], config=config, is_finished=False)
    parts = parts_of([folder])
    assert "not finished" in parts.text
    assert "--resume" in parts.text
    assert [number for number in parts.numbers if "data-field" in number] == []
    assert "100.0 %" in parts.text


def test_a_resumed_run_says_which_questions_its_time_leaves_out(tmp_path: Path) -> None:
    folder = write_simple_run(tmp_path / "run", "1101")
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_resumed": 3}))
    parts = parts_of([folder])
    assert "without 3 answered before" in parts.text
    assert "num_resumed" in check_numbers(parts, {"r0": folder})
    assert "answered before" not in parts_of([write_simple_run(tmp_path / "other")]).text


def test_a_run_without_an_answer_has_a_page(tmp_path: Path) -> None:
    config = RunConfig(task="sums", method="latent")
    failures = [Failure(id="q0", agent="judger", error="out of memory")]
    parts = parts_of([write_run(tmp_path / "run", [], config=config, failures=failures)])
    assert parts.data("index")["groups"][0]["rows"] == [["q0", "", "f", ""]]
    assert parts.data("questions-0-0")[0]["runs"]["r0"] == {"error": "judger: out of memory"}
    write_run(tmp_path / "empty", [], config=config, is_finished=False)
    assert parts_of([tmp_path / "empty"]).data("index")["groups"][0]["rows"] == []


def test_a_thought_that_is_not_finite_is_shown_as_such(tmp_path: Path) -> None:
    folder = write_simple_run(tmp_path / "run", method="latent", traces=[make_trace(bad=True), make_trace("q1")])
    parts = parts_of([folder])
    planner = parts.data("questions-0-0")[0]["runs"]["r0"]["agents"][0]
    assert planner["thoughts"][0][1] is None
    assert planner["alarms"][0] == {"step": 0, "text": "not finite: 3 of the thoughts from thought 0 on"}
    assert [row[3] for row in parts.data("index")["groups"][0]["rows"]] == ["ta", "t", "", ""]
    assert list(parts.data("paths-r0")) == ["q1"]


def test_a_thought_that_is_not_finite_has_no_figures_and_no_position(tmp_path: Path) -> None:
    good = make_trace().agents["planner"].thoughts[0]
    broken = Thought(tokens=(), entropy=0.0, norm=0.0, distance=0.0, nearest="", xy=(0.0, 0.0))
    silent = replace(good, tokens=(), entropy=0.0)
    planner = AgentTrace(prompt="Plan it.", thoughts=(good, silent, broken))
    folder = write_simple_run(tmp_path / "run", method="latent", traces=[Trace(id="q0", agents={"planner": planner})])
    parts = parts_of([folder])
    shown = parts.data("questions-0-0")[0]["runs"]["r0"]["agents"][0]["thoughts"]
    assert shown[1:] == [[[], None, 1.0, 0.25, " four"], [[], None, None, None, ""]]
    assert parts.data("paths-r0")["q0"]["planner"]["dots"].count("M") == 2


def test_alarms_of_a_guard_are_shown_without_traces(tmp_path: Path) -> None:
    config = RunConfig(task="sums", method="latent")
    plain, alarmed = make_answer(0, config), make_answer(1, config)
    planner = replace(alarmed.agents["planner"], alarms=(Alarm(kind="norm", step=2, value=9.0, limit=4.0),))
    alarmed = replace(alarmed, agents={**alarmed.agents, "planner": planner})
    parts = parts_of([write_run(tmp_path / "run", [plain, alarmed], config=config)])
    assert [row[3] for row in parts.data("index")["groups"][0]["rows"]] == ["", "a"]
    assert (
        parts.data("questions-0-0")[1]["runs"]["r0"]["agents"][0]["alarms"][0]["text"]
        == "norm at thought 2 is 9, beyond 4"
    )
    assert "1 with alarms" in parts.text


@pytest.mark.parametrize("text", ["It goes on and on. " * 400, "\u6f22" * 5000])
def test_a_large_run_stays_a_usable_file(tmp_path: Path, text: str) -> None:
    config = RunConfig(task="sums", method="text")
    answers = [make_answer(number, config, answer=f"{text} The answer is {number}.") for number in range(1319)]
    folder = write_run(tmp_path / "run", answers, config=config)
    page = make_page([load_runs(folder)])
    assert len(page.encode()) < 10_000_000
    parts = PageParts(page)
    assert "without their middle" in parts.text
    index = parts.data("index")["groups"][0]
    last = parts.data(f"questions-0-{1318 // index['piece_size']}")[1318 % index["piece_size"]]
    assert last["runs"]["r0"]["answer"].endswith("The answer is 1318.")
    assert "characters…" in last["runs"]["r0"]["answer"]
