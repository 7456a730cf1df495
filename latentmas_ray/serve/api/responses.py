"""Answers in OpenAI's form, whole or in chunks, and the list of models. `to_json` writes each.

`usage` counts what the API's users pay for elsewhere: prompt and completion tokens, of all agents together. Tokens that
agents other than the answering one wrote are `reasoning_tokens` among the completion's. Latent steps are no tokens of
either kind: `latent_steps` counts them apart, and no total has them.
"""

import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from latentmas_ray.engine.turn import CutOff
from latentmas_ray.runs.results import Answer

FinishReason = Literal["stop", "length"]
OWNER = "latentmas_ray"


class ResponsePart(BaseModel):
    """A part of a response."""

    model_config = ConfigDict(frozen=True)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return self.model_dump_json()


class CompletionTokensDetails(ResponsePart):
    """Which of the completion's tokens no client sees."""

    reasoning_tokens: int = 0  # written by agents that do not answer


class PromptTokensDetails(ResponsePart):
    """Which of the prompts' tokens were not computed again."""

    cached_tokens: int = 0  # of a conversation's working memory


class TokenUsage(ResponsePart):
    """The tokens of a request, of all agents and all its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int  # prompt and completion tokens
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    latent_steps: int = 0  # of all agents: computed positions that are no text

    @classmethod
    def of(
        cls, *, prompt_tokens: int, answer_tokens: int, other_tokens: int, latent_steps: int, cached_tokens: int = 0
    ) -> "TokenUsage":
        """`answer_tokens` are those of the answers, `other_tokens` those that other agents wrote."""
        written = answer_tokens + other_tokens
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=written,
            total_tokens=prompt_tokens + written,
            completion_tokens_details=CompletionTokensDetails(reasoning_tokens=other_tokens),
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
            latent_steps=latent_steps,
        )

    @classmethod
    def of_answers(cls, answers: Iterable[Answer], answering_agent: str, *, cached_tokens: int = 0) -> "TokenUsage":
        """The usage of the questions of a request. `cached_tokens` are those of a conversation's memory that was kept:
        all agents read them, and they count once."""
        uses = [(name, use) for answer in answers for name, use in answer.agents.items()]
        return cls.of(
            prompt_tokens=cached_tokens + sum(use.prompt_tokens for _, use in uses),
            answer_tokens=sum(use.output_tokens for name, use in uses if name == answering_agent),
            other_tokens=sum(use.output_tokens for name, use in uses if name != answering_agent),
            latent_steps=sum(use.latent_steps for _, use in uses),
            cached_tokens=cached_tokens,
        )


def finish_reason(cut_off: CutOff | None) -> FinishReason:
    """Return `length` for a text that ended because it has as many tokens as it may, or as the model has positions."""
    return "stop" if cut_off in (None, "no") else "length"


class AnswerMessage(ResponsePart):
    """The answer, as the next message of the conversation."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(ResponsePart):
    """One of the answers to a chat."""

    index: int
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: None = None


class ChatResponse(ResponsePart):
    """The body of an answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int  # seconds since 1970
    model: str
    choices: tuple[ChatChoice, ...]
    usage: TokenUsage
    latentmas: dict[str, Any] | None = None  # what the request asked for under `latentmas`


class MessageDelta(ResponsePart):
    """What a chunk adds to an answer: the role in the first, text in the others."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(ResponsePart):
    """One answer's part of a chunk."""

    index: int
    delta: MessageDelta
    finish_reason: FinishReason | None = None
    logprobs: None = None


class ChatChunk(ResponsePart):
    """One event of a streamed chat. The last has no choices, and the usage if the client asked for it."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: TokenUsage | None = None
    latentmas: dict[str, Any] | None = None

    def to_json(self) -> str:
        """Return one line of JSON; without keys that say nothing, of which a stream would have thousands."""
        row = self.model_dump()
        for name in ("usage", "latentmas"):
            if row[name] is None:
                del row[name]
        for choice in row["choices"]:
            del choice["logprobs"]
            choice["delta"] = {key: value for key, value in choice["delta"].items() if value is not None}
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


class TextChoice(ResponsePart):
    """One answer to one prompt, or a chunk's part of it. Several answers to several prompts are numbered prompt by
    prompt."""

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: None = None


class TextResponse(ResponsePart):
    """The body of an answer of `/v1/completions`, or one event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[TextChoice, ...]
    usage: TokenUsage | None = None
    latentmas: dict[str, Any] | None = None


class ServedModel(ResponsePart):
    """A team, as a model of the API."""

    id: str
    object: Literal["model"] = "model"
    created: int  # when the server started, in seconds since 1970
    owned_by: str = OWNER
    latentmas: dict[str, Any]  # its agents, and the settings that a request may leave out


class ModelsResponse(ResponsePart):
    """The body of `/v1/models`."""

    object: Literal["list"] = "list"
    data: tuple[ServedModel, ...]


DONE_EVENT = "data: [DONE]\n\n"


def event(part: ResponsePart) -> str:
    """Return one server-sent event."""
    return f"data: {part.to_json()}\n\n"
