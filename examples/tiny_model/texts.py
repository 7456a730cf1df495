"""The prompts of the built-in topologies for `notes` and `chain`, as the training data has them.

A test compares them with what the topologies' own templates render.
"""

from collections.abc import Sequence

from latentmas_ray.tasks.chain import Problem
from latentmas_ray.tasks.notes import Fact, notes_text

CHAIN_ROLES = ("Plan the steps.", "Check the plan.", "Work out the steps.")
END = "<|im_end|>"


def opening() -> str:
    """What stands before a user's message."""
    return "<|im_start|>user\n"


def closing() -> str:
    """What stands between a user's message and the assistant's."""
    return f"{END}\n<|im_start|>assistant\n"


def expert_prompt(facts: Sequence[Fact], context: str = "") -> str:
    """What an expert is told: what others wrote before it (text only), its own notes, and what to do with them."""
    return f"{context}Notes: {notes_text(facts)}\nRepeat the notes."


def expert_text(facts: Sequence[Fact]) -> str:
    """What an expert writes where it writes."""
    return f"Notes: {notes_text(facts)}"


def context_of(texts: Sequence[tuple[str, str]]) -> str:
    """What text agents wrote, before the prompt of one that reads it; empty without any."""
    return "".join(f"{name} wrote:\n{text}\n\n" for name, text in texts)


def answer_prompt(question: str) -> str:
    """What the answering agent is told, after what others wrote."""
    return f"Question: {question}\nAnswer."


def role_prompt(role: str, question: str) -> str:
    """What the agents before the answering one are told about a word problem."""
    return f"Question: {question}\n{role}"


def role_text(role: str, problem: Problem) -> str:
    """What such an agent writes where it writes."""
    return {"Plan": f"Plan: {problem.plan}", "Check": f"Right: {problem.plan}", "Work": f"Steps: {problem.steps}"}[
        role.split()[0]
    ]


AGENTS = {"notes": ("expert_1", "expert_2", "expert_3"), "chain": ("planner", "critic", "refiner")}

FIXED_TEXTS = (
    "user\n",
    "assistant\n",
    "system\n",
    "So \\boxed{}",
    *CHAIN_ROLES,
    *(f"{name} wrote:\n" for names in AGENTS.values() for name in names),
)
