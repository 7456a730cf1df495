"""Asks a model problems that no training data has, and grades its answers."""

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from examples.training.front_loading.documents import END, END_ID, PAD_ID, SO
from examples.training.front_loading.families import FAMILIES, StepProblem, make_problem

MAX_ANSWER = 36  # tokens of an answer; the longest right one has 28
_BATCH = 400
TEST_STEPS = (2, 4)


def held_out_problems(num_questions: int) -> list[StepProblem]:
    """Return the problems of the test, as many of each family; the same for all cells."""
    rng, names = Random("test problems"), tuple(FAMILIES)
    return [
        make_problem(rng, names[index % len(names)], rng.randint(*TEST_STEPS), held_out=True)
        for index in range(num_questions)
    ]


def prompts_of(tokenizer: Tokenizer, problems: Sequence[StepProblem], marks: tuple[str, str]) -> list[list[int]]:
    """Return the prompts of problems as token ids."""
    return [list(tokenizer.encode(f"{marks[0]} {one.question} {marks[1]}").ids) for one in problems]


@torch.inference_mode()
def write_answers(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], *, temperature: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the padded prompts [B, P] and what the model wrote after them [B, T], padded after the end.

    With a temperature of 0 the likeliest tokens, else samples, which use the global random state.
    """
    longest = max(map(len, prompts))
    ids_BP = torch.tensor([[PAD_ID] * (longest - len(one)) + list(one) for one in prompts])
    how = {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature, "top_k": 0}
    model.eval()
    written = model.generate(
        input_ids=ids_BP,
        attention_mask=ids_BP.ne(PAD_ID).long(),
        max_new_tokens=MAX_ANSWER,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        **how,
    )
    return ids_BP, written[:, longest:]


def grade(tokenizer: Tokenizer, problems: Sequence[StepProblem], written_BT: Tensor) -> list[bool]:
    """Return whether the word after `so` is the answer."""
    texts = (tokenizer.decode(row, skip_special_tokens=False) for row in written_BT.tolist())
    return [answer_in(text) == problem.answer for text, problem in zip(texts, problems, strict=True)]


def answer_in(text: str) -> str | None:
    """Return the word after the first `so`; None without one."""
    words = text.split(END)[0].split()
    return words[words.index(SO) + 1] if SO in words[:-1] else None


def ask(model: Any, tokenizer: Tokenizer, problems: Sequence[StepProblem], marks: tuple[str, str]) -> list[bool]:
    """Return whether the model's likeliest answer to each problem is right."""
    verdicts: list[bool] = []
    for begin in range(0, len(problems), _BATCH):
        some = problems[begin : begin + _BATCH]
        _, written_BT = write_answers(model, tokenizer, prompts_of(tokenizer, some, marks))
        verdicts += grade(tokenizer, some, written_BT)
    return verdicts
