"""Whatever is in a run's files, or in their place, every command ends with 0 or with one line and 2."""

import copy
import io
import json
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.engine.diagnostics.trace import Alarm
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.results import Failure
from latentmas_ray.tasks.question import Question
from tests.cases.report import make_answer, make_trace, write_run
from tests.cases.timeline import pipelined, write_timeline_rows

CONFIG = RunConfig(task="sums", method="latent", guard="warn", max_new_tokens=64, trace=2)
QUESTIONS = [
    Question(id=f"q{n}", question=f"What is {n} plus {n}?", kind="number", gold=str(2 * n), record={}) for n in range(4)
]
LINES = ("results.jsonl", "traces.jsonl", "timeline.jsonl", "failures.jsonl")
FILES = (*LINES, "summary.json", "embeddings.json", "config.yaml")
IN_FULL = ("results.jsonl", "summary.json", "config.yaml")  # one of each kind; the others are read as these are


def all_of(cases: Iterable[tuple[Any, ...]], is_quick: Callable[..., bool]) -> list[Any]:
    """All cases as parameters, of which those that are not quick are slow."""
    return [pytest.param(*case, marks=[] if is_quick(*case) else pytest.mark.slow) for case in cases]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of file, and the task and the other run that the commands are given."""
    root = tmp_path_factory.mktemp("damaged")
    alarm = Alarm(kind="norm", step=1, value=3.0, limit=2.0)
    answers = [make_answer(number, CONFIG, correct=number != 1) for number in range(3)]
    agents = answers[0].agents
    answers[0] = replace(answers[0], agents={**agents, "planner": replace(agents["planner"], alarms=(alarm,))})
    traces = [make_trace("q0"), make_trace("q1", bad=True)]
    failures = [Failure(id="q3", agent="judger", error="too long")]
    write_run(root / "run", answers, config=CONFIG, failures=failures, traces=traces)
    write_timeline_rows(root / "run", pipelined())
    write_run(root / "other", answers[:2], config=CONFIG)
    task = [{"id": one.id, "question": one.question, "gold": one.gold} for one in QUESTIONS]
    (root / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in task))
    return root


@pytest.fixture
def run(intact: Path, tmp_path: Path) -> Path:
    shutil.copytree(intact, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def commands(root: Path) -> Iterator[list[str]]:
    run = str(root / "run")
    yield ["report", run, str(root / "other"), "--output", str(root / "page.html")]
    yield ["timeline", run, "--output", str(root / "timeline.html")]
    yield ["inspect", run]
    yield ["inspect", run, "--question", "q0", "--full"]
    yield ["inspect", run, "--question", "q1", "--agent", "planner"]
    yield ["compare", run, str(root / "other"), "--answers"]
    yield ["compare", str(root / "other"), run, "--json"]
    yield ["grade", "--task", str(root / "task.jsonl"), "--results", f"{run}/results.jsonl", "--output", f"{root}/new"]


def called(args: list[str]) -> tuple[int, str]:
    """Exit code and what went to stderr; what is printed must be possible to encode."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors=how) for how in ("strict", "backslashreplace"))
    with redirect_stdout(out), redirect_stderr(err):
        code = main(args)
    out.flush()
    err.flush()
    return code, err.buffer.getvalue().decode()  # type: ignore[attr-defined]


def check(root: Path, *, must_fail: tuple[str, ...] = ()) -> None:
    """Call every command (of those that must fail one of each name). Those in `must_fail` must say why in one line."""
    for args in commands(root) if not must_fail else {args[0]: args for args in commands(root)}.values():
        (root / "new").unlink(missing_ok=True)
        code, err = called(args)
        assert code in (0, 2), (args, err)
        assert code == 0 or err.count("\n") == 1, (args, err)
        assert code == 2 or args[0] not in must_fail, args
        assert "Traceback" not in err
    told = refusal_of_resume(root / "run")
    assert "\n" not in told
    assert told or "resume" not in must_fail


def refusal_of_resume(folder: Path) -> str:
    try:
        resume(folder)
    except JournalError as error:
        return str(error)
    return ""


def resume(folder: Path) -> None:
    with Journal.open(folder, CONFIG.model_copy(update={"resume": True}), QUESTIONS):
        pass


def test_the_intact_run_is_read_by_all(run: Path) -> None:
    for args in commands(run.parent):
        assert called(args)[0] == 0
    resume(run)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", "\x1b[31m", "q0", "5", "nan", "<script>", "", "a" * 300, 10**30, -1, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths_in(child, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any, *, drops: bool) -> Any:
    if not path:
        return new
    result = copy.deepcopy(value)
    place = result
    for key in path[:-1]:
        place = place[key]
    if drops:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return result


def damage(content: bytes, name: str, draw: st.DataObject) -> bytes:
    """One value of the file, at any depth, becomes another one or goes away."""
    if name == "config.yaml":
        values: list[Any] = [yaml.safe_load(content)]
    else:
        values = [json.loads(line) for line in content.splitlines()] if name in LINES else [json.loads(content)]
    number = draw.draw(st.integers(0, len(values) - 1))
    path = draw.draw(st.sampled_from(list(paths_in(values[number]))))
    values[number] = changed(values[number], path, draw.draw(JSON), drops=bool(path) and draw.draw(st.booleans()))
    if name == "config.yaml":
        return json.dumps(values[0]).encode()  # JSON is YAML
    return "".join(json.dumps(value) + "\n" for value in values).encode()


@contextmanager
def replaced(root: Path, name: str, content: bytes) -> Iterator[None]:
    """The run with another content of one file. Whatever the commands leave there is removed."""
    folder = root / "run"
    before = {one.name: one.read_bytes() for one in folder.iterdir()}
    (folder / name).write_bytes(content)
    try:
        yield
    finally:
        for one in folder.iterdir():
            one.unlink()
        for other, old in before.items():
            (folder / other).write_bytes(old)


@settings(max_examples=15)
@given(data=st.data())
def test_any_value_at_any_place_is_read_or_told(intact: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    with replaced(intact, name, damage((intact / "run" / name).read_bytes(), name, data)):
        check(intact)


@settings(max_examples=15)
@given(name=st.sampled_from(FILES), content=st.binary(max_size=60))
def test_any_bytes_are_read_or_told(intact: Path, name: str, content: bytes) -> None:
    with replaced(intact, name, content):
        check(intact)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_any_value_of_every_file(name: str, intact: Path, data: st.DataObject) -> None:
    with replaced(intact, name, damage((intact / "run" / name).read_bytes(), name, data)):
        check(intact)


READERS = {  # the commands that must tell of a damaged file
    "results.jsonl": ("report", "inspect", "compare", "grade", "resume"),
    "traces.jsonl": ("report", "inspect", "compare", "resume"),
    "timeline.jsonl": ("report", "inspect", "compare", "timeline"),
    "failures.jsonl": ("report", "inspect", "compare"),
    "summary.json": ("report", "inspect", "compare"),
    "embeddings.json": ("report", "inspect", "compare"),
    "config.yaml": ("report", "inspect", "compare", "resume"),
}
NESTED: dict[str, Callable[[int], bytes]] = {
    "lists": lambda depth: b"[" * depth,
    "objects": lambda depth: b'{"id":' * depth,
    "closed lists": lambda depth: b"[" * depth + b"]" * depth,
    "an id of lists": lambda depth: b'{"id": ' + b"[" * depth + b"]" * depth + b"}",
    "lists and objects": lambda depth: b'[{"a":' * depth,
    "a little too deep": lambda depth: b"[" * 990 + b"]" * 990,
}


@pytest.mark.parametrize(("name", "case"), all_of(product(FILES, NESTED), lambda name, _: name in IN_FULL))
def test_nesting_is_told(name: str, case: str, run: Path) -> None:
    content = NESTED[case](100_000) + b"\n"
    if name == "results.jsonl":
        content += b"{}\n"  # an incomplete last line is what a killed run leaves
    (run / name).write_bytes(content)
    check(run.parent, must_fail=READERS[name])


YAML = {
    "lists by dashes": b"- " * 5000 + b"a",
    "keys by question marks": b"? " * 5000,
    "aliases that double": b"a: &a [x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c, *%c, *%c]\n" % (n, n, n - 1, n - 1, n - 1, n - 1) for n in range(98, 122))
    + b"task: *y\n",
    "an alias of itself": b"task: &a [*a]\n",
    "a tag that runs code": b"task: !!python/object/apply:os.system [touch pwned]\n",
    "a number that is none": b"task: !!int x\n",
    "a date that is none": b"task: 2024-13-45\n",
    "a date tag": b"task: !!timestamp x\n",
    "a truth tag": b"task: !!bool x\n",
    "a key that is a list": b"? [a]\n: b\n",
    "two documents": b"task: a\n---\ntask: b\n",
    "not finite": b"task: .nan\nlatent_steps: .inf\n",
}


@pytest.mark.parametrize("case", YAML)
def test_yaml_that_no_run_writes_is_told(case: str, run: Path) -> None:
    (run / "config.yaml").write_bytes(YAML[case])
    check(run.parent, must_fail=READERS["config.yaml"])


IDS = {"dict": {}, "list": [1], "null": None, "true": True, "nan": math.nan, "number": 7, "nested": {"id": ["q0"]}}


@pytest.mark.parametrize(
    ("name", "value"), all_of(product(LINES, IDS), lambda name, value: name in IN_FULL or value == "dict")
)
def test_an_id_that_is_no_text_is_told(name: str, value: str, run: Path) -> None:
    path = run / name
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["event" if name == "timeline.jsonl" else "id"] = IDS[value]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    check(run.parent, must_fail=READERS[name])


NOT_FINITE = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 400)
PLACES = {
    "summary.json": ("seconds", "accuracy", "questions_per_second", "moved_bytes", "output_tokens_per_question"),
    "results.jsonl": ("seconds", "memory_bytes", "batch_size", "transfers.0.seconds", "agent_seconds.judger.decode"),
}


@pytest.mark.parametrize(
    ("name", "number", "place"),  # in each file every number and every place once; all pairs are slow
    all_of(
        ((name, number, place) for name, places in PLACES.items() for number, place in product(NOT_FINITE, places)),
        lambda name, number, place: NOT_FINITE.index(number) == PLACES[name].index(place),
    ),
)
def test_a_number_that_is_not_finite_is_told(name: str, number: str, place: str, run: Path) -> None:
    path = run / name
    first, *others = path.read_text().splitlines()
    keys = [int(key) if key.isdigit() else key for key in place.split(".")]
    row = changed(json.loads(first), tuple(keys), "HERE", drops=False)
    path.write_text("\n".join([json.dumps(row).replace('"HERE"', number), *others]) + "\n")
    must_fail = [command for command in READERS[name] if command != "grade"]  # which reads id and answer alone
    check(run.parent, must_fail=tuple(must_fail))


def as_fifo(path: Path) -> None:
    os.mkfifo(path)


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path may only be short
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_folder(path: Path) -> None:
    path.mkdir()


def as_link_in_a_circle(path: Path) -> None:
    path.symlink_to(path.name)


PLACED: tuple[Callable[[Path], None], ...] = (as_fifo, as_socket, as_device, as_folder, as_link_in_a_circle)


@pytest.mark.parametrize(
    ("name", "place"), all_of(product(FILES, PLACED), lambda name, place: name in IN_FULL or place is as_fifo)
)
def test_something_else_in_the_place_of_a_file_is_told(name: str, place: Callable[[Path], None], run: Path) -> None:
    (run / name).unlink()
    place(run / name)
    is_absent = place is as_link_in_a_circle and name not in ("results.jsonl", "config.yaml")
    check(run.parent, must_fail=() if is_absent else READERS[name])


WRITTEN = ("traces.jsonl", "timeline.jsonl", "failures.jsonl", "summary.json", "embeddings.json")


@pytest.mark.parametrize(
    ("name", "place"),
    # A link to nothing is replaced, but not followed for the lock.
    [(name, place) for name in WRITTEN for place in PLACED[:-1]] + [(".lock", place) for place in PLACED],
)
def test_nothing_is_written_into_what_is_no_file(name: str, place: Callable[[Path], None], tmp_path: Path) -> None:
    """A first start of a run too: what is there is reported before anything starts."""
    place(tmp_path / name)
    with pytest.raises(JournalError) as caught:
        Journal.open(tmp_path, CONFIG, QUESTIONS)
    assert "\n" not in str(caught.value)


LONG = ("x" * 300, "y/" + "x" * 300, "/".join(["z" * 200] * 30), "x" * 256 + "/a", "é" * 200)


@pytest.mark.parametrize("name", LONG)
def test_an_overlong_name_is_told(name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    (run.parent / "y").mkdir()
    eval_args = ["eval", "--task", "chain", "--limit", "1", "--runtime", "local"]
    for args in (
        *(["report", name], ["report", "run", "--output", f"{name}.html"]),
        *(["inspect", name], ["compare", name, "run"]),
        ["compare", "run", "other", "--base", name],
        ["grade", "--task", "task.jsonl", "--results", name],
        ["grade", "--task", f"{name}.jsonl", "--results", "run/results.jsonl"],
        ["grade", "--task", "task.jsonl", "--results", "run/results.jsonl", "--output", name],
        ["memory", name],
        [*eval_args, "--output", name],
        [*eval_args, "--output", name, "--resume"],
        [*eval_args, "--output", name, "--seeds", "1,2"],
        [*eval_args, "--save-memory", name],
        [*eval_args, "--topology", f"{name}.yaml"],
        [*eval_args, "--model", name],
        [*eval_args, "--controls", "--output", name],
        *(["eval", "--config", name], ["results", name], ["results", ".", "--markdown", f"{name}.md"]),
        ["ask", "2+2?", "--from-memory", name],
    ):
        code, err = called(args)
        assert code == 2, (args, err)
        assert err.count("\n") == 1, (args, err)


def test_a_long_name_that_fits_is_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    name = "x" * 250
    assert called(["grade", "--task", "task.jsonl", "--results", "run/results.jsonl", "--output", name])[0] == 0
    assert called(["report", "run", "--output", f"{name}.html"])[0] == 0
    assert (run.parent / name).read_text().count("\n") == 3


def test_several_seeds_with_something_else_in_the_place_of_their_summary(tmp_path: Path) -> None:
    (tmp_path / "out" / "summary.json").mkdir(parents=True)
    args = ["eval", "--task", "chain", "--limit", "1", "--runtime", "local", "--output", f"{tmp_path}/out"]
    code, err = called([*args, "--seeds", "1,2"])
    assert (code, err.count("\n")) == (2, 1)
    assert "summary.json: got 'a folder'; it must be a regular file" in err
