"""Answers as the client reads them."""

import json

from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from latentmas_ray.runs.results import AgentUse, Answer
from latentmas_ray.serve.api.responses import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatResponse,
    ChunkChoice,
    MessageDelta,
    ServedModel,
    TextChoice,
    TextResponse,
    TokenUsage,
    event,
    finish_reason,
)

HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "latentmas/sequential"}


def usage() -> TokenUsage:
    seconds = {"decode": 0.1}
    uses = {
        "planner": AgentUse(prompt_tokens=10, latent_steps=4, output_tokens=0, memory_bytes=1, seconds=seconds),
        "critic": AgentUse(prompt_tokens=20, latent_steps=0, output_tokens=7, memory_bytes=0, seconds=seconds),
        "judger": AgentUse(prompt_tokens=30, latent_steps=0, output_tokens=5, memory_bytes=0, seconds=seconds),
    }
    answer = Answer(
        id="q",
        question="Why?",
        gold=None,
        answer="So.",
        answer_token_ids=(1,),
        prediction=None,
        correct=None,
        seconds=1.0,
        agents=uses,
    )
    return TokenUsage.of_answers([answer], "judger")


def test_usage_counts_latent_steps_apart() -> None:
    found = usage()
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (60, 12, 72)
    assert (found.completion_tokens_details.reasoning_tokens, found.latent_steps) == (7, 4)


def test_the_client_reads_an_answer() -> None:
    choices = (ChatChoice(index=0, message=AnswerMessage(content="So."), finish_reason="stop"),)
    text = ChatResponse(**HEAD, choices=choices, usage=usage(), latentmas={"seconds": 1.5}).to_json()
    read = ChatCompletion.model_validate_json(text)
    assert (read.choices[0].message.content, read.choices[0].finish_reason) == ("So.", "stop")
    assert read.usage is not None
    assert (read.usage.total_tokens, read.usage.model_extra) == (72, {"latent_steps": 4})


def test_the_client_reads_a_stream() -> None:
    chunks = [
        ChatChunk(**HEAD, choices=(ChunkChoice(index=0, delta=MessageDelta(role="assistant", content="")),)),
        ChatChunk(**HEAD, choices=(ChunkChoice(index=0, delta=MessageDelta(content="Sö")),)),
        ChatChunk(**HEAD, choices=(ChunkChoice(index=0, delta=MessageDelta(), finish_reason="length"),)),
        ChatChunk(**HEAD, choices=(), usage=usage()),
    ]
    lines = [event(chunk) for chunk in chunks]
    assert all(line.startswith("data: {") and line.endswith("}\n\n") for line in lines)
    read = [ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")) for line in lines]
    assert [choice.delta.content for chunk in read for choice in chunk.choices] == ["", "Sö", None]
    assert read[2].choices[0].finish_reason == "length"
    assert read[3].usage is not None
    assert json.loads(lines[1][6:])["choices"] == [{"index": 0, "delta": {"content": "Sö"}, "finish_reason": None}]


def test_the_client_reads_completions_and_models() -> None:
    choices = (TextChoice(index=1, text="So.", finish_reason="stop"),)
    read = Completion.model_validate_json(TextResponse(**HEAD, choices=choices, usage=usage()).to_json())
    assert (read.object, read.choices[0].text) == ("text_completion", "So.")
    model = Model.model_validate_json(ServedModel(id="latentmas/sequential", created=5, latentmas={}).to_json())
    assert (model.id, model.owned_by) == ("latentmas/sequential", "latentmas_ray")


def test_a_text_that_ended_early_has_length_as_its_reason() -> None:
    assert [finish_reason(why) for why in ("no", "max_new_tokens", "positions", None)] == [
        "stop",
        "length",
        "length",
        "stop",
    ]
