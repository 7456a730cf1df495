"""Training documents of agents that think: prompts, what thoughts may aim at, and questions to their reader.

The reader gets what a `--memory` control hands over: the whole memory, thoughts alone, another question's memory, or
none. Prompts and answers are those of the built-in topologies.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from tokenizers import Tokenizer

from examples.tiny_model.texts import (
    CHAIN_ROLES,
    CHATML,
    answer_prompt,
    expert_prompt,
    expert_text,
    role_prompt,
    role_text,
)
from examples.tiny_model.tokens import word_id
from latentmas_ray.tasks.chain import MAX_STEPS, Problem, make_problem
from latentmas_ray.tasks.notes import NUM_EXPERTS, WANTED, Fact, Notes, draw, make_notes
from latentmas_ray.tasks.question import AnswerKind, Question

Aim = Literal["none", "text", "brief"]
# What a question's answer is counted as: the task, and the memory that its reader has.
KINDS = tuple(
    f"{task} {memory}" for task in ("notes", "chain") for memory in ("matched", "latent-only", "deranged", "none")
)
_MAX_BRANCHES = 12  # questions of one document
_MAX_FACTS = 5  # of one expert; the tasks have up to 6


@dataclass(frozen=True)
class Branch:
    """A question to the reader, as token ids: its prompt, then its answer. Without `reads_memory` it has no memory.

    `group`: answers that are compared have the same number; 0 for none.
    """

    question: Question
    prompt: list[int]
    answer: list[int]
    kind: str
    reads_memory: bool = True
    group: int = 0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class ThinkingAgent:
    """An agent's prompt, and the tokens that its thoughts aim at, from the first on; none if they aim at nothing."""

    prompt: list[int]
    aims: list[int]


@dataclass(frozen=True)
class ThinkingDocument:
    """Agents, and questions about their memory. `parallel`: they do not read each other. `thoughts_alone`: readers,
    the later agents included, get the thoughts without the prompts. Where the memory is that of another question, a
    branch that reads it is followed by the same without memory, of the same group.
    """

    agents: tuple[ThinkingAgent, ...]
    branches: tuple[Branch, ...]
    parallel: bool
    thoughts_alone: bool

    def num_tokens(self, num_thoughts: int) -> int:
        """The tokens of the agents with so many thoughts each, and of the branches."""
        own = sum(len(agent.prompt) + num_thoughts for agent in self.agents)
        return own + sum(map(len, self.branches))


@dataclass(frozen=True)
class ThinkingMix:
    """How often each kind of document occurs. Of those that are neither `alone` (thoughts alone) nor `wrong` the reader
    gets the whole memory of its own question."""

    chain: float = 0.35
    alone: float = 0.45
    wrong: float = 0.2
    wrong_alone: float = 0.4  # share of thoughts alone among the wrong memories
    aim: Aim = "text"


class DocumentWriter:
    """Makes random documents of a mix, all of agents that read each other or all of agents that do not."""

    def __init__(self, tokenizer: Tokenizer, rng: Random, mix: ThinkingMix) -> None:
        self._tokenizer, self._rng, self._mix = tokenizer, rng, mix
        self._num_groups = 0
        self._opening, self._closing, self._end = map(self._encode, (CHATML.opening, CHATML.closing, CHATML.end))

    def documents(self, num_thoughts: int, max_tokens: int, *, parallel: bool) -> Iterator[ThinkingDocument]:
        """Yield documents of at most `max_tokens` tokens, with at least one branch."""
        while True:
            document = self._document(num_thoughts, max_tokens, parallel)
            if document.branches and document.num_tokens(num_thoughts) <= max_tokens:
                yield document

    def _document(self, num_thoughts: int, max_tokens: int, parallel: bool) -> ThinkingDocument:
        rng, mix = self._rng, self._mix
        kind = rng.random()
        is_wrong, alone = kind < mix.wrong, mix.wrong <= kind < mix.wrong + mix.alone
        if is_wrong:
            alone = rng.random() < mix.wrong_alone
        memory = "deranged" if is_wrong else "latent-only" if alone else "matched"
        if rng.random() < mix.chain:
            problem = make_problem(rng, "train", rng.randint(1, MAX_STEPS))
            agents = tuple(
                self._agent(role_prompt(role, problem.question), self._steps(role, problem)) for role in CHAIN_ROLES
            )
            questions = self._problems(problem, is_wrong)
        else:
            notes = make_notes(rng, "train", [rng.randint(1, _MAX_FACTS) for _ in range(NUM_EXPERTS)])
            agents = tuple(self._agent(expert_prompt(facts), self._repeated(facts)) for facts in notes)
            questions = self._asked(notes, is_wrong)
        room = max_tokens - sum(len(agent.prompt) + num_thoughts for agent in agents)
        branches = self._branches(questions, memory, room)
        return ThinkingDocument(agents, tuple(branches), parallel, alone)

    def _branches(self, questions: Iterator[tuple[Question, str]], memory: str, room: int) -> Iterator[Branch]:
        """Yield a branch for each question that fits, or two where the memory is wrong."""
        for question, work in questions:
            prompt = [*self._opening, *self._encode(answer_prompt(question.question)), *self._closing]
            branch = Branch(question, prompt, self._encode(work) + self._end, f"{question.id} {memory}")
            pair = [branch]
            if memory == "deranged":
                self._num_groups += 1
                blind = replace(branch, kind=f"{question.id} none", reads_memory=False)
                pair = [replace(one, group=self._num_groups) for one in (branch, blind)]
            room -= sum(map(len, pair))
            if room < 0:
                return
            yield from pair

    def _problems(self, problem: Problem, is_wrong: bool) -> Iterator[tuple[Question, str]]:
        """The problem itself with its work; for a wrong memory other ones."""
        for _ in range(_MAX_BRANCHES if is_wrong else 1):
            if is_wrong:
                problem = make_problem(self._rng, "train", self._rng.randint(1, MAX_STEPS))
            yield _question("chain", problem.question, "number", str(problem.gold)), problem.work

    def _asked(self, notes: Notes, is_wrong: bool) -> Iterator[tuple[Question, str]]:
        """Questions about the notes; for a wrong memory about others, whose answers can only be guessed."""
        sizes = [len(facts) for facts in notes]
        for _ in range(_MAX_BRANCHES):
            told = make_notes(self._rng, "train", sizes) if is_wrong else notes
            asked = draw(self._rng, self._rng.choice(WANTED), told, "train")
            if asked is not None:
                yield _question("notes", asked.question, asked.kind, asked.gold), asked.work

    def _agent(self, prompt: str, aims: list[int]) -> ThinkingAgent:
        return ThinkingAgent([*self._opening, *self._encode(prompt), *self._closing], aims)

    def _repeated(self, facts: tuple[Fact, ...]) -> list[int]:
        """The tokens that an expert's thoughts aim at: its text, or each name with its count."""
        if self._mix.aim == "text":
            return self._encode(expert_text(facts)) + self._end
        if self._mix.aim == "brief":
            return [
                token
                for fact in facts
                for token in (word_id(self._tokenizer, fact.name), *self._encode(str(fact.count)))
            ]
        return []

    def _steps(self, role: str, problem: Problem) -> list[int]:
        """The tokens that a role's thoughts aim at: its text, or the steps of the calculation."""
        if self._mix.aim == "text":
            return self._encode(role_text(role, problem)) + self._end
        return self._encode(f" {problem.steps}") if self._mix.aim == "brief" else []

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


def _question(task: str, text: str, kind: AnswerKind, gold: str) -> Question:
    return Question(id=task, question=text, kind=kind, gold=gold, record={})
