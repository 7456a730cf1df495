"""Makes training documents from tasks: shared segments, and branches that read them but not each other.

A document has many questions about one memory. The memory is computed once, and the branch of each question follows it
directly, as if it were the only one. So a document trains as many answers as it has branches.
"""

from collections.abc import Sequence
from random import Random

from tokenizers import Tokenizer

from examples.tiny_model.document import Document, DocumentPart, Mix
from examples.tiny_model.texts import (
    AGENTS,
    CHAIN_ROLES,
    CHATML,
    TurnMarks,
    answer_prompt,
    context_of,
    expert_prompt,
    expert_text,
    role_prompt,
    role_text,
)
from latentmas_ray.tasks.chain import MAX_STEPS, make_problem
from latentmas_ray.tasks.notes import Notes, draw, make_notes, notes_text

_MAX_SOFT = 100  # soft tokens in one agent's turn
_LEAST_BRANCH = 70  # tokens that are reserved for a question and its answer


class TranscriptWriter:
    """Makes random documents of a mix. The texts before and after a user's message are encoded once."""

    def __init__(self, tokenizer: Tokenizer, rng: Random, marks: TurnMarks = CHATML) -> None:
        self.rng = rng
        self._tokenizer = tokenizer
        self._words = [index for index in range(tokenizer.get_vocab_size()) if index > 2]
        self._opening = self._text(marks.opening)
        self._closing = self._text(marks.closing)
        self._end = marks.end

    def document(self, mix: Mix, max_tokens: int) -> Document:
        """Return one document of the mix, of at most `max_tokens` tokens."""
        draw_of = self.rng.random()
        if draw_of < mix.recall:
            return self._recall(mix, max_tokens)
        if draw_of < mix.recall + mix.drill:
            return self._drill()
        if draw_of < mix.recall + mix.drill + mix.chain:
            return self._chain(mix, max_tokens)
        return self._notes(mix, max_tokens)

    def _text(self, text: str, kind: str | None = None) -> DocumentPart:
        return DocumentPart(self._tokenizer.encode(text).ids, kind)

    def _user(self, text: str) -> list[DocumentPart]:
        return [self._opening, self._text(text), self._closing]

    def _recall(self, mix: Mix, max_tokens: int) -> Document:
        """Random words, then the same words again from a random position: trains looking back for a word."""
        num = self.rng.randint(2, min(mix.max_recall, max_tokens // 2))
        words = self.rng.sample(self._words, num)
        parts = [DocumentPart(words)]
        for _ in range(self.rng.randint(1, max(1, min(4, max_tokens // num - 1)))):
            start = self.rng.randrange(num - 1)
            parts += [DocumentPart(words[start : start + 1]), DocumentPart(words[start + 1 :], "recall")]
        return Document([], [parts], [])

    def _drill(self) -> Document:
        """Sums and differences of all numbers, including those held out of the tasks."""
        parts = []
        for _ in range(8):
            left, right = self.rng.randint(1, 40), self.rng.randint(1, 20)
            left, right = max(left, right), min(left, right)
            if self.rng.random() < 0.4:
                left, right, sign, result = left, right, "-", left - right
            else:
                left, right = (left, right) if self.rng.random() < 0.5 else (right, left)
                sign, result = "+", left + right
            if self.rng.random() < 0.1:
                right, sign, result = 2, "*", 2 * left
            parts += [self._text(f" {left}{sign}{right}="), self._text(f"{result}.", "drill")]
        return Document([], [parts], [])

    def _turns(
        self, mix: Mix, prompts: Sequence[str], texts: Sequence[str], max_tokens: int
    ) -> list[list[DocumentPart]]:
        """Return one segment per agent. If they add soft tokens, mostly all agents add equally many."""
        segments = [self._user(prompt) for prompt in prompts]
        room = max_tokens - _LEAST_BRANCH - sum(len(part.ids) for parts in segments for part in parts)
        longest = min(_MAX_SOFT, room // len(segments))
        if longest < 1 or self.rng.random() >= mix.soft:
            return [parts + self._filler(mix, text) for parts, text in zip(segments, texts, strict=True)]
        num = self.rng.randint(1, longest) if self.rng.random() < 0.6 else int(longest ** self.rng.random())
        some = self.rng.random() < 0.2
        return [
            parts + (self._filler(mix, text) if some and self.rng.random() < 0.5 else [self._soft(text, num)])
            for parts, text in zip(segments, texts, strict=True)
        ]

    def _soft(self, text: str, num: int) -> DocumentPart:
        """Return soft tokens made of random words, of a text's words in random order, or of the text from its start."""
        kind, ids = self.rng.random(), self._tokenizer.encode(text).ids
        if kind < 0.4:
            return DocumentPart(self.rng.choices(self._words, k=num), soft=True)
        if kind < 0.7:
            return DocumentPart(self.rng.choices(ids, k=num), soft=True)
        return DocumentPart((ids * (num // len(ids) + 1))[:num], soft=True)

    def _filler(self, mix: Mix, text: str) -> list[DocumentPart]:
        """Return what an agent adds to its prompt: nothing, its text or the beginning of it, or meaningless words (one
        repeated, its own in random order, or random ones)."""
        kind = self.rng.random()
        if kind < 0.35:
            return []
        if kind < 0.8:
            ids = self._tokenizer.encode(text + self._end).ids
            if kind < 0.6:
                return [DocumentPart(ids, "repeat")]
            return [DocumentPart(ids[: self.rng.randint(1, len(ids))], "repeat")]
        num = self.rng.randint(1, mix.max_filler)
        if kind < 0.86:
            return [DocumentPart([self.rng.choice(self._words)] * num)]
        words = self._tokenizer.encode(text).ids if kind < 0.93 else self._words
        return [DocumentPart(self.rng.choices(words, k=num))]

    def _gap(self, mix: Mix) -> int:
        return self.rng.randint(0, mix.max_gap) if self.rng.random() < 0.4 else 0

    def _notes(self, mix: Mix, max_tokens: int) -> Document:
        rng = self.rng
        num_facts = [rng.randint(*mix.num_facts) for _ in range(rng.randint(*mix.num_experts))]
        notes = make_notes(rng, "train", num_facts)
        way = rng.random()
        if rng.random() < mix.blind:
            return self._blind(mix, notes, max_tokens)
        if way < 0.7:
            prompts, texts = map(expert_prompt, notes), map(expert_text, notes)
            shared = self._turns(mix, list(prompts), list(texts), max_tokens)
            gaps = [self._gap(mix) for _ in shared]
            before = [self._opening]
        else:
            written = list(zip(AGENTS["notes"], map(expert_text, notes), strict=False))
            if way < 0.85:
                if way < 0.75 and len(written) > 1:  # an expert that reads what others wrote
                    return self._text_expert(notes, written)
                text = context_of(written)
            else:
                text = f"Notes: {' '.join(map(notes_text, notes))}\n"
            shared, gaps, before = [[self._opening, self._text(text)]], [0], []
        room = max_tokens - sum(len(part.ids) for parts in shared for part in parts)
        branches = self._questions(mix, notes, before, room)
        return Document(shared, branches, gaps, parallel=rng.random() < 0.5)

    def _blind(self, mix: Mix, notes: Notes, max_tokens: int) -> Document:
        """Questions without their notes, or with soft tokens in their place: the answer can only be guessed."""
        num = 0 if self.rng.random() < 0.6 else self.rng.randint(1, 40)
        shared = [[self._soft(expert_text(facts), num)] for facts in notes if num]
        branches: list[list[DocumentPart]] = []
        for _ in range(3):  # each about other notes: answers to questions about the same notes would not be guesses
            nowhere = make_notes(self.rng, "train", [len(facts) for facts in notes])
            branches += self._questions(mix, nowhere, [self._opening], max_tokens)[:1]
        return Document(shared, branches, [self.rng.randint(0, 60) for _ in shared])

    def _text_expert(self, notes: Notes, written: Sequence[tuple[str, str]]) -> Document:
        last = self.rng.randrange(1, len(notes))
        parts = self._user(expert_prompt(notes[last], context_of(written[:last])))
        return Document([], [[*parts, self._text(expert_text(notes[last]) + self._end, "repeat")]], [])

    def _questions(self, mix: Mix, notes: Notes, before: list[DocumentPart], room: int) -> list[list[DocumentPart]]:
        branches: list[list[DocumentPart]] = []
        for _ in range(12):
            wanted = self.rng.choice(mix.wanted)
            asked = draw(self.rng, wanted, notes, "train")
            if asked is None:
                continue
            prompt = self._text(answer_prompt(asked.question))
            branch = [*before, prompt, self._closing, self._text(asked.work + self._end, wanted)]
            room -= sum(len(part.ids) for part in branch)
            if room < 0:
                break
            branches.append(branch)
        return branches

    def _chain(self, mix: Mix, max_tokens: int) -> Document:
        """One word problem: for the answering agent alone, after the other agents' memories, or after their texts."""
        rng = self.rng
        problem = make_problem(rng, "train", rng.randint(1, MAX_STEPS))
        written = [(name, role_text(role, problem)) for name, role in zip(AGENTS["chain"], CHAIN_ROLES, strict=True)]
        answer = [
            self._text(answer_prompt(problem.question)),
            self._closing,
            self._text(problem.work + self._end, "chain"),
        ]
        if rng.random() >= mix.solo:
            num = rng.choice((1, 2, 3, 3))
            prompts = [role_prompt(role, problem.question) for role in CHAIN_ROLES[-num:]]
            shared = self._turns(mix, prompts, [text for _, text in written[-num:]], max_tokens - len(answer[0].ids))
            gaps = [self._gap(mix) for _ in shared]
            return Document(shared, [[self._opening, *answer]], gaps, parallel=rng.random() < 0.4)
        way = rng.random()
        if way < 0.7:
            return Document([], [[self._opening, *answer]], [])
        if way < 0.82:
            return Document([], [[self._opening, self._text(context_of(written)), *answer]], [])
        index = rng.randrange(len(CHAIN_ROLES))  # one of the others that writes
        before = context_of(written[:index])
        parts = self._user(before + role_prompt(CHAIN_ROLES[index], problem.question))
        return Document([], [[*parts, self._text(written[index][1] + self._end, "chain")]], [])
