"""Collects what is measured: the thoughts of agents on some questions, embeddings, and the tokens that agents write
where they talk in text.

Dimensions: V embeddings, W tokens that were written, N thoughts, E hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.config import Method, RunConfig
from latentmas_ray.engine.diagnostics.replay import ThoughtChain, replay_thoughts
from latentmas_ray.engine.engine import Engine
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ConfigError
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.models.thoughts.realign import mean_norm
from latentmas_ray.system import LatentMAS
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.question import Question

MAX_EMBEDDINGS = 20_000  # of the vocabulary, evenly spread: bounds the memory of large ones
Say = Callable[[str], None]


@dataclass(frozen=True)
class ThoughtSample:
    """Vectors in fp32 on the CPU."""

    num_questions: int
    is_tied: bool
    target_norm: float  # mean_v ‖E_in[v]‖
    embeddings_VE: Tensor
    written_WE: Tensor  # of the different tokens that agents wrote
    chains: tuple[ThoughtChain, ...]

    @property
    def hidden_NE(self) -> Tensor:  # noqa: N802
        """The hidden states of all thoughts."""
        return torch.cat([chain.hidden_NE for chain in self.chains])

    @property
    def mapped_NE(self) -> Tensor:  # noqa: N802
        """All thoughts before rescaling."""
        return torch.cat([chain.mapped_NE for chain in self.chains])

    @property
    def fed_NE(self) -> Tensor:  # noqa: N802
        """All thoughts as they were fed."""
        return torch.cat([chain.fed_NE for chain in self.chains])


def collect_sample(config: RunConfig, say: Say) -> ThoughtSample:
    """Let agents think, and write, about the questions of the task. One model is loaded, in this process.

    Raises InputError kinds, ConfigError if no agent thinks, and RunError kinds.
    """
    questions = load_questions(config.task, config.limit)
    lm = load_model(config.model, dtype=config.dtype, device=config.device, revision=config.revision)
    say(f"{len(questions)} questions: thoughts")
    chains = collect_chains(config, lm, questions)
    if not chains:
        raise ConfigError("latent_steps", config.latent_steps, "no agent has a thought; it must be at least 1")
    say(f"{len(questions)} questions: text")
    written = _write(config, lm, questions)
    shown = torch.linspace(0, lm.num_embeddings - 1, min(lm.num_embeddings, MAX_EMBEDDINGS)).round().long()
    return ThoughtSample(
        num_questions=len(questions),
        is_tied=lm.is_tied,
        target_norm=mean_norm(lm.input_embeddings()),
        embeddings_VE=_embeddings(lm, shown),
        written_WE=_embeddings(lm, torch.tensor(written, dtype=torch.int64)),
        chains=tuple(chains),
    )


def collect_chains(config: RunConfig, lm: LanguageModel, questions: Sequence[Question]) -> list[ThoughtChain]:
    """Let agents think about the questions on a model that is loaded; return all their thoughts."""
    engine = Engine(lm, thoughts=config.thoughts, cache_dir=read_environment().cache_dir)
    with _system(config, lm, method="latent") as system:
        memories = [system.think(question) for question in questions]
    return [chain for memory in memories for chain in replay_thoughts(engine, memory)]


def _write(config: RunConfig, lm: LanguageModel, questions: Sequence[Question]) -> list[int]:
    """The different tokens that agents write where they talk in text, in order."""
    with _system(config, lm, method="text") as system:
        answers = list(system.map(questions))
    ids = {token for answer in answers for token in answer.answer_token_ids}
    for text in (use.text for answer in answers for use in answer.agents.values() if use.text is not None):
        ids |= set(lm.chat.tokenizer.encode(text, add_special_tokens=False))
    return sorted(ids)


def _system(config: RunConfig, lm: LanguageModel, *, method: Method) -> LatentMAS:
    """A system on the model that is loaded already."""
    shared = ("task", "topology", "max_new_tokens", "temperature", "runtime")
    thinking = ("latent_steps", "thoughts") if method == "latent" else ()
    fields = {name: getattr(config, name) for name in (*shared, *thinking)}
    return LatentMAS(lm.model, tokenizer=lm.chat.tokenizer, method=method, **fields)


@torch.inference_mode()
def _embeddings(lm: LanguageModel, ids: Tensor) -> Tensor:
    embeds_NE = lm.embed(ids).float().cpu()
    return embeds_NE[embeds_NE.isfinite().all(-1)]
