"""Reading output folders."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray import LatentMAS, RunConfig
from latentmas_ray.engine.diagnostics.trace import AgentTrace, Alarm, EmbeddingMap, Thought
from latentmas_ray.errors import JournalError
from latentmas_ray.report import load_run
from latentmas_ray.runs.traces import EMBEDDINGS_NAME, TRACES_NAME, Trace, read_embeddings, read_traces
from tests.cases.report import make_trace, write_simple_run

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
THOUGHTS = st.builds(
    Thought,
    tokens=st.lists(st.tuples(st.text(), NUMBERS), max_size=3).map(tuple),
    entropy=NUMBERS,
    norm=NUMBERS,
    distance=NUMBERS,
    nearest=st.text(),
    xy=st.tuples(NUMBERS, NUMBERS),
)
ALARMS = st.builds(
    Alarm, kind=st.sampled_from(["norm", "no-effect"]), step=st.none() | st.integers(0, 80), value=NUMBERS
)
AGENTS = st.builds(
    AgentTrace,
    prompt=st.text(),
    reads=st.lists(st.text(), max_size=2).map(tuple),
    thoughts=st.lists(THOUGHTS, max_size=3).map(tuple),
    text=st.none() | st.text(),
    effects=st.dictionaries(st.text(), NUMBERS, max_size=2),
    alarms=st.lists(ALARMS, max_size=2).map(tuple),
)


@given(st.builds(Trace, id=st.text(), agents=st.dictionaries(st.text(), AGENTS, max_size=3)))
def test_a_trace_survives_json(trace: Trace) -> None:
    assert Trace.from_row(json.loads(json.dumps(trace.to_row()))) == trace


def test_a_map_of_embeddings_survives_its_file(tmp_path: Path) -> None:
    drawn = EmbeddingMap(explained=(0.2, 0.1), tokens=(("a", 1.0, -2.0), ("b", 0.0, 0.5)))
    assert read_embeddings(tmp_path) is None
    (tmp_path / EMBEDDINGS_NAME).write_text(json.dumps(drawn.to_row()))
    assert read_embeddings(tmp_path) == drawn


def test_a_run_is_read_while_it_is_written(tmp_path: Path) -> None:
    """A last line without its end is not damage."""
    path = write_simple_run(tmp_path / "run", "110") / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(load_run(tmp_path / "run").answers) == 2


def test_an_unfinished_last_line_of_traces_is_ignored(tmp_path: Path) -> None:
    trace = Trace(id="q", agents={"solo": AgentTrace(prompt="p")})
    (tmp_path / TRACES_NAME).write_text(json.dumps(trace.to_row()) + '\n{"id": "r"')
    assert read_traces(tmp_path) == {"q": trace}
    (tmp_path / TRACES_NAME).write_text('{"id": "r"}\n')
    with pytest.raises(JournalError, match=r"traces\.jsonl:1"):
        read_traces(tmp_path)


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    config = RunConfig(task="notes", limit=2, runtime="local", latent_steps=1, max_new_tokens=4, output=str(tmp_path))
    with LatentMAS(config) as system:
        summary = system.evaluate()
    run = load_run(tmp_path)
    assert run.config == config
    assert run.summary == summary
    assert [answer.id for answer in run.answers] == ["notes-0", "notes-1"]
    assert run.failures == ()
    assert run.traces == {}
    assert run.embeddings is None
    (tmp_path / "summary.json").unlink()
    assert load_run(tmp_path) == replace(run, summary=None)


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("config.yaml", "[", "config.yaml"),
        ("config.yaml", "task: []", "config.yaml"),
        ("results.jsonl", "{}\n", r"results\.jsonl:1"),
        ("config.yaml", "name: another program's", "config.yaml"),
        ("config.yaml", "[1]", "config.yaml"),
        ("summary.json", "[]", "summary.json"),
        ("failures.jsonl", "[]\n", "failures.jsonl"),
        ("failures.jsonl", '{"id": 1, "agent": 2, "error": 3}\n', "failures.jsonl"),
        ("embeddings.json", "{}", "embeddings.json"),
        ("embeddings.json", '{"explained": [0.2, 0.1], "tokens": [["a", "b", "c"]]}', "embeddings.json"),
    ],
)
def test_a_file_that_no_run_wrote_is_refused(tmp_path: Path, name: str, content: str, field: str) -> None:
    (tmp_path / "config.yaml").write_text("task: notes")
    (tmp_path / "results.jsonl").write_text("")
    (tmp_path / name).write_text(content)
    with pytest.raises(JournalError, match=field):
        load_run(tmp_path)


@pytest.mark.parametrize(
    "change", [{"accuracy": "high"}, {"agents": {"solver": 3}}, {"seconds": None}, {"hand_overs": [{}]}]
)
def test_a_summary_with_other_values_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write_simple_run(tmp_path / "run")
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(JournalError, match=r"summary\.json"):
        load_run(folder)


def test_a_thought_with_other_values_is_refused(tmp_path: Path) -> None:
    folder = write_simple_run(tmp_path / "run", method="latent", traces=[make_trace()])
    path = folder / TRACES_NAME
    path.write_text(path.read_text().replace('"norm": 1.0', '"norm": "long"', 1))
    with pytest.raises(JournalError, match=r"traces\.jsonl:1"):
        load_run(folder)


def test_a_repeated_answer_is_refused(tmp_path: Path) -> None:
    path = write_simple_run(tmp_path / "run", "10") / "results.jsonl"
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(JournalError, match=r"results\.jsonl:3: id: got 'q0'; it is repeated"):
        load_run(path.parent)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"config\.yaml"):
        load_run(tmp_path)
    with pytest.raises(JournalError, match="no such folder"):
        load_run(tmp_path / "none")
