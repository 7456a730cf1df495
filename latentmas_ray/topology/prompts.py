"""Renders an agent's messages for one question from the templates of its topology.

A template can use every field of the question's record except `gold`, and four variables: `question`, `record` (all
those fields), `context` (the texts of the text agents it reads; empty if memory is handed over instead) and
`answer_form` (one sentence on how to write the final answer). These hide fields of the same name; use `record.NAME`.
A line with only a `{% … %}` is removed.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jinja2

from latentmas_ray.errors import TopologyError
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology.agent import Agent, Topology
from latentmas_ray.topology.templates import render, variables_of

_MAX_FIELDS_NAMED = 20


def render_messages(agent: Agent, question: Question, *, context: str, answer_form: str) -> tuple[dict[str, str], ...]:
    """Return the system message, if the agent has one, and the user message, as `{"role": …, "content": …}`.

    If no template of the agent mentions `context`, it is put before the prompt, so that every topology works with text
    agents. Raises TopologyError if a template cannot be rendered for this question.
    """
    return _messages(agent, question, context, answer_form, "")


def render_suffix(agent: Agent, question: Question, *, context: str, answer_form: str) -> str:
    """Return the text after the generation prompt. Raises TopologyError if it cannot be rendered for this question."""
    return _render(agent, "suffix", question, _variables(question, context, answer_form), "")


def format_context(pairs: Sequence[tuple[str, str]]) -> str:
    """Join the texts of several agents, given as (agent, text) pairs. Empty for no agents."""
    return "\n\n".join(f"{name} wrote:\n{text.strip() or '(nothing)'}" for name, text in pairs)


def check_prompts(topology: Topology, questions: Iterable[Question]) -> None:
    """Render every template for every question, so that errors are found before the run.

    Raises TopologyError with the agent, the id of the question and what is missing or wrong.
    """
    source = topology.at("")
    for question in questions:
        for agent in topology.agents:
            # The second time with a context, for template branches that need one.
            for context in ("", format_context([("agent", "text")])) if _mentions_context(agent) else ("",):
                messages = _messages(agent, question, context, "answer form", source)
                suffix = _render(agent, "suffix", question, _variables(question, context, "answer form"), source)
                _check_characters([*(message["content"] for message in messages), suffix], agent, question, source)


def _check_characters(texts: Iterable[str], agent: Agent, question: Question, source: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        expected = "a field that its prompt uses has half of a surrogate pair, which is not a character"
        raise TopologyError(f"{source}agents.{agent.name}", f"question {question.id}", expected) from None


def _messages(
    agent: Agent, question: Question, context: str, answer_form: str, source: str
) -> tuple[dict[str, str], ...]:
    variables = _variables(question, context, answer_form)
    system = _render(agent, "system", question, variables, source)
    content = _render(agent, "prompt", question, variables, source)
    if context and not _mentions_context(agent):
        content = f"The other agents' work so far:\n\n{context}\n\n{content}"
    messages = [{"role": "system", "content": system}] if system else []
    return (*messages, {"role": "user", "content": content})


def _variables(question: Question, context: str, answer_form: str) -> dict[str, Any]:
    record = {key: value for key, value in question.record.items() if key != "gold"}
    return record | {
        "question": question.question,
        "record": record,
        "context": context,
        "answer_form": answer_form,
    }


def _mentions_context(agent: Agent) -> bool:
    return any("context" in variables_of(text) for text in (agent.system or "", agent.prompt, agent.suffix))


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
