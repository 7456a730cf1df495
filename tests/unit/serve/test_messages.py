"""From messages to the prompts of every agent: nothing is lost, and no text of a request is a template."""

import json
from typing import Any

import pytest

from latentmas_ray.serve.api.errors import ApiError
from latentmas_ray.serve.api.messages import MessageLimits, chat_question, completion_questions
from latentmas_ray.serve.api.requests import parse_chat, parse_completion
from latentmas_ray.tasks.question import EarlierMessage, Question
from latentmas_ray.topology import RenderedPrompts, Topology

TEMPLATES = "{{ 7 * 7 }}{% for x in range(10**9) %}a{% endfor %}{{ gold }}{# hidden #}{% raw %}"


def question(*messages: tuple[str, str], limits: MessageLimits | None = None) -> Question:
    body = {"model": "m", "messages": [{"role": role, "content": text} for role, text in messages]}
    return chat_question(parse_chat(json.dumps(body).encode()), "r1", limits)


def prompts(asked: Question, topology: str = "sequential") -> dict[str, tuple[dict[str, str], ...]]:
    """The messages of every agent."""
    loaded = Topology.load(topology)
    rendered = RenderedPrompts.of(loaded, [asked])
    return {agent.name: rendered.get(agent, asked, "").messages for agent in loaded.agents}


def test_one_message_is_the_same_question_as_without_a_server() -> None:
    alone = Question(id="q0", question="Why?", kind="text", gold=None, record={"question": "Why?"})
    assert prompts(question(("user", "Why?"))) == prompts(alone)


def test_what_came_before_reaches_every_agent() -> None:
    asked = question(
        ("system", "Speak French."),
        ("user", "Hi"),
        ("assistant", "Salut"),
        ("developer", "Be brief."),
        ("user", "Why?"),
    )
    for name, messages in prompts(asked).items():
        own = Topology.load("sequential").by_name[name].system
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
        assert messages[0]["content"] == f"{own}\n\nSpeak French.\n\nBe brief."
        assert [message["content"] for message in messages[1:3]] == ["Hi", "Salut"]
        assert "Why?" in messages[3]["content"]


def test_an_agent_without_a_role_gets_the_system_message_alone() -> None:
    topology = Topology.parse("name: t\nagents: [{name: a, thinks: text, prompt: '{{ question }}'}]")
    asked = question(("system", "Speak French."), ("user", "Why?"))
    (agent,) = topology.agents
    assert RenderedPrompts.of(topology, [asked]).get(agent, asked, "").messages == (
        {"role": "system", "content": "Speak French."},
        {"role": "user", "content": "Why?"},
    )


def test_messages_of_one_role_in_a_row_become_one() -> None:
    asked = question(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e"), ("user", "f"))
    assert asked.earlier == (EarlierMessage("user", "a\n\nb"), EarlierMessage("assistant", "c\n\nd"))
    assert asked.question == "e\n\nf"


@pytest.mark.parametrize("answer", ["<think>\nhm\n</think>\n\nB", "hm</think>B", "[THINK]a</think>[/THINK] B", "B"])
def test_thoughts_of_earlier_answers_are_left_out(answer: str) -> None:
    asked = question(("user", "a"), ("assistant", answer), ("user", "c"))
    assert asked.earlier[1].content == "B"


@pytest.mark.parametrize("place", ["system", "earlier", "question", "completion"])
def test_no_text_of_a_request_is_a_template(place: str) -> None:
    if place == "completion":
        body = json.dumps({"model": "m", "prompt": TEMPLATES}).encode()
        (asked,) = completion_questions(parse_completion(body), "r1")
    else:
        texts = {key: TEMPLATES if key == place else "plain" for key in ("system", "earlier", "question")}
        asked = question(
            ("system", texts["system"]), ("user", texts["earlier"]), ("assistant", "x"), ("user", texts["question"])
        )
    for messages in prompts(asked).values():
        assert sum(message["content"].count(TEMPLATES) for message in messages) == 1
        assert "49" not in "".join(message["content"] for message in messages)


def refusal(*messages: tuple[str, str], limits: MessageLimits | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        question(*messages, limits=limits)
    return caught.value


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([("user", "a"), ("assistant", "b")], "messages[1].role"),
        ([("system", "a")], "messages[0].role"),
        ([("user", "a"), ("assistant", "b"), ("user", " \n")], "messages[2].content"),
        ([("user", "data:image/png;base64,AAAA")], "messages[0].content"),
    ],
)
def test_a_conversation_that_asks_nothing_is_refused(messages: list[tuple[str, str]], param: str) -> None:
    error = refusal(*messages)
    assert (error.status, error.param) == (400, param)


def test_texts_beyond_the_limits_are_413_with_both_numbers() -> None:
    limits = MessageLimits(max_message_chars=10, max_request_chars=15)
    one = refusal(("user", "a" * 11), limits=limits)
    assert (one.status, one.param) == (413, "messages[0].content")
    assert "11" in one.message
    assert "10" in one.message
    whole = refusal(("system", "a" * 8), ("user", "b" * 8), limits=limits)
    assert (whole.status, whole.param) == (413, "messages")


def test_every_prompt_of_a_completion_is_a_question() -> None:
    body: dict[str, Any] = {"model": "m", "prompt": ["a", "b"]}
    asked = completion_questions(parse_completion(json.dumps(body).encode()), "r1")
    assert [(one.id, one.question) for one in asked] == [("r1-0", "a"), ("r1-1", "b")]
    with pytest.raises(ApiError) as caught:
        completion_questions(parse_completion(json.dumps({**body, "prompt": ["a", " "]}).encode()), "r1")
    assert (caught.value.status, caught.value.param) == (400, "prompt[1]")
