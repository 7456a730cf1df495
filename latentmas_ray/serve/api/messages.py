"""From the messages of a request to a question.

The last message is of the user, and is the question: each agent's prompt shows it where it shows `{{ question }}`. What
comes before reaches every agent as it was said: system and developer messages follow the agent's own system message,
and earlier turns stand between that and the agent's prompt, as messages of user and assistant for the model's chat
template.

No text of a request is ever a template: it is the value of a variable, or a message. A chat template, too, gets it as
a value.
"""

import re
from typing import Final, NamedTuple

from latentmas_ray.errors import InputError
from latentmas_ray.serve.api.errors import ApiError, bad_field
from latentmas_ray.serve.api.requests import ChatRequest, CompletionRequest
from latentmas_ray.tasks.given import question_from
from latentmas_ray.tasks.question import EarlierMessage, Question

# What an earlier answer thought, up to the mark of its end, which chat templates leave out.
_THOUGHTS: Final = re.compile(r"\A.*(?:</think>|\[/THINK\])\s*", re.DOTALL)
_LINE: Final = "\n\n"


class MessageLimits(NamedTuple):
    """The longest texts of a request, in characters."""

    max_message_chars: int = 200_000
    max_request_chars: int = 1_000_000


def chat_question(request: ChatRequest, question_id: str, limits: MessageLimits | None = None) -> Question:
    """Return the question of a chat. Raises ApiError: 400 if the last message is not the user's or is empty, 413 for
    texts beyond the limits."""
    messages = request.messages
    _check_lengths([(f"messages[{index}].content", one.text) for index, one in enumerate(messages)], limits)
    last, field = messages[-1], f"messages[{len(messages) - 1}]"
    if last.role != "user":
        raise bad_field(f"{field}.role", last.role, "the last message asks: its role must be user")
    system = [one.text for one in messages if one.role in ("system", "developer") and one.text.strip()]
    earlier: list[EarlierMessage] = []
    for one in messages[:-1]:
        if one.role == "user":
            _append(earlier, EarlierMessage("user", one.text))
        elif one.role == "assistant":
            _append(earlier, EarlierMessage("assistant", without_thoughts(one.text)))
    text = last.text
    if earlier and earlier[-1].role == "user":  # chat templates ask for alternating roles
        text = _LINE.join((earlier.pop().content, text))
    return _question(text, question_id, f"{field}.content", system=_LINE.join(system), earlier=tuple(earlier))


def without_thoughts(answer: str) -> str:
    """Return an answer as it is shown in a later turn."""
    return _THOUGHTS.sub("", answer)


def completion_questions(
    request: CompletionRequest, question_id: str, limits: MessageLimits | None = None
) -> list[Question]:
    """Return one question for each prompt, with the ids `question_id`, or `question_id-INDEX` for several. Raises
    ApiError as `chat_question` does."""
    is_one = isinstance(request.prompt, str)
    fields = ["prompt" if is_one else f"prompt[{index}]" for index in range(len(request.prompts))]
    _check_lengths(list(zip(fields, request.prompts, strict=True)), limits)
    return [
        _question(text, question_id if is_one else f"{question_id}-{index}", field)
        for index, (field, text) in enumerate(zip(fields, request.prompts, strict=True))
    ]


def _append(earlier: list[EarlierMessage], message: EarlierMessage) -> None:
    if earlier and earlier[-1].role == message.role:
        message = EarlierMessage(message.role, _LINE.join((earlier.pop().content, message.content)))
    earlier.append(message)


def _check_lengths(texts: list[tuple[str, str]], limits: MessageLimits | None) -> None:
    most = limits or MessageLimits()
    for field, text in texts:
        if len(text) > most.max_message_chars:
            raise _too_large(field, len(text), most.max_message_chars)
    if (total := sum(len(text) for _, text in texts)) > most.max_request_chars:
        raise _too_large(texts[0][0].partition("[")[0], total, most.max_request_chars)


def _too_large(field: str, chars: int, most: int) -> ApiError:
    return ApiError(413, f"{field}: it has {chars} characters; at most {most} are read", field, "too_large")


def _question(
    text: str, question_id: str, field: str, *, system: str = "", earlier: tuple[EarlierMessage, ...] = ()
) -> Question:
    if not text.strip():
        raise bad_field(field, text, "it must not be empty")
    try:
        question = question_from({"id": question_id, "question": text}, index=0)
    except InputError as error:
        raise bad_field(field, error.value, error.expected) from None
    return question.with_earlier(system, earlier)
