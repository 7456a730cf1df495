"""The policies: two small Qwen3s with the same tokenizer and weights of their own, as model folders of the runtime."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.tiny_model.tokens import SPECIAL
from examples.training.rlad.task.machine import MAX_VALUE, make_machine, rule_words
from examples.training.rlad.task.prompts import hint_alone_prompt, hinter_prompt, solver_prompt
from examples.training.rlad.task.teacher import ADVICE, leak_words
from latentmas_ray.errors import ConfigError
from latentmas_ray.models.load import load_tokenizer
from latentmas_ray.models.presets import untrained_model, wrap_tokenizer

_VOCAB_SIZE = 1024
# A number up to 99 is one token, with or without the space before it: sums are looked up and not carried out.
_PIECES = r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s"


@dataclass(frozen=True, kw_only=True)
class PolicyShape:
    """The size of a policy."""

    num_layers: int
    hidden_size: int
    mlp_size: int

    def first_model(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
        """Return the model with random weights in float32; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return untrained_model(len(tokenizer), **asdict(self))


# The solver is shallower: it works out what it is told, and finds less by itself.
SHAPES: Mapping[str, PolicyShape] = {
    "hinter": PolicyShape(num_layers=3, hidden_size=128, mlp_size=256),
    "solver": PolicyShape(num_layers=2, hidden_size=128, mlp_size=256),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer of both policies: byte-level, so that it can write every text. Always the same."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return wrap_tokenizer(tokenizer)


def _texts() -> Iterator[str]:
    rng = Random("tokenizer")
    for _ in range(300):
        problem = make_machine(rng, "train")
        yield from ("user\n", "assistant\n", problem.work, *ADVICE, leak_words(problem.gold))
        yield from (solver_prompt(problem.question), hinter_prompt(problem.question))
        yield hint_alone_prompt(rule_words(problem.rule))
    for value in range(MAX_VALUE + 1):
        yield from (f" {value} {{{value}" for _ in range(20))


def save_policy(folder: Path, shape: PolicyShape, weights: Mapping[str, Tensor]) -> None:
    """Write a policy as a model folder, for `--model FOLDER` and `--models AGENT=FOLDER`."""
    tokenizer = make_tokenizer()
    model = shape.first_model(tokenizer, 0)
    model.load_state_dict(dict(weights))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_policy(field: str, role: str, folder: Path) -> dict[str, Tensor]:
    """Return the weights of the policy in a model folder. Raises ConfigError of this field if it does not fit: it needs
    the tokenizer of this study's policies and the shape of those of its role."""
    expected = "it must be a folder that examples.training.rlad.export wrote"
    if not (folder / "config.json").is_file():
        raise ConfigError(field, str(folder), f"{expected}: there is no config.json")
    try:
        tokenizer = load_tokenizer(str(folder))
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(field, str(folder), f"{expected}: {str(error).splitlines()[0]}") from error
    if tokenizer.get_vocab() != make_tokenizer().get_vocab():
        raise ConfigError(field, str(folder), f"{expected}: its tokenizer has other tokens")
    weights: dict[str, Tensor] = model.state_dict()
    own = SHAPES[role].first_model(make_tokenizer(), 0).state_dict()
    for name in sorted(own.keys() | weights.keys()):
        found, wanted = (tuple(one[name].shape) if name in one else None for one in (weights, own))
        if found != wanted:
            raise ConfigError(
                field, str(folder), f"{expected} for the {role}: its {name} is {found} instead of {wanted}"
            )
    return weights
