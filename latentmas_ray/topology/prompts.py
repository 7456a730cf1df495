"""Renders an agent's messages for one question from the templates of its topology.

A template can use every field of the question's record except `gold` and wrong versions (`wrong_gold`, and
`wrong_NAME` of a field), and four variables: `question`, `record` (all those fields), `context` (the texts of the text
agents it reads; empty if memory is handed over instead) and `answer_form` (one sentence on how to write the final
answer). These hide fields of the same name; use `record.NAME`.
`question` shows the options of a choice, unless the template uses the field that holds them.
A question at the end of a conversation brings texts that are no templates: its system text follows the agent's own, and
its earlier messages stand between the system message and the prompt.
A line with only a `{% … %}` is removed.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jinja2

from latentmas_ray.errors import TopologyError
from latentmas_ray.tasks import answer_form as answer_form_of
from latentmas_ray.tasks.controls.wrong_version import wrong_fields
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology.agent import Agent, Topology
from latentmas_ray.topology.templates import render, variables_of

_MAX_FIELDS_NAMED = 20


def render_messages(agent: Agent, question: Question, *, context: str, answer_form: str) -> tuple[dict[str, str], ...]:
    """Return the system message, if the agent or the question has one, the earlier messages of the question's
    conversation, and the user message, as `{"role": …, "content": …}`.

    If no template of the agent mentions `context`, it is put before the prompt, so that every topology works with text
    agents. Raises TopologyError if a template cannot be rendered for this question.
    """
    return _messages(agent, question, context, answer_form, "")


def format_context(pairs: Sequence[tuple[str, str]]) -> str:
    """Join the texts of several agents, given as (agent, text) pairs. Empty for no agents."""
    return "\n\n".join(f"{name} wrote:\n{text.strip() or '(nothing)'}" for name, text in pairs)


class RenderedPrompt(NamedTuple):
    """The prompt of one agent for one question."""

    messages: tuple[dict[str, str], ...]
    suffix: str  # text after the generation prompt


def render_prompt(agent: Agent, question: Question, *, answer_form: str) -> RenderedPrompt:
    """Return the prompt of an agent that reads no texts of others. Raises TopologyError if a template cannot be
    rendered for this question."""
    return _rendered(agent, question, "", answer_form, "")


class RenderedPrompts:
    """The prompts of a run. Those that no other agent's text changes are rendered once, by `of`, and kept."""

    def __init__(self) -> None:
        """None is kept: each is rendered where it is asked for."""
        self._kept: dict[tuple[str, str], RenderedPrompt] = {}  # by agent and question

    @classmethod
    def of(cls, topology: Topology, questions: Iterable[Question]) -> "RenderedPrompts":
        """Renders every template for every question, so that a run does not fail on the way.

        Raises TopologyError with the agent, the id of the question and what is missing or wrong.
        """
        prompts = cls()
        source = topology.at("")
        for question in questions:
            for agent in topology.agents:
                seen = seen_by(agent, topology, question)
                prompts._kept[agent.name, seen.id] = _checked(agent, seen, _given_context(seen), source)
                if _mentions_context(agent):  # as a reader of text, for branches that only then are taken
                    _checked(agent, seen, format_context([("agent", "text")]), source)
        return prompts

    def get(self, agent: Agent, question: Question, context: str) -> RenderedPrompt:
        """The prompt of `agent` for the question as it sees it, with what others wrote as `context` (may be empty).

        Raises TopologyError if a template cannot be rendered for this question.
        """
        kept = self._kept.get((agent.name, question.id))
        if kept is None or (context and _mentions_context(agent)):
            context = context or _given_context(question)
            return _rendered(agent, question, context, answer_form_of(question.kind), "")
        return RenderedPrompt(_with_context(kept.messages, context), kept.suffix) if context else kept


def seen_by(agent: Agent, topology: Topology, question: Question) -> Question:
    """The question as this agent sees it."""
    if question.corruption is not None and agent.name == question.corruption.agent:
        return question.corruption.question
    return question if topology.answers(agent.name) else question.seen_by_others or question


def _given_context(question: Question) -> str:
    """The hint that the answering agent reads as the text of an agent that does not run; empty without one."""
    hint = question.hint
    return "" if hint is None or not hint.written_as else format_context([(hint.written_as, hint.text or "")])


def _checked(agent: Agent, question: Question, context: str, source: str) -> RenderedPrompt:
    prompt = _rendered(agent, question, context, answer_form_of(question.kind), source)
    _check_characters([*(message["content"] for message in prompt.messages), prompt.suffix], agent, question, source)
    return prompt


def _rendered(agent: Agent, question: Question, context: str, answer_form: str, source: str) -> RenderedPrompt:
    return RenderedPrompt(
        _messages(agent, question, context, answer_form, source),
        _render(agent, "suffix", question, _variables(agent, question, context, answer_form), source),
    )


def _check_characters(texts: Iterable[str], agent: Agent, question: Question, source: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        expected = "a field that its prompt uses has half of a surrogate pair, which is not a character"
        raise TopologyError(f"{source}agents.{agent.name}", f"question {question.id}", expected) from None


def _messages(
    agent: Agent, question: Question, context: str, answer_form: str, source: str
) -> tuple[dict[str, str], ...]:
    variables = _variables(agent, question, context, answer_form)
    system = _render(agent, "system", question, variables, source)
    content = _render(agent, "prompt", question, variables, source)
    system = "\n\n".join(text for text in (system, question.system) if text)
    messages = [{"role": "system", "content": system}] if system else []
    earlier = [message._asdict() for message in question.earlier]
    rendered = (*messages, *earlier, {"role": "user", "content": content})
    return rendered if _mentions_context(agent) else _with_context(rendered, context)


def _with_context(messages: tuple[dict[str, str], ...], context: str) -> tuple[dict[str, str], ...]:
    """`context` before a user message of which the templates do not mention it."""
    if not context:
        return messages
    *others, user = messages
    content = f"The other agents' work so far:\n\n{context}\n\n{user['content']}"
    return (*others, {"role": "user", "content": content})


def _variables(agent: Agent, question: Question, context: str, answer_form: str) -> dict[str, Any]:
    hidden = {"gold", *wrong_fields(question.record).values()}
    record = {key: value for key, value in question.record.items() if key not in hidden}
    text = question.question
    if question.options is not None and _mentions(agent, {*question.options.keys, "choices"}):
        text = record.get("stem", text)  # the template shows the options itself
    return record | {
        "question": text,
        "record": record,
        "context": context,
        "answer_form": answer_form,
    }


def _mentions_context(agent: Agent) -> bool:
    return _mentions(agent, {"context"})


def _mentions(agent: Agent, names: set[str]) -> bool:
    return any(names & variables_of(text) for text in (agent.system or "", agent.prompt, agent.suffix))


def _render(agent: Agent, key: str, question: Question, variables: dict[str, Any], source: str) -> str:
    template = {"system": agent.system or "", "prompt": agent.prompt, "suffix": agent.suffix}[key]
    try:
        return render(template, variables, keep_trailing_newline=key == "suffix")
    except Exception as error:  # a template is a program: it can raise anything
        field = f"{source}agents.{agent.name}.{key}"
        if not isinstance(error, jinja2.UndefinedError):
            reason = str(error) or type(error).__name__
            raise TopologyError(field, f"question {question.id}", f"it cannot be rendered: {reason}") from error
        fields = list(variables)
        named = ", ".join(fields[:_MAX_FIELDS_NAMED]) + (", …" if len(fields) > _MAX_FIELDS_NAMED else "")
        expected = f"question {question.id} does not have it; a prompt can use {named}"
        missing = [name for name in variables_of(template) if error.message == f"{name!r} is undefined"]
        raise TopologyError(field, missing[0] if missing else str(error), expected) from error
