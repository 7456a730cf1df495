"""The attributes of spans.

Those that begin with `gen_ai.` and `error.` are OpenTelemetry's conventions for generative AI. They are spelled
out here because the package that has them as constants declares them private; a test compares the two. Those that begin
with `latentmas.` are ours.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from opentelemetry.util.types import AttributeValue

from latentmas_ray.engine.turn import Sampling, TurnResult
from latentmas_ray.runs.timeline.rows import ReadRow, TurnRow

OPERATION = "gen_ai.operation.name"
WORKFLOW = "gen_ai.workflow.name"
AGENT = "gen_ai.agent.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TEMPERATURE = "gen_ai.request.temperature"
TOP_P = "gen_ai.request.top_p"
MAX_TOKENS = "gen_ai.request.max_tokens"
SEED = "gen_ai.request.seed"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
ERROR_TYPE = "error.type"
INVOKE_WORKFLOW = "invoke_workflow"
INVOKE_AGENT = "invoke_agent"
PROVIDER_NAME = "latentmas"  # models are computed by this package, and no service is asked

QUESTION_ID = "latentmas.question.id"
LATENT_STEPS = "latentmas.latent_steps"

Attributes = dict[str, AttributeValue]


@dataclass(frozen=True, kw_only=True)
class SpanFacts:
    """What the spans of one run say besides its events."""

    workflow: str  # the topology
    answering_agents: tuple[str, ...]
    model: str
    method: str
    sampling: Sampling
    models: Mapping[str, str] = field(default_factory=dict)  # of agents that have another model
    questions: Mapping[str, str] = field(default_factory=dict, repr=False)  # texts, by id; only if content is asked for


def agent_attributes(facts: SpanFacts, agent: str, question: str, replica: str) -> Attributes:
    """Return what is known of a turn before it ends. `replica` is empty without Ray."""
    attributes: Attributes = {
        OPERATION: INVOKE_AGENT,
        AGENT: agent,
        PROVIDER: PROVIDER_NAME,
        MODEL: facts.models.get(agent, facts.model),
        QUESTION_ID: question,
    }
    return {**attributes, "latentmas.replica": replica} if replica else attributes


def turn_attributes(facts: SpanFacts, result: TurnResult, row: TurnRow, place: int) -> Attributes:
    """Return what one question of a finished turn used; `place` is its place in the turn. Seconds are those of the
    whole turn, or of the question where its agent writes every question for itself."""
    attributes: Attributes = {
        INPUT_TOKENS: result.prompt_tokens[place],
        LATENT_STEPS: result.latent_steps,
        "latentmas.turn.questions": len(row.questions),
    }
    if row.nodes:
        attributes["latentmas.nodes"] = row.nodes
    if place < len(result.segment_bytes):
        attributes["latentmas.memory.bytes"] = result.segment_bytes[place]
    if result.output_token_ids:
        attributes |= {
            OUTPUT_TOKENS: result.num_written(place),
            TEMPERATURE: facts.sampling.temperature,
            TOP_P: facts.sampling.top_p,
            MAX_TOKENS: facts.sampling.max_new_tokens,
            SEED: facts.sampling.seed,
        }
    if place < len(result.cut_off):
        attributes[FINISH_REASONS] = ("stop" if result.cut_off[place] == "no" else "length",)
    seconds: dict[str, float] = {}
    for phase, begin, end in spans_of(row, place):
        seconds[phase] = seconds.get(phase, 0.0) + end - begin
    return attributes | {f"latentmas.phase.{phase}.seconds": round(value, 6) for phase, value in seconds.items()}


def spans_of(row: TurnRow, place: int) -> tuple[tuple[str, float, float], ...]:
    """Return the phases of one question: those of its whole turn, and its own."""
    return (*row.spans, *(row.question_spans[place] if row.question_spans else ()))


def hand_over_attributes(read: ReadRow) -> Attributes:
    """Return what is known of a segment that was handed over. Bytes and seconds are those of the whole batch."""
    return {
        "latentmas.hand_over.source": read.source,
        "latentmas.hand_over.bytes": read.num_bytes,
        "latentmas.hand_over.moved_bytes": read.moved_bytes,
        "latentmas.hand_over.transport": read.transport,
        "latentmas.hand_over.link": read.link,
        "latentmas.hand_over.codec": read.codec,
        "latentmas.hand_over.seconds": read.seconds,
        "latentmas.hand_over.exposed_seconds": read.exposed_seconds,
    }


def message(role: str, text: str, finish_reason: str | None = None) -> str:
    """Return one message in the form of `gen_ai.input.messages`, or of `gen_ai.output.messages` if it has a reason."""
    one: dict[str, object] = {"role": role, "parts": [{"type": "text", "content": text}]}
    return json.dumps([one if finish_reason is None else {**one, "finish_reason": finish_reason}], ensure_ascii=False)
