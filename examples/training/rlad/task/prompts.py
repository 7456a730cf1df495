"""The prompts of the two agents, as `team.yaml` renders them; a test compares the two."""

from latentmas_ray.topology.prompts import format_context

HINTER, SOLVER = "hinter", "solver"
POLICIES = (HINTER, SOLVER)


def hinter_prompt(question: str) -> str:
    """Return the prompt of the abstraction agent."""
    return f"Question: {question}\nGive a hint."


def solver_prompt(question: str, hint: str = "") -> str:
    """Return the prompt of the solver: with a hint as the runtime shows what an agent wrote, or without one."""
    context = f"{format_context([(HINTER, hint)])}\n\n" if hint else ""
    return f"{context}Question: {question}\nAnswer."


def hint_alone_prompt(hint: str) -> str:
    """Return the solver's prompt without the problem, by which a hint is tried for leaks."""
    return f"{format_context([(HINTER, hint)])}\n\nAnswer."
