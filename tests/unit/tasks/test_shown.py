"""The options of a question stand in the prompts of all agents exactly once."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks import load_questions, question_from
from latentmas_ray.tasks.choices.shown import PartlyShownError, with_options
from latentmas_ray.topology import RenderedPrompts, load_topology, parse_topology
from latentmas_ray.topology.yaml import BUILTIN

OPTIONS = ["granite", "chalk", "slate"]
NOTES = {"notes": ["Ann has 2 nuts.", "Bob has 3 nuts.", "Cid has 4 nuts."]}
# Records that hold the same three options, in the question too or not.
HELD: list[dict[str, Any]] = [
    {"question": "Which is soft?", "choices": OPTIONS},
    {"question": "Which is soft?\n", "choices": {"text": OPTIONS, "label": ["A", "B", "C"]}},
    {"question": "Which is soft?", "A": "granite", "B": "chalk", "C": "slate"},
    {"question": "Which is soft?", "options": {"a": "granite", "b": "chalk", "c": "slate"}},
    {"question": "Which is soft?", "ending0": "granite", "ending1": "chalk", "ending2": "slate"},
    {"question": "Which is soft?\nA. granite\nB. chalk\nC. slate", "choices": OPTIONS},
    {"question": "Which is soft?\na: granite\nb: chalk\nc: slate\nChoose one.", "choices": OPTIONS},
    {"question": "Which is soft?\n(A)  Granite.\n(B) Chalk.\n(C) Slate.", "choices": OPTIONS},
    {"question": "Which is soft: (A) granite, (B) chalk or (C) slate?", "choices": OPTIONS},
    {"question": "Which is soft?\n1. granite\n2. chalk\n3. slate", "choices": OPTIONS},
    {"question": "Which is soft?\n- granite\n- chalk\n- slate\nSay why.", "choices": OPTIONS},
    {"question": "Which is soft?\ngranite\nchalk\nslate", "choices": OPTIONS},
    {"question": "Which is soft: (1) granite, (2) chalk or (3) slate?", "choices": OPTIONS},
]


@pytest.mark.parametrize("record", HELD)
def test_every_built_in_topology_shows_each_option_once(tmp_path: Path, record: dict[str, Any]) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"id": "q", "gold": "B", **NOTES, **record}))
    question = load_questions(str(path))[0]
    for name in BUILTIN:
        topology = load_topology(name)
        prompts = RenderedPrompts.of(topology, [question])
        for agent in topology.agents:
            if "{{ question }}" not in agent.prompt:
                continue  # an expert that sees only its notes
            text = prompts.get(agent, question, "").messages[-1]["content"]
            for letter, option in zip("ABC", OPTIONS, strict=True):
                assert len(re.findall(option, text, re.IGNORECASE)) == 1, (name, agent.name)
                assert re.search(rf"\(?{letter}[.:)]\s+{option}", text, re.IGNORECASE), (name, agent.name)


def test_a_topology_that_shows_the_options_itself_gets_the_question_without() -> None:
    text = """
    name: own
    agents:
      - name: solver
        thinks: text
        prompt: "{{ question }}{% for choice in choices %} [{{ choice }}]{% endfor %}"
    """
    topology = parse_topology(text, "own.yaml")
    question = question_from({"question": "Which?", "choices": ["oak", "elm"], "gold": "A"}, index=0)
    prompt = RenderedPrompts.of(topology, [question]).get(topology.agents[0], question, "")
    assert prompt.messages[-1]["content"] == "Which? [oak] [elm]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Which?", "Which?\nA. oak\nB. elm"),
        ("Given:\nA. It rains.\nB. It snows.\nWhich?", "Given:\nA. It rains.\nB. It snows.\nWhich?\nA. oak\nB. elm"),
        ("Is it an oak or an elm?", "Is it an oak or an elm?\nA. oak\nB. elm"),
        ("0) oak 1) elm", "(A) oak (B) elm"),
        ("哪个？A、oak B、elm", "哪个？A、oak B、elm"),
        ("A) oak\nB) elm\nAnswer:", "A) oak\nB) elm\nAnswer:"),
        ("A. oak forests are old.", "A. oak forests are old."),
    ],
)
def test_texts(text: str, shown: str) -> None:
    if "forests" in text:
        with pytest.raises(PartlyShownError):
            with_options(text, {"A": "oak", "B": "elm"})
        return
    assert with_options(text, {"A": "oak", "B": "elm"}) == shown


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=8).filter(str.strip), min_size=2, max_size=5))
def test_what_is_shown_once_stays_as_it_is(text: str, texts: list[str]) -> None:
    options = {letter: " ".join(one.split()) for letter, one in zip("ABCDE", texts, strict=False)}
    try:
        shown = with_options(text, options)
    except PartlyShownError:
        return
    for letter, option in options.items():
        assert re.search(rf"{letter}\W+{re.escape(option.rstrip('.'))}", shown, re.IGNORECASE)
