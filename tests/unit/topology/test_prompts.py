"""Prompts: the variables of a template, what it must not do, and errors that are found before the run."""

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from latentmas_ray.errors import TopologyError
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import (
    Agent,
    RenderedPrompts,
    Topology,
    format_context,
    render_messages,
    seen_by,
)
from latentmas_ray.topology import prompts as prompts_module


def _question(**fields: Any) -> Question:
    record = {"id": "q7", "question": "raw", "gold": "42", **fields}
    return Question(id="q7", question="How many?", kind="number", gold="42", record=record)


def _rendered(prompt: str, *, context: str = "", **fields: Any) -> str:
    agent = Agent(name="a", prompt=prompt)
    (message,) = render_messages(agent, _question(**fields), context=context, answer_form="Say it.")
    assert message["role"] == "user"
    return message["content"]


def _alone(**keys: Any) -> Topology:
    return Topology(name="x", agents=[Agent(name="a", thinks="text", **{"prompt": "p", **keys})])


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{{ question }} {{ answer_form }}", "How many? Say it."),
        ("{{ record.question }}, {{ id }}, {{ record['hard-one'] }}", "raw, q7, 1"),
        ("{% for choice in choices %}{{ loop.index }}) {{ choice }} {% endfor %}", "1) x < y 2) é "),
        ("{{ choices | tojson }}", '["x < y", "é"]'),
        ("{{ choices | join(', ') | upper | indent(2) }}", "X < Y, É"),
        ("{{ 'yes' if hint is defined else 'no' }}{{ hint | default('') }}", "no"),
        ("{{ 3 * 4 + 2 ** 3 }} {{ 'ab' * 2 + 'c' }} {{ '%.1f' % 2 }}", "20 ababc 2.0"),
        ("{{ choices + [1] }}", "['x < y', 'é', 1]"),
        ("{{ record | length }} {{ 'gold' in record }}", "4 False"),
        ("a\n{% if context %}\n{{ context }}\n{% endif %}\nb\n", "a\nb"),
        ("  kept  \n\n", "  kept  \n"),
        ("{{ range(3) | list }}{{ 123456789 }}{{ '{}' }}", "[0, 1, 2]123456789{}"),
    ],
)
def test_what_a_prompt_can_do(prompt: str, text: str) -> None:
    assert _rendered(prompt, choices=["x < y", "é"], **{"hard-one": 1}) == text


def test_text_from_other_agents_is_not_rendered_as_a_template() -> None:
    assert _rendered("{{ question }}{{ context }}", context="{{ 1 + 1 }}{% if %}") == "How many?{{ 1 + 1 }}{% if %}"


def test_a_context_that_no_template_mentions_is_put_before_the_prompt() -> None:
    context = format_context([("planner", "Do this.\n"), ("critic", " ")])
    assert context == "planner wrote:\nDo this.\n\ncritic wrote:\n(nothing)"
    assert _rendered("Now.", context=context) == f"The other agents' work so far:\n\n{context}\n\nNow."
    assert _rendered("{% if context %}{{ context }}.{% endif %}Now.", context="Work") == "Work.Now."
    assert _rendered("Now.") == "Now."
    assert format_context([]) == ""


def test_context_in_the_system_message() -> None:
    agent = Agent(name="a", system="{{ context }}", prompt="Now.")
    messages = render_messages(agent, _question(), context="Work", answer_form="")
    assert messages == ({"role": "system", "content": "Work"}, {"role": "user", "content": "Now."})
    # An empty system message is none: some chat templates would print its frame.
    assert [message["role"] for message in render_messages(agent, _question(), context="", answer_form="")] == ["user"]


def test_suffix_keeps_its_last_line_break() -> None:
    agent = Agent(name="a", prompt="p", suffix="<think>{{ id }}\n")
    assert RenderedPrompts().get(agent, _question(), "").suffix == "<think>q7\n"


UNSAFE = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ question['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ record.keys.__self__ }}",
    "{{ range.__init__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ joiner.__init__.__globals__.os }}",
    "{{ self.__init__.__globals__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ ('{0.__class__}'|attr('format'))(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ choices.append(3) }}",
    "{{ record.update({'a': 1}) }}",
    "{{ record.pop('id') }}",
    "{{ lipsum() }}",
    "{{ 'x' * 10**9 }}",
    "{{ 'x' * 1000000000 }}",
    "{{ [0] * 1000000000 }}",
    "{{ 1000000000 * 'x' }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ 2 ** 9999 * 2 ** 9999 }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ range(10**9) | list }}",
    "{{ range(99999) | list }}",
    "{% for i in range(10000) %}{{ 'x' * 1000 }}{% endfor %}",
    "{{ 'x'.ljust(999999999) }}",
    "{{ 'x' | center(999999999) }}",
    "{{ 'x' | center(width=999999999) }}",
    "{{ 'x' | indent(999999999, first=True) }}",
    "{{ [1] | batch(999999999, 'x') | list }}",
    "{{ 1.5 | round(999999999, 'ceil') }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 1 / 0 }}",
    "{{ question + 1 }}",
    "{{ question() }}",
    "{{ record.gold }}",
    "{{ record['gold'] }}",
]


@pytest.mark.parametrize("prompt", UNSAFE)
def test_what_a_prompt_cannot_do(prompt: str) -> None:
    began = time.process_time()  # of this process: the machine may be busy
    with pytest.raises(TopologyError) as caught:
        _rendered(prompt, choices=[1, 2])
    assert caught.value.field == "agents.a.prompt"
    assert "q7" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 2


def test_a_template_cannot_change_the_record() -> None:
    question = _question(choices=["a"])
    with pytest.raises(TopologyError):
        _rendered("{% set x = record.choices.append(1) %}{{ x }}", choices=question.record["choices"])
    assert question.record["choices"] == ["a"]


@pytest.mark.parametrize("key", ["prompt", "system", "suffix"])
def test_a_missing_field_is_found_before_the_run(key: str) -> None:
    topology = _alone(**{key: "{{ question }} {{ hint }}"})
    RenderedPrompts.of(topology, [_question(hint="h")])
    with pytest.raises(TopologyError) as caught:
        RenderedPrompts.of(topology, [_question(hint="h"), _question()])
    assert caught.value.field == f"agents.a.{key}"
    assert caught.value.value == "hint"
    assert "question q7 does not have it; a prompt can use id, question, record, context" in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("{% if context %}{{ hint }}{% endif %}", "does not have it"),
        ("{{ record.hint }}", "has no attribute 'hint'"),
        ("{{ ''.__class__ }}", "unsafe"),
        ("{{ question + 1 }}", "cannot be rendered"),
        ("{{ gold }}", "no agent may see"),
        ("{{", "Jinja2"),
    ],
)
def test_check_finds(prompt: str, part: str) -> None:
    with pytest.raises(TopologyError, match=part):
        RenderedPrompts.of(_alone(prompt=prompt), [_question()])


def test_an_invalid_character_in_a_used_field_is_found_before_the_run() -> None:
    broken = _question(notes="half \ud83d of it")
    RenderedPrompts.of(_alone(prompt="{{ question }}"), [broken])
    with pytest.raises(
        TopologyError, match="got 'question q7'; a field that its prompt uses has half of a surrogate pair"
    ):
        RenderedPrompts.of(_alone(prompt="Read {{ notes }}"), [broken])


def test_check_accepts_optional_fields_and_names_few_of_many() -> None:
    RenderedPrompts.of(
        _alone(prompt="{{ hint | default('none') }}{% if more is defined %}{{ more }}{% endif %}"), [_question()]
    )
    many = {f"field{i}": i for i in range(100)}
    with pytest.raises(TopologyError, match=r"field17, …$"):
        RenderedPrompts.of(_alone(prompt="{{ hint }}"), [_question(**many)])


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each template was rendered."""
    counts: Counter[str] = Counter()
    render = prompts_module.render

    def count(template: str, *arguments: Any, **more: Any) -> str:
        counts[template] += 1
        return render(template, *arguments, **more)

    monkeypatch.setattr(prompts_module, "render", count)
    return counts


def _talking() -> Topology:
    first = Agent(name="first", system="one {{ question }}", prompt="two {{ question }}", suffix="three {{ id }}")
    plain = Agent(name="plain", reads=["first"], prompt="four {{ answer_form }}")
    last = Agent(name="last", reads=["plain"], prompt="five [{{ context }}]", thinks="text")
    return Topology(name="x", agents=[first, plain, last])


def test_a_prompt_without_text_of_others_is_rendered_once(rendered: Counter[str]) -> None:
    topology = _talking()
    questions = [replace(_question(), id=name) for name in ("a", "b")]
    made = RenderedPrompts.of(topology, questions)
    once = {"one {{ question }}": 2, "two {{ question }}": 2, "three {{ id }}": 2, "four {{ answer_form }}": 2}
    assert {template: rendered[template] for template in once} == once
    before = rendered.copy()
    for agent in topology.agents:
        for question in questions:
            for _ in range(3):
                made.get(agent, question, "")
    for question in questions:
        messages, _ = made.get(topology.by_name["plain"], question, "first wrote:\nWork")
        assert messages[-1]["content"].startswith("The other agents' work so far:\n\nfirst wrote:\nWork\n\nfour ")
    assert rendered == before
    assert made.get(topology.by_name["last"], questions[0], "Work").messages[-1]["content"] == "five [Work]"
    assert (rendered - before)["five [{{ context }}]"] == 1


def test_what_is_kept_is_what_would_be_rendered() -> None:
    topology = _talking()
    made = RenderedPrompts.of(topology, [_question()])
    for agent in topology.agents:
        for context in ("", "Work"):
            assert made.get(agent, _question(), context) == RenderedPrompts().get(agent, _question(), context)


def test_another_questions_memory_comes_of_another_questions_prompt() -> None:
    topology = _talking()
    one, other = replace(_question(), id="a", question="A?"), replace(_question(), id="b", question="B?")
    made = RenderedPrompts.of(topology, [replace(one, seen_by_others=other), replace(other, seen_by_others=one)])
    first = topology.by_name["first"]
    assert seen_by(first, topology, replace(one, seen_by_others=other)) is other
    assert made.get(first, other, "").messages[-1]["content"] == "two B?"
