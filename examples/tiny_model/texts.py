"""The prompts of the built-in topologies for `notes` and `chain`, as used in the training data.

A test compares them with the rendered templates of the topologies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from latentmas_ray.tasks.chain import Problem
from latentmas_ray.tasks.notes import Fact, notes_text

CHAIN_ROLES = ("Plan the steps.", "Check the plan.", "Work out the steps.")


@dataclass(frozen=True)
class TurnMarks:
    """What a chat template puts around the texts of a conversation."""

    opening: str  # before a user's message
    end: str  # after an assistant's message
    closing: str  # between a user's message and the assistant's


CHATML = TurnMarks("<|im_start|>user\n", "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n")
ROLE_TOKENS = TurnMarks("<|user|>", "<|end|>", "<|end|><|assistant|>")


def expert_prompt(facts: Sequence[Fact], context: str = "") -> str:
    """Return an expert's prompt: what other text agents wrote, its own notes, and the instruction."""
    return f"{context}Notes: {notes_text(facts)}\nRepeat the notes."


def expert_text(facts: Sequence[Fact]) -> str:
    """Return the text of an expert that thinks in text."""
    return f"Notes: {notes_text(facts)}"


def context_of(texts: Sequence[tuple[str, str]]) -> str:
    """Return the texts of text agents, to put before the prompt of their reader; empty for none."""
    return "".join(f"{name} wrote:\n{text}\n\n" for name, text in texts)


def answer_prompt(question: str) -> str:
    """Return the answering agent's prompt, which follows the texts of others."""
    return f"Question: {question}\nAnswer."


def role_prompt(role: str, question: str) -> str:
    """Return the prompt of an agent before the answering one, for a word problem."""
    return f"Question: {question}\n{role}"


def role_text(role: str, problem: Problem) -> str:
    """Return the text of such an agent if it thinks in text."""
    return {"Plan": f"Plan: {problem.plan}", "Check": f"Right: {problem.plan}", "Work": f"Steps: {problem.steps}"}[
        role.split()[0]
    ]


AGENTS = {"notes": ("expert_1", "expert_2", "expert_3"), "chain": ("planner", "critic", "refiner")}

CHAT_ROLES = ("user\n", "assistant\n", "system\n")
FIXED_TEXTS = (
    "So \\boxed{}",
    *CHAIN_ROLES,
    *(f"{name} wrote:\n" for names in AGENTS.values() for name in names),
)
