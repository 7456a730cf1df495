"""Questions as the answering agent gets them, with their memory and our own engine's answer to each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentmas_ray import Agent, LatentMAS, Topology
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.segment_io import Incoming, InMemorySegments, Outgoing
from latentmas_ray.engine.turn import Sampling, TurnRequest, TurnResult
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import RecomputeInputs, Segment, SegmentChunk, join, merge_layout
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.models.sampling import greedy, uniform
from latentmas_ray.system import make_runtime
from latentmas_ray.writing import continuous
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.question_memory import question_memories
from latentmas_ray.writing.receive import receive_memory
from latentmas_ray.writing.text_engine import QuestionMemory, TextRequest
from tests.vllm.child import write_all


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """One question of a text agent, and our own engine's answer."""

    request: TextRequest
    token_ids: tuple[int, ...]
    inputs: RecomputeInputs | None = None  # of the whole chain before it, if it reads one that hands over all


class RecordingRunner(TurnRunner):
    """Executes turns, and records the questions of text agents."""

    def __init__(self, engine: Engine, name: str, asked: list[Asked]) -> None:
        super().__init__(engine)
        self._name = name
        self._asked = asked

    def run(
        self, work: TurnRequest, memory: Mapping[str, Segment] | Incoming, *, outgoing: Outgoing | None = None
    ) -> tuple[SegmentChunk | None, TurnResult]:
        if work.thinks == "latent":
            return super().run(work, memory, outgoing=outgoing)
        segments = {agent: join([chunk]) for agent, chunk in (_chunks(memory))}
        merged = merge_layout(work.reads, segments, len(work.question_ids))
        memories = [memory and copied(memory) for memory in question_memories(self.spec, merged, merged.chunks())]
        inputs = self._inputs(work, segments)
        chunk, result = super().run(work, segments, outgoing=outgoing)
        for row, question_id in enumerate(work.question_ids):
            prompt = work.prompts[row]
            request = TextRequest(
                key=f"{self._name} {work.agent} {question_id}",
                question_id=question_id,
                agent=work.agent,
                prompt_ids=tuple(self.engine.lm.chat.encode(prompt.messages, prompt.template, prompt.suffix)),
                sampling=work.sampling,
                memory=memories[row],
            )
            self._asked.append(Asked(request=request, token_ids=result.output_token_ids[row], inputs=inputs[row]))
        return chunk, result

    def _inputs(self, work: TurnRequest, segments: Mapping[str, Segment]) -> Sequence[RecomputeInputs | None]:
        arrived = replace(work, recomputed=frozenset(segments))
        try:
            return receive_memory(self.spec, arrived, InMemorySegments(segments), None).inputs
        except SegmentError:  # no chain
            return [None] * len(work.question_ids)


def _chunks(memory: Mapping[str, Segment] | Incoming) -> list[tuple[str, SegmentChunk]]:
    """The segments, which the local runtime gives in one chunk each."""
    return list((InMemorySegments(memory) if isinstance(memory, Mapping) else memory).chunks())


def copied(memory: QuestionMemory) -> QuestionMemory:
    """The memory in tensors of its own."""
    return replace(memory, parts=tuple(replace(part, kv_LCHTD=part.kv_LCHTD.clone()) for part in memory.parts))


DAG = Topology(
    name="dag",
    agents=[
        Agent(name="first", prompt="Question: {{ question }}\nRead it."),
        Agent(name="left", prompt="Question: {{ question }}\nThink.", reads="first"),
        Agent(name="right", prompt="Question: {{ question }}\nThink again.", reads="first", hands_over="prompt"),
        Agent(name="judge", prompt="Question: {{ question }}\nCompare.", reads=["left", "right"]),
        Agent(
            name="answerer",
            thinks="text",
            prompt="{% if context %}{{ context }}\n\n{% endif %}Question: {{ question }}\nAnswer.",
            reads=["judge", "right"],
        ),
    ],
)


class OwnEngine:
    """Our own engine, loaded once, asked through the local runtime."""

    def __init__(self, cache_dir: Path, model: str = "tiny", dtype: str = "float32") -> None:
        self.lm: LanguageModel = load_model(model, dtype=dtype, device="cpu")
        self._engine = Engine(self.lm, thoughts="realign", cache_dir=cache_dir)
        self._model, self._dtype = model, dtype

    def ask(self, name: str, task: str, num_questions: int, *, topology: str | Topology, **fields: Any) -> list[Asked]:
        """Ask the first questions of a task; return those of all text agents. `name` begins their keys."""
        asked: list[Asked] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(make_runtime, "load_runner", lambda *args, **more: RecordingRunner(self._engine, name, asked))
            mas = LatentMAS(
                self._model, topology=topology, task=task, runtime="local", dtype=self._dtype, batch_size=50, **fields
            )
            with mas:
                mas.evaluate(limit=num_questions)
        return asked

    def draw(self, asked: Sequence[Asked], temperature: float) -> list[Asked]:
        """Answer the same questions with the same memories again, with drawn tokens, by our engine that writes
        continuously."""
        sampling = Sampling(temperature=temperature, top_p=0.95)
        requests = [replace(one.request, sampling=sampling) for one in asked]
        written = write_all(ContinuousEngine(self.lm, max_running=50), requests)
        return [Asked(request=one, token_ids=tuple(written[one.key].token_ids)) for one in requests]

    def border_distance(self, one: Asked, step: int) -> float:
        """How far the random number of token `step` of a drawn answer is from the next border between two tokens, on
        the scale from 0 to 1 on which it is drawn."""
        seen: list[Tensor] = []
        begun = replace(one.request, prompt_ids=(*one.request.prompt_ids, *one.token_ids[:step]), sampling=Sampling())
        engine = ContinuousEngine(self.lm, max_running=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(continuous, "greedy", lambda logits: seen.append(logits) or greedy(logits))  # type: ignore[func-returns-value]
            engine.start(begun)
            while not seen:
                engine.step()
        sampling = one.request.sampling
        number = uniform(sampling.seed, one.request.question_id, one.request.agent, step)
        probs_V = torch.softmax(seen[0][0].double() / sampling.temperature, dim=-1)
        sorted_S = probs_V.sort(descending=True).values
        smallest = sorted_S[sorted_S.cumsum(dim=-1) - sorted_S < sampling.top_p].min()
        cumulative_V = probs_V.masked_fill(probs_V < smallest, 0.0).cumsum(dim=-1)
        return float((cumulative_V / cumulative_V[-1] - number).abs().min())


def num_equal(asked: Sequence[Asked], written: Mapping[str, Any]) -> int:
    """How many answers are equal, token by token."""
    return len(asked) - len(differences(asked, written))


def differences(asked: Sequence[Asked], written: Mapping[str, Any]) -> list[tuple[Asked, int]]:
    """The questions whose answers differ, each with the number of tokens before the first that does."""
    differing = []
    for one in asked:
        other = written[one.request.key].token_ids
        if list(one.token_ids) != other:
            pairs = zip(one.token_ids, other, strict=False)
            differing.append(
                (one, next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.token_ids), len(other))))
            )
    return differing
