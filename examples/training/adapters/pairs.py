"""What maps are trained on: a writer's thoughts about notes, and questions that a reader has to answer from them.

Dimensions: N thoughts, B rows (one for each document), T tokens, E_A and E_B hidden sizes of writer and reader.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import normalize

from examples.tiny_model.document import Document, DocumentPart
from examples.tiny_model.packing import Rows, pack_each
from examples.tiny_model.texts import answer_prompt, expert_prompt
from examples.training.adapters.settings import AdapterSettings
from latentmas_ray.engine.engine import Engine
from latentmas_ray.env import read_environment
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.models.translation import Translator, make_translator
from latentmas_ray.models.translation.vocabulary import SharedVocabulary, shared_vocabulary
from latentmas_ray.tasks.names import HELD_OUT_NAMES, TRAIN_NAMES
from latentmas_ray.tasks.notes import MAX_FACTS, NUM_EXPERTS, WANTED, Fact, Notes, draw, make_notes

_NUM_QUESTIONS = 6  # about the notes of one document


@dataclass(frozen=True)
class PairBatch:
    """Rows for the reader, with a soft token for each thought, and the writer's thoughts [N, E_A] in their order."""

    rows: Rows
    thoughts_NE: Tensor

    def visible(self, *, alone: bool) -> Tensor:
        """[B, T, T]: True where a token of the reader may see another; with `alone` questions see thoughts only."""
        rows = self.rows
        hidden = (rows.shares_BT >= 0) & (rows.soft_BT == 0)
        shares_BT = rows.shares_BT.masked_fill(hidden, -2) if alone else rows.shares_BT
        own = rows.own_BT[:, :, None] == rows.own_BT[:, None, :]
        return (own | (rows.reads_BT[:, :, None] == shares_BT[:, None, :])).tril()


class PairSource:
    """Two frozen models, and batches of pairs between them. Batch i of a seed is always the same."""

    def __init__(self, settings: AdapterSettings, *, dtype: str = "auto") -> None:
        """Raises ModelError for models that do not load or share too few words."""
        self.settings = settings
        self.reader: LanguageModel = load_model(settings.reader, dtype=dtype)
        for weight in self.reader.model.parameters():
            weight.requires_grad_(False)
        # The engine's own attention is for its cache; training has whole rows and a mask.
        self.reader.model.set_attn_implementation("sdpa")
        cache_dir = read_environment().cache_dir
        self._writer = Engine(load_model(settings.writer, dtype=dtype), thoughts=settings.thoughts, cache_dir=cache_dir)
        self.translator: Translator = make_translator(settings.writer, self.reader, cache_dir)

    @cached_property
    def shared(self) -> SharedVocabulary:
        """The words of both models."""
        names = (self.settings.writer, self.settings.reader)
        return shared_vocabulary(self._writer.lm.chat.tokenizer, self.reader.chat.tokenizer, names)

    @cached_property
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """The input embeddings of writer and reader, [V, E] each, fp32."""
        return self._writer.lm.input_embeddings().float(), self.reader.input_embeddings().float()

    def batch(self, seed: int, index: int) -> PairBatch:
        """Return batch `index` of this seed."""
        rng = Random(f"adapters {seed} {index}")
        documents, prompts = [], []
        for _ in range(self.settings.batch_size):
            notes = self._notes(rng)
            prompts += [expert_prompt(facts) for facts in notes]
            documents.append(self._document(rng, notes))
        return PairBatch(pack_each(documents), self.think(prompts))

    def words_of(self, thoughts_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of the thoughts whose nearest word of the writer is one of the reader's, and the reader's
        embeddings of these words."""
        writer_VE, reader_VE = self.embeddings
        nearest_N = (normalize(thoughts_NE, dim=-1) @ normalize(writer_VE, dim=-1).T).argmax(-1)
        to_reader_V = torch.full((len(writer_VE),), -1)
        to_reader_V[torch.tensor(self.shared.writer_ids)] = torch.tensor(self.shared.reader_ids)
        words_N = to_reader_V[nearest_N]
        return thoughts_NE[words_N >= 0], reader_VE[words_N[words_N >= 0]]

    def _notes(self, rng: Random) -> Notes:
        """Return notes with numbers of any kind; names of the questions too, but for `unseen`: a map of words knows
        no word that it has not met."""
        notes = make_notes(rng, "train", [rng.randint(1, MAX_FACTS) for _ in range(NUM_EXPERTS)])
        if self.settings.kind == "unseen":
            return notes
        names: Iterator[str] = iter(rng.sample(TRAIN_NAMES + HELD_OUT_NAMES, sum(map(len, notes))))
        return tuple(tuple(Fact(next(names), fact.count, fact.item) for fact in facts) for facts in notes)

    def _document(self, rng: Random, notes: Notes) -> Document:
        """Return the experts' prompts in the reader's tokens, each with places for its thoughts, and questions with
        answers, whose combinations of numbers are those of training."""
        thoughts = DocumentPart([0] * self.settings.latent_steps, soft=True)
        shared = [[DocumentPart(self.turn(expert_prompt(facts))), thoughts] for facts in notes]
        branches: list[list[DocumentPart]] = []
        while len(branches) < _NUM_QUESTIONS:
            wanted = rng.choice(WANTED)
            if (asked := draw(rng, wanted, notes, "train")) is not None:
                answer = [*self.reader.chat.encode_text(asked.work), self._end]
                prompt = DocumentPart(self.turn(answer_prompt(asked.question)))
                branches.append([prompt, DocumentPart(answer, wanted)])
        return Document(shared, branches, [0] * len(shared), parallel=True)

    @property
    def _end(self) -> int:
        end = self.reader.chat.tokenizer.eos_token_id
        assert isinstance(end, int)
        return end

    def turn(self, text: str) -> list[int]:
        """Return a user's text as the reader's prompt, up to the beginning of its answer."""
        return self.reader.chat.encode([{"role": "user", "content": text}], {}, "")

    def think(self, prompts: list[str]) -> Tensor:
        """Return the writer's thoughts about prompts [N, E_A], fp32: all about the first, then those about the next."""
        chat, steps = self._writer.lm.chat, self.settings.latent_steps
        ids = [chat.encode([{"role": "user", "content": prompt}], {}, "") for prompt in prompts]
        names = [f"expert-{index}" for index in range(len(prompts))]
        session = self._writer.open(names, num_slots=max(map(len, ids)) + steps)
        session.prefill(ids)
        session.think(steps)
        return session.emit("latents").recompute_inputs.latents_NE.float().clone()
