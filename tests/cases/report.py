"""Output folders of made-up runs, as a run would have written them, and a page taken apart."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from latentmas_ray.config import RunConfig
from latentmas_ray.engine.diagnostics.trace import AgentTrace, Alarm, EmbeddingMap, Thought
from latentmas_ray.report import load_runs
from latentmas_ray.report.html import make_page
from latentmas_ray.report.html.figures import look_up
from latentmas_ray.runs.folder import encode_row
from latentmas_ray.runs.results import AgentUse, Answer, Failure, Transfer
from latentmas_ray.runs.summary import summarise
from latentmas_ray.runs.traces import Trace

PLANE = EmbeddingMap(
    explained=(0.04, 0.02),
    tokens=tuple((f"word{index}", float(index % 17), float(index * index % 23)) for index in range(60)),
)


def make_answer(number: int, config: RunConfig, *, correct: bool | None = True, **changes: Any) -> Answer:
    """One question's answer by two agents, or by one where there is only one."""
    is_single = config.method == "single"
    planner = AgentUse(
        prompt_tokens=30 + number,
        latent_steps=config.latent_steps if config.method == "latent" else 0,
        output_tokens=25 if config.method == "text" else 0,
        memory_bytes=1000 * (number + 1) if config.method == "latent" else 0,
        seconds={"wait": 0.0, "absorb": 0.0, "prefill": 0.25, "think": 0.5 + number, "decode": 0.0, "emit": 0.001},
        text=f"plan {number}" if config.method == "text" else None,
    )
    judger = AgentUse(
        prompt_tokens=20, latent_steps=0, output_tokens=12, memory_bytes=0, seconds={"prefill": 0.125, "decode": 2.5}
    )
    read = Transfer(
        source="planner",
        reader="judger",
        num_bytes=1000 * (number + 1),
        transport="tcp",
        link="cross_node",
        seconds=0.004,
        exposed_seconds=0.001,
        moved_bytes=900,
    )
    given: dict[str, Any] = {
        "id": f"q{number}",
        "question": f"What is {number} plus {number}?",
        "gold": str(2 * number),
        "answer": f"It is {2 * number if correct else 'unknown'}.",
        "answer_token_ids": (1, 2),
        "prediction": str(2 * number) if correct else None,
        "correct": correct,
        "seconds": 3.5,
        "agents": {"judger": judger} if is_single else {"planner": planner, "judger": judger},
        "transfers": (read,) if config.method == "latent" else (),
        "batch_size": 2,
    }
    return Answer(**{**given, **changes})


def make_trace(name: str = "q0", *, num_thoughts: int = 3, bad: bool = False) -> Trace:
    thoughts = tuple(
        Thought(
            tokens=((" four", 0.75), (" five", 0.125)),
            entropy=float("nan") if bad else 1.5 + step,
            norm=1.0,
            distance=0.25,
            nearest=" four",
            xy=(float("nan"), 0.0) if bad else (2.0 + step, 3.0),
        )
        for step in range(num_thoughts)
    )
    alarms = (Alarm(kind="not-finite", step=0, value=float(num_thoughts)),) if bad else ()
    planner = AgentTrace(prompt="<|user|>Plan it.", thoughts=thoughts, alarms=alarms)
    judger = AgentTrace(prompt="<|user|>Judge it.", reads=("planner",), effects={"planner": 2.25}, text="It is 0.")
    return Trace(id=name, agents={"planner": planner, "judger": judger})


def write_run(
    folder: Path,
    answers: Sequence[Answer],
    *,
    config: RunConfig,
    failures: Sequence[Failure] = (),
    traces: Sequence[Trace] = (),
    is_finished: bool = True,
) -> Path:
    """The folder of a run that ended like this."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))
    (folder / "results.jsonl").write_bytes(b"".join(encode_row(answer.to_row()) for answer in answers))
    if failures:
        (folder / "failures.jsonl").write_text("".join(json.dumps(asdict(failure)) + "\n" for failure in failures))
    if traces:
        (folder / "traces.jsonl").write_text("".join(json.dumps(trace.to_row()) + "\n" for trace in traces))
        (folder / "embeddings.json").write_text(json.dumps(PLANE.to_row()))
    if is_finished:
        summary = summarise(answers, failures, config=config, seconds=12.5)
        (folder / "summary.json").write_text(json.dumps(summary.to_json()))
    return folder


def write_simple_run(folder: Path, right: str = "1101", *, traces: Sequence[Trace] = (), **config: Any) -> Path:
    """A run with one answer for each letter: 1 right, 0 wrong, - not graded."""
    run_config = RunConfig(**{"task": "sums", "method": "single", "max_new_tokens": 64, **config})
    verdicts = {"1": True, "0": False, "-": None}
    answers = [make_answer(number, run_config, correct=verdicts[letter]) for number, letter in enumerate(right)]
    return write_run(folder, answers, config=run_config, traces=traces)


class PageParts(HTMLParser):
    """What tests look at: numbers, addresses, scripts, sections, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.numbers: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.scripts: dict[str, str] = {}
        self.sections: list[str] = []
        self.text = ""
        self._inside: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "data":
            self.numbers.append(given)
        if tag == "section":
            self.sections.append(given["id"])
        if tag in ("script", "style"):
            self._inside = given.get("id", tag)
            self.scripts.setdefault(self._inside, "")
        self.addresses += [given[name] for name in ("src", "href", "action", "data", "srcset") if name in given]
        self.handlers += [name for name in given if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.text += data
        else:
            self.scripts[self._inside] += data

    def data(self, name: str) -> Any:
        """One of the page's blocks of data."""
        return json.loads(self.scripts[f"data-{name}"])


def parts_of(folders: Sequence[Path], **options: Any) -> PageParts:
    return PageParts(make_page([load_runs(folder) for folder in folders], **options))


def check_numbers(parts: PageParts, folder_of: dict[str, Path]) -> set[str]:
    """Every number that says where it is from is there with the same value; returns where they are from."""
    summaries = {key: json.loads((folder / "summary.json").read_text()) for key, folder in folder_of.items()}
    named = [number for number in parts.numbers if "data-field" in number]
    for number in named:
        found = look_up(summaries[number["data-run"]], number["data-field"].split("."))
        assert float(number["value"]) == found, number
    return {number["data-field"] for number in named}
