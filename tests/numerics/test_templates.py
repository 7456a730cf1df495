"""A chat template that leaves out text of a message is noticed: worked round by another form, or refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import ModelError
from latentmas_ray.models import chat as chat_module
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.presets import CHAT_TEMPLATE, tiny_tokenizer

SYSTEM = {"role": "system", "content": "You are the critic."}
USER = {"role": "user", "content": "What is 2+2?"}
TOOL = {"role": "tool", "content": "The calculator says 4."}
SHORT = "You are the critic.\n\nWhat is 2+2?"


def loop(body: str) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}"


def in_parts(content: str = "m.content") -> str:
    return "{% for p in " + content + " %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"


def chat_of(template: str | dict[str, str]) -> ChatTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatTokenizer(tokenizer, "my-model")


def rendered(template: str, *messages: dict[str, str], **arguments: Any) -> str:
    chat = chat_of(template)
    return chat.show(chat.encode(messages, arguments, ""))


# What a template makes of a system and a user message, which it does not show as they are.
WORKED_ROUND = {
    "no branch for system": (loop("{% if m.role == 'user' %}[{{ m.content }}]{% endif %}"), f"[{SHORT}]"),
    "no branch for system, stripped": (
        loop("{% if m['role'] == 'user' %}[{{ m['content'] | trim }}]{% endif %}"),
        f"[{SHORT}]",
    ),
    "only the first user message": (
        "[{{ (messages | selectattr('role', 'eq', 'user') | first).content }}]",
        f"[{SHORT}]",
    ),
    "only the last message": ("<{{ messages[-1].content }}>", f"<{SHORT}>"),
    "a system message must not come first": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}<{{ messages[0].content }}>",
        f"<{SHORT}>",
    ),
    "parts": (loop("<{{ m.role }}>" + in_parts()), "<system>You are the critic.<user>What is 2+2?"),
    "parts by key": (
        loop("<{{ m.role }}>{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"),
        "<system>You are the critic.<user>What is 2+2?",
    ),
    "the first part": (loop("<{{ m.content[0].text }}>"), "<You are the critic.><What is 2+2?>"),
    "parts for the user only": (
        loop("{% if m.role == 'system' %}<{{ m.content }}>{% else %}" + in_parts() + "{% endif %}"),
        "<You are the critic.>What is 2+2?",
    ),
    "parts for the system only": (
        loop("{% if m.role == 'system' %}" + in_parts() + "{% else %}<{{ m.content }}>{% endif %}"),
        f"<{SHORT}>",
    ),
    "parts without a system role": (loop("{% if m.role == 'user' %}<" + in_parts() + ">{% endif %}"), f"<{SHORT}>"),
    "an empty system message in its place": (
        loop("{% if m.role == 'system' %}<system></system>{% else %}{{ m.content }}{% endif %}"),
        SHORT,
    ),
    "a system message of its own in its place": (
        loop("{% if m.role == 'system' %}You are helpful. {% else %}{{ m.content }}{% endif %}"),
        SHORT,
    ),
}


@pytest.mark.parametrize("case", WORKED_ROUND)
def test_a_message_that_a_template_leaves_out_is_shown_in_another_form(case: str) -> None:
    template, expected = WORKED_ROUND[case]
    assert rendered(template, SYSTEM, USER) == expected
    chat_of(template).check_template()


REFUSED = {
    "the user's text": loop("{% if m.role == 'system' %}{{ m.content }}{% endif %}?"),
    "cut to a length": loop("{{ m.content[:10] }}\n"),
    "cut with dots": loop("{{ m.content | truncate(12) }}\n"),
    "only the first line": loop("{{ m.content.split(' ')[0] }}\n"),
    "its beginning": loop("{{ m.content[4:] }}\n"),
    "in capitals": loop("{{ m.content | upper }}\n"),
    "roles alone": loop("{{ m.role }}\n"),
    "a fixed text": "always the same",
    "a key that no message has": loop("{{ m.text }}.\n"),
    "the first word of each part": loop("{% for p in m.content %}{{ p.text.split(' ')[0] }}{% endfor %}."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_template_that_shows_no_form_whole_is_refused(case: str) -> None:
    with pytest.raises(ModelError, match="must show every message whole: it leaves out text of the") as caught:
        rendered(REFUSED[case], SYSTEM, USER)
    assert str(caught.value).startswith("model: got 'my-model'; its chat template must")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="must show every message whole"):
        chat_of(REFUSED[case]).check_template()


@pytest.mark.parametrize(
    "template", ["", "{# nothing #}", " ", "\n\n", loop(""), "{% if false %}{{ messages }}{% endif %}"]
)
def test_an_empty_prompt_is_refused(template: str) -> None:
    if template:  # an empty text is no template
        with pytest.raises(ModelError, match="at least one token"):
            rendered(template, SYSTEM, USER)
    else:
        assert rendered(template, USER) == "What is 2+2?\n\n"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHAT_TEMPLATE, "<|im_start|>user\n  What\n is   2+2? <|im_end|>\n<|im_start|>assistant\n"),
        (loop("<{{ m.content | trim }}>"), "<What\n is   2+2?>"),
        (loop("<{{ m.content.strip() }}>"), "<What\n is   2+2?>"),
        (loop("<{{ m.content.split() | join(' ') }}>"), "<What is 2+2?>"),
        (loop("<{{ m.content | tojson }}>"), '<"  What\\n is   2+2? ">'),
    ],
)
def test_white_space_and_quotes_may_differ(template: str, expected: str) -> None:
    assert rendered(template, {"role": "user", "content": "  What\n is   2+2? "}) == expected


@pytest.mark.parametrize("word", ["/no_think", "/think", "/system_override"])
def test_a_word_that_is_a_setting_may_be_taken_out(word: str) -> None:
    template = loop("{{ m.role }}: {{ m.content | replace('" + word + "', '') | trim }}\n")
    system = {"role": "system", "content": f"Be brief. {word}"}
    assert rendered(template, system, USER) == "system: Be brief.\nuser: What is 2+2?\n"


def test_a_text_that_is_part_of_another_one_has_a_place_of_its_own() -> None:
    user_only = loop("{% if m.role == 'user' %}[{{ m.content }}]{% endif %}")
    system = {"role": "system", "content": "2+2?"}
    assert rendered(user_only, system, USER) == "[2+2?\n\nWhat is 2+2?]"
    assert rendered(user_only, {**USER, "role": "system"}, USER) == "[What is 2+2?\n\nWhat is 2+2?]"


@pytest.mark.parametrize("role", ["system", "tool", "developer", "context", "function"])
def test_any_role_that_is_left_out_moves_to_the_users(role: str) -> None:
    template = loop("{% if m.role in ('user', 'assistant') %}[{{ m.content }}]{% endif %}")
    other = {"role": role, "content": "4, says the calculator."}
    answer = {"role": "assistant", "content": "I ask."}
    assert rendered(template, other, USER) == "[4, says the calculator.\n\nWhat is 2+2?]"
    assert rendered(template, USER, answer, other) == "[What is 2+2?][I ask.][4, says the calculator.]"
    assert rendered(template, USER, other) == "[What is 2+2?\n\n4, says the calculator.]"


def test_a_role_that_is_shown_stays_where_it_is() -> None:
    template = loop("{% if m.role in ('user', 'system') %}{{ m.role }}: {{ m.content }}\n{% endif %}")
    expected = "system: You are the critic.\nuser: What is 2+2?\n\nThe calculator says 4.\n"
    assert rendered(template, SYSTEM, USER, TOOL) == expected


def test_a_list_of_parts_is_never_printed_as_it_is() -> None:
    template = loop("{% if m.role == 'user' %}{{ m.content if m.content is not string else '' }}{% endif %}.")
    with pytest.raises(ModelError, match="must show every message whole"):
        rendered(template, SYSTEM, USER)


@pytest.mark.parametrize("body", [in_parts(), "{{ m.content }}"])
def test_the_terminator_of_any_form_is_found(body: str) -> None:
    chat = chat_of(loop("<|im_start|>" + body + "<|im_end|>\n"))
    assert chat.show(chat.turn_terminator) == "<|im_end|>\n"


def test_arguments_of_an_agent_are_given_to_every_form() -> None:
    template = "{{ mark }}" + loop("{% if m.role == 'user' %}" + in_parts() + "{% endif %}")
    assert rendered(template, SYSTEM, USER, mark="!") == f"!{SHORT}"


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro again() %}{% for a in range(99999) %}{{ a if a < 0 }}{% endfor %}{% endmacro %}"
        "{% for a in range(9999) %}{{ again() }}{% endfor %}",
        "{% for a in range(99999) %}{% for m in messages * 999 %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% if messages | tojson | length < 0 %}{% endif %}{% endfor %}" * 99,
        "{% set s = namespace(x=1) %}{% for a in range(9999) %}{% for b in range(9999) %}{% set s.x = b %}{% endfor %}"
        "{% endfor %}",
    ],
)
def test_a_template_without_an_end_is_told_once_when_the_model_loads(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_module, "MAX_TEMPLATE_SECONDS", 0.1)
    with pytest.raises(ModelError, match=r"takes more than 0\.1 s"):
        chat_of(template).check_template()


def test_a_template_that_needs_an_argument_loads() -> None:
    template = "{% if not mode %}{{ raise_exception('mode?') }}{% endif %}" + loop("{{ m.content }}.")
    chat_of(template).check_template()
    assert rendered(template, USER, mode="x") == "What is 2+2?."


def test_several_templates_without_a_default_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="its chat template must accept the prompt") as caught:
        chat_of({"tools": CHAT_TEMPLATE}).encode([USER], {}, "")
    assert "\n" not in str(caught.value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXT, TEXT)
def test_a_usual_template_shows_every_text_as_it_is(system: str, user: str) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    expected = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(CHAT_TEMPLATE, *messages) == expected


@given(TEXT, TEXT)
def test_no_text_is_lost_without_a_system_role(system: str, user: str) -> None:
    user_only = loop("{% if m.role == 'user' %}[{{ m.content }}]{% endif %}")
    text = rendered(user_only, {"role": "system", "content": system}, {"role": "user", "content": user})
    assert " ".join(system.split()) in " ".join(text.split())
    assert " ".join(user.split()) in " ".join(text.split())
