"""A team whose latent agents read no other agent: their memory is computed once, and answers follow from parts of it.

What such an agent computes depends neither on the control of memory nor on the codec, and its first thoughts are the
same however many follow. So one computation with the most thoughts serves every number of steps and every control, and
only the answering agent runs again. `python -m benchmarks thoughts` and `keep` do this; the answers are those of
`latentmas eval` with the same settings (tests/numerics/test_shared_memory.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.shared_memory.segments import cut, sent_bytes, stack, take, through_codec
from latentmas_ray.config import CodecName, RunConfig
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.env import read_environment
from latentmas_ray.memory import Segment
from latentmas_ray.models import LanguageModel
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.turns import DriverSettings, build_turn
from latentmas_ray.tasks import Question, grade, load_questions, mismatch_memory, task_max_new_tokens
from latentmas_ray.topology import Topology, builtin_for, load_topology
from latentmas_ray.topology.ablations import apply_control
from latentmas_ray.topology.prompts import RenderedPrompts


@dataclass(frozen=True, kw_only=True)
class BenchAnswer:
    """The answer to one question, graded."""

    id: str
    text: str
    prediction: str | None
    correct: bool | None
    numbers_from: str | None  # of the task facts: whose numbers the answer has
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class TeamMemory:
    """What all latent agents computed about all questions, and how their thoughts converged."""

    segments: Mapping[str, Segment]  # by agent
    prompt_lengths: Mapping[str, tuple[int, ...]]
    cosines: tuple[tuple[float, ...], ...] = ()  # of each agent and question: each thought with the one before

    def cut(self, topology: Topology, thoughts: int) -> "TeamMemory":
        """What `topology` hands over of it with so many thoughts."""
        parts = {agent.name: agent.hands_over for agent in topology.agents}
        segments = {
            name: cut(segment, self.prompt_lengths[name], thoughts, parts[name])
            for name, segment in self.segments.items()
        }
        return replace(self, segments=segments)

    def through(self, codec: CodecName) -> "TeamMemory":
        """What readers get of it through a codec."""
        if codec == "none":
            return self
        return replace(self, segments={name: through_codec(one, codec) for name, one in self.segments.items()})

    def sent_bytes(self, codec: CodecName) -> list[int]:
        """Bytes of KV of each question as it is sent with a codec, of all agents."""
        return [sum(parts) for parts in zip(*(sent_bytes(one, codec) for one in self.segments.values()), strict=True)]

    def of_next_questions(self) -> "TeamMemory":
        """Each question's memory is that of the next one, the last one's that of the first: the control `deranged`."""
        (count,) = {segment.num_questions for segment in self.segments.values()}
        order = [*range(1, count), 0]
        return replace(self, segments={name: take(segment, order) for name, segment in self.segments.items()})


class SharedMemoryTeam:
    """The agents of a configuration on one loaded model, and the questions of its task."""

    def __init__(self, config: RunConfig, lm: LanguageModel) -> None:
        """Raises InputError kinds."""
        self.questions = load_questions(config.task, config.limit)
        self._config = config.resolved(task_max_new_tokens(self.questions))
        self._topology = team_topology(config)
        self._prompts = RenderedPrompts.of(self._topology, self.questions)
        self._lm = lm
        self._runner = self._load(config.thoughts)

    def use_rule(self, rule: str) -> None:
        """Let the agents think by another rule from now on."""
        self._config = self._config.model_copy(update={"thoughts": rule})
        self._runner = self._load(rule)

    def topology_of(self, control: str) -> Topology:
        """The team under a control of memory. Raises ConfigError."""
        return apply_control(self._topology, control)  # type: ignore[arg-type]

    def think(self, steps: int, changes: Mapping[str, object] | None = None, *, control: str = "matched") -> TeamMemory:
        """Compute the memory of all latent agents, with `changes` to the configuration (such as `keep`). With control
        `deranged` it is what agents with the next question hand over to the readers of this one: where readers choose,
        that is not the same as `TeamMemory.of_next_questions`."""
        settings = self._settings({"latent_steps": steps, **(changes or {})})
        questions = mismatch_memory(self.questions) if control == "deranged" else self.questions
        parts: dict[str, list[Segment]] = {}
        lengths: dict[str, list[int]] = {}
        cosines: list[tuple[float, ...]] = []
        for batch in plan_batches(questions, self._config.batch_size):
            for agent in self._topology.agents:
                if agent.thinks == "text":
                    continue
                chunk, result = self._runner.run(build_turn(self._topology, agent, batch, settings, {}), {})
                assert chunk is not None, "a latent agent hands over a segment"
                segment = Segment(chunk.meta, chunk.kv, chunk.recompute_inputs)
                segment.kv.buffer()  # out of the cache, which the next turn changes
                parts.setdefault(agent.name, []).append(segment)
                lengths.setdefault(agent.name, []).extend(result.prompt_tokens)
                cosines += [one.cosines for one in result.convergence]
        return TeamMemory(
            segments={name: stack(found) for name, found in parts.items()},
            prompt_lengths={name: tuple(found) for name, found in lengths.items()},
            cosines=tuple(cosines),
        )

    def answer(self, memory: TeamMemory | None, control: str) -> list[BenchAnswer]:
        """Let the answering agent answer all questions from what is handed over under that control; None for `none`."""
        topology = self.topology_of(control)
        questions = mismatch_memory(self.questions) if control == "deranged" else self.questions
        settings = self._settings({})
        answers: list[BenchAnswer] = []
        for batch in plan_batches(questions, self._config.batch_size):
            rows = range(len(answers), len(answers) + len(batch.questions))
            segments = {} if memory is None else {name: take(one, rows) for name, one in memory.segments.items()}
            work = build_turn(topology, topology.answering_agent, batch, settings, {})
            _, result = self._runner.run(work, segments)
            written = zip(batch.questions, result.texts, result.output_token_ids, strict=True)
            answers += [_graded(question, text, len(ids)) for question, text, ids in written]
        return answers

    def _settings(self, changes: Mapping[str, object]) -> DriverSettings:
        return DriverSettings.from_config(self._config.model_copy(update=changes), prompts=self._prompts)

    def _load(self, rule: str) -> TurnRunner:
        return TurnRunner(Engine(self._lm, thoughts=rule, cache_dir=read_environment().cache_dir))


def team_topology(config: RunConfig) -> Topology:
    """The topology of a configuration. Raises TopologyError."""
    return load_topology(builtin_for(config.task, config.topology))


def shares_memory(topology: Topology) -> bool:
    """Whether the memory of a team can be computed once for all numbers of steps and controls: its latent agents read
    no other agent, and say nothing themselves about steps or about what follows the thoughts."""
    others = [agent for agent in topology.agents if agent.name != topology.answering_agent.name]
    return bool(others) and all(
        agent.thinks == "latent"
        and not agent.reads
        and not agent.close_turn
        and agent.latent_steps is None
        and agent.keep is None
        and agent.hands_over == "all"
        for agent in others
    )


def save_answers(path: Path, settings: Mapping[str, object], answers: Sequence[BenchAnswer], **more: object) -> None:
    """Write answers, and the settings that they were made with, as JSON: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": settings, **more, "answers": [asdict(answer) for answer in answers]})
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    partial.replace(path)


def read_answers(path: Path, settings: Mapping[str, object]) -> dict[str, float] | None:
    """1.0 for a right answer, by question; None if there is no such file, or one of other settings."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    if found["settings"] != json.loads(json.dumps(settings)):
        return None
    return {answer["id"]: float(bool(answer["correct"])) for answer in found["answers"]}


def _graded(question: Question, text: str, num_tokens: int) -> BenchAnswer:
    found = grade(question, text)
    return BenchAnswer(
        id=question.id,
        text=text,
        prediction=found.prediction,
        correct=found.correct,
        numbers_from=found.numbers_from,
        num_tokens=num_tokens,
    )
