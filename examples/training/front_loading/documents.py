"""The training data: a base corpus, two sets of reasoning documents, and streams that mix them token by token.

The base corpus has no worked problem: random words that are repeated, facts (the results of single steps), and problems
of one or two steps with bare answers. The `small` set of reasoning documents is narrow, of high quality and small:
problems of four families, long, all worked out correctly. The `large` set is diverse, of mixed quality and large: all
eight families, of any length, some without work, with gaps in it or with an error. `union` is both sets put together.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from examples.tiny_model.document import Document, DocumentPart
from examples.training.front_loading.families import FAMILIES, NARROW, WORDS, StepProblem, make_problem
from examples.training.front_loading.sizes import PoolSizes

PAD, END, USER, ASSISTANT = "<pad>", "<end>", "<user>", "<assistant>"
PAD_ID, END_ID = 0, 1
# Around question and answer: in a pretraining document, and in a conversation.
PLAIN, CHAT = ("problem", "work"), (USER, ASSISTANT)
SO = "so"
MIXES = ("none", "small", "large", "union")
# Not the paper's: the same two kinds with the other's repetition.
CONTROLS = ("small-fresh", "large-repeated")
SFT_SETS = ("small", "large", "union")
_VOCABULARY = (PAD, END, USER, ASSISTANT, *PLAIN, SO, ";", *WORDS)
_BASE_STEPS, _SMALL_STEPS, _LARGE_STEPS = (1, 2), (3, 4), (1, 4)
# Shares of the large set: no work, gaps, an error; the rest is right and complete.
_BARE, _GAPS, _WRONG = 0.2, 0.2, 0.2
# Shares of the base corpus in documents.
_RECALL, _FACTS = 0.25, 0.4
_FACT_FAMILIES = ("account", "clock", "turn")


def make_tokenizer() -> Tokenizer:
    """Return the tokenizer: one token for each word between spaces. Its padding is token 0."""
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(_VOCABULARY)}, unk_token=PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def worked_answer(problem: StepProblem, steps: Sequence[str] | None = None, answer: str | None = None) -> str:
    """Return the work and the answer; other steps or another answer than the right ones if they are given."""
    written = [*(problem.steps if steps is None else steps), f"{SO} {answer or problem.answer}"]
    return " ; ".join(written)


def high_quality(rng: Random) -> tuple[StepProblem, str]:
    """Return a problem of the small set and its answer."""
    problem = make_problem(rng, rng.choice(NARROW), rng.randint(*_SMALL_STEPS))
    return problem, worked_answer(problem)


def mixed_quality(rng: Random) -> tuple[StepProblem, str]:
    """Return a problem of the large set and its answer, which may be bare, have gaps or be wrong."""
    problem = make_problem(rng, rng.choice(tuple(FAMILIES)), rng.randint(*_LARGE_STEPS))
    kind = rng.random()
    if kind < _BARE:
        return problem, worked_answer(problem, [])
    if kind < _BARE + _GAPS:
        return problem, worked_answer(problem, [step for step in problem.steps if rng.random() < 0.5])
    if kind < _BARE + _GAPS + _WRONG:
        return problem, _with_error(rng, problem)
    return problem, worked_answer(problem)


def _with_error(rng: Random, problem: StepProblem) -> str:
    """Return work in which one step has the result of another problem, and that problem's answer."""
    other = make_problem(rng, problem.family, len(problem.steps))
    steps, place = list(problem.steps), rng.randrange(len(problem.steps))
    steps[place] = " ".join([*steps[place].split()[:-1], other.steps[place].split()[-1]])
    return worked_answer(problem, steps, other.answer)


class DocumentMaker:
    """Makes documents of token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text, all of whose words must be known."""
        return list(self._tokenizer.encode(text).ids)

    def problem(self, problem: StepProblem, answer: str, marks: tuple[str, str]) -> Document:
        """Return a problem with the loss on its answer."""
        asked, told = self.ids(f"{marks[0]} {problem.question} {marks[1]}"), [*self.ids(answer), END_ID]
        return Document([], [[DocumentPart(asked), DocumentPart(told, "chain")]], [])

    def base(self, rng: Random) -> Document:
        """Return a document of the base corpus."""
        kind = rng.random()
        if kind < _RECALL:
            words = rng.sample(WORDS, rng.randint(5, 14))
            start = rng.randrange(len(words) - 3)
            again = self.ids(" ".join(words[start:]))
            parts = [
                DocumentPart([*self.ids(" ".join(words)), again[0]]),
                DocumentPart([*again[1:], END_ID], "recall"),
            ]
            return Document([], [parts], [])
        if kind < _RECALL + _FACTS:
            facts = [make_problem(rng, rng.choice(_FACT_FAMILIES), 1).steps[0] for _ in range(5)]
            return Document([], [[part for fact in facts for part in self._fact(fact)]], [])
        problem = make_problem(rng, rng.choice(tuple(FAMILIES)), rng.randint(*_BASE_STEPS))
        return self.problem(problem, worked_answer(problem, []), PLAIN)

    def _fact(self, fact: str) -> list[DocumentPart]:
        """Return a fact with the loss on its result: what comes before is drawn at random."""
        *before, result = self.ids(fact)
        return [DocumentPart(before), DocumentPart([result, *self.ids(";")], "drill")]


def _length(document: Document) -> int:
    return sum(len(part.ids) for parts in document.branches for part in parts)


@dataclass
class StreamState:
    """How far a stream is, in JSON: the documents drawn of each source, and their tokens."""

    drawn: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)


class MixStream:
    """Documents of a base corpus and of reasoning, in an order that follows from the seed; `state` is how far it is.

    Reasoning documents are `share` of the tokens. A set is a pool of different documents in random order, and begins
    again in another order when all have been drawn.
    """

    def __init__(
        self, maker: DocumentMaker, mix: str, sizes: PoolSizes, *, share: float, marks: tuple[str, str], seed: int
    ) -> None:
        """`mix` is one of MIXES or CONTROLS. The pools are the same for all seeds, like a data set."""
        self.state = StreamState()
        self._maker, self._share, self._marks, self._seed = maker, share if mix != "none" else 0.0, marks, seed
        self.pool = self._make_pool(mix, sizes)
        self._order: tuple[int, list[int]] = (-1, [])

    def _make_pool(self, mix: str, sizes: PoolSizes) -> list[Document]:
        """Return the documents of the mix's reasoning data."""
        kinds: Mapping[str, Sequence[tuple[Callable[[Random], tuple[StepProblem, str]], int]]] = {
            "none": (),
            "small": [(high_quality, sizes.small)],
            "large": [(mixed_quality, sizes.large)],
            "union": [(high_quality, sizes.small), (mixed_quality, sizes.large)],
            "small-fresh": [(high_quality, sizes.large)],
            "large-repeated": [(mixed_quality, sizes.small)],
        }
        pool: list[Document] = []
        for make, size in kinds[mix]:
            rng = Random(f"{make.__name__} pool")
            pool += [self._maker.problem(*make(rng), self._marks) for _ in range(size)]
        return pool

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        tokens = Counter(self.state.tokens)
        is_reasoning = tokens["reasoning"] < self._share * (tokens.total() + 1)
        source = "reasoning" if is_reasoning else "base"
        index = self.state.drawn.get(source, 0)
        document = self._pooled(index) if is_reasoning else self._maker.base(Random(f"{self._seed} base {index}"))
        self.state.drawn[source] = index + 1
        self.state.tokens[source] = tokens[source] + _length(document)
        return document

    def _pooled(self, index: int) -> Document:
        epoch, place = divmod(index, len(self.pool))
        if epoch != self._order[0]:
            self._order = (epoch, list(range(len(self.pool))))
            Random(f"{self._seed} order {epoch}").shuffle(self._order[1])
        return self.pool[self._order[1][place]]

    def figures(self) -> dict[str, Any]:
        """Return the tokens of both sources, and how often a document of the pool was drawn on average."""
        drawn = self.state.drawn.get("reasoning", 0)
        return {
            "base_tokens": self.state.tokens.get("base", 0),
            "reasoning_tokens": self.state.tokens.get("reasoning", 0),
            "pool_tokens": sum(map(_length, self.pool)),
            "epochs": drawn / len(self.pool) if self.pool else 0.0,
        }
