"""The bodies of `/v1/chat/completions` and `/v1/completions`, after OpenAI's API.

Every field is checked, and none is ignored: a field that is unknown, or that a team cannot do, is refused, unless its
value asks for nothing. `parse_chat` and `parse_completion` read a body.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from latentmas_ray.serve.api.fields import ApiModel, off, parse_request, refuse, tag
from latentmas_ray.serve.api.sampling import SamplingRequest

MAX_MESSAGES: Final = 1024
MAX_PARTS: Final = 256
MAX_PROMPTS: Final = 64

Role = Literal["system", "developer", "user", "assistant"]
_ROLE_FORM: Final = "it must be system, developer, user or assistant"
_NO_TOOLS: Final = "a team calls no tools"


def _check_role(value: object) -> object:
    if value in ("tool", "function"):
        raise refuse(f"{_NO_TOOLS}, so there are no results of tools; {_ROLE_FORM}")
    if value not in ("system", "developer", "user", "assistant"):
        raise refuse(_ROLE_FORM)
    return value


def _check_part(value: object) -> object:
    if value != "text":
        raise refuse("it must be text: a team reads no images, audio or files")
    return value


class TextPart(ApiModel):
    """One part of a message."""

    type: Annotated[Literal["text"], BeforeValidator(_check_part)]
    text: str


def _form_of(value: object) -> str | None:
    return tag("text") if isinstance(value, str) else tag("parts") if isinstance(value, list) else None


_Parts = Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS), Tag(tag("parts"))]
_Content = Annotated[
    Annotated[str, Tag(tag("text"))] | _Parts,
    Discriminator(
        _form_of,
        custom_error_type="invalid_value",
        custom_error_message="it must be text or a list of parts of type text",
    ),
]


class InputMessage(ApiModel):
    """One message of a conversation. The fields below `name` are those of answers that a client sends back."""

    role: Annotated[Role, BeforeValidator(_check_role)]
    content: _Content
    name: Annotated[str, Field(max_length=64)] | None = None  # of a participant; no prompt shows it
    refusal: Annotated[Any, off(instead="a team's answers have no refusals")] = None
    tool_calls: Annotated[Any, off([], instead=_NO_TOOLS)] = None
    tool_call_id: Annotated[Any, off(instead=_NO_TOOLS)] = None
    function_call: Annotated[Any, off(instead=_NO_TOOLS)] = None
    annotations: Annotated[Any, off([], instead="no prompt shows annotations")] = None
    audio: Annotated[Any, off(instead="a team reads text")] = None

    @property
    def text(self) -> str:
        """The content as one text: parts are joined by line breaks."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


def _check_response_format(value: object) -> object:
    if value is None or value == {"type": "text"}:
        return None
    raise refuse("it must be {'type': 'text'}: answers are not bound to a grammar; ask for JSON in the message")


class ChatRequest(SamplingRequest):
    """The body of `/v1/chat/completions`. The last message asks; `messages.chat_question` makes the question of it."""

    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    logprobs: Annotated[Any, off(False, instead="no probabilities are kept")] = None
    top_logprobs: Annotated[Any, off(0, instead="no probabilities are kept")] = None
    tools: Annotated[Any, off([], instead=_NO_TOOLS)] = None
    tool_choice: Annotated[Any, off("none", "auto", instead=_NO_TOOLS)] = None
    parallel_tool_calls: Annotated[Any, off(False, True, instead=_NO_TOOLS)] = None
    functions: Annotated[Any, off([], instead=_NO_TOOLS)] = None
    function_call: Annotated[Any, off("none", "auto", instead=_NO_TOOLS)] = None
    response_format: Annotated[Any, BeforeValidator(_check_response_format)] = None
    modalities: Annotated[Any, off(["text"], [], instead="a team answers in text")] = None
    audio: Annotated[Any, off(instead="a team answers in text")] = None
    prediction: Annotated[Any, off(instead="answers are written without a prediction")] = None
    moderation: Annotated[Any, off(instead="nothing is moderated")] = None
    reasoning_effort: Annotated[Any, off("none", instead="latentmas.latent_steps says how long agents think")] = None
    verbosity: Annotated[Any, off("medium", instead="ask for a short or long answer in the message")] = None
    web_search_options: Annotated[Any, off(instead="a team does not search")] = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _check_max_tokens(cls, most: int | None, info: ValidationInfo) -> int | None:
        if most is not None and info.data.get("max_tokens") not in (None, most):
            raise refuse(
                f"max_tokens is {info.data['max_tokens']}, which is the old name of this field; give one of them"
            )
        return most

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def _form_of_prompt(value: object) -> str | None:
    if isinstance(value, str):
        return tag("text")
    is_list = isinstance(value, list) and not any(isinstance(one, int | list) for one in value)
    return tag("list") if is_list else None


_Prompts = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS), Tag(tag("list"))]


class CompletionRequest(SamplingRequest):
    """The body of `/v1/completions`. Each prompt is a question: every agent has a prompt of its own around it."""

    prompt: Annotated[
        Annotated[str, Tag(tag("text"))] | _Prompts,
        Discriminator(
            _form_of_prompt,
            custom_error_type="invalid_value",
            custom_error_message="it must be text or a list of texts: each agent puts it into its own prompt, "
            "so token ids cannot be used",
        ),
    ]

    best_of: Annotated[Any, off(1, instead="n gives several answers")] = None
    echo: Annotated[Any, off(False, instead="the answer does not repeat the prompt")] = None
    logprobs: Annotated[Any, off(instead="no probabilities are kept")] = None
    suffix: Annotated[Any, off("", instead="nothing is inserted before a text")] = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, at least one."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)


def parse_chat(body: bytes) -> ChatRequest:
    """Return the request that a body of `/v1/chat/completions` holds. Raises ApiError (400)."""
    return parse_request(ChatRequest, body)


def parse_completion(body: bytes) -> CompletionRequest:
    """Return the request that a body of `/v1/completions` holds. Raises ApiError (400)."""
    return parse_request(CompletionRequest, body)
