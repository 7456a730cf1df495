"""What a report could show with other runs, and how to get them."""

from collections.abc import Iterator, Sequence

from latentmas_ray.report.html.entries import Group
from latentmas_ray.report.html.steps import make_steps_chart


def find_missing(
    groups: Sequence[Group], *, with_published: bool, has_published: bool, has_ratios: bool, has_gains: bool
) -> Iterator[str]:
    """One line for each section that is left out."""
    entries = [entry for group in groups for entry in group.entries]
    if not has_ratios:
        yield "Cost relative to one agent: add a run of the same --task and --model with --method single."
    if with_published and not has_published:
        yield (
            "Published cells beside these: there are none for these runs; there are for Qwen3-4B, Qwen3-8B and "
            "Qwen3-14B on nine benchmarks."
        )
    if not any(make_steps_chart(group) for group in groups):
        yield "Accuracy over latent steps: add runs that differ in --latent-steps only."
    if not any(len(group.entries) > 1 for group in groups):
        yield "Who got right what the other got wrong: add another run of the same questions."
    if not has_gains:
        yield (
            "What memory carries: add the same latent run, with no other setting changed, with --memory deranged (or "
            "prompt-only, latent-only, none)."
        )
    if not any(entry.summary.hand_overs for entry in entries):
        yield "Bytes and time of hand-overs: add a run with --method latent."
    if not any(run.traces for entry in entries for run in entry.runs):
        yield "Prompts, thoughts through the lens and the embedding picture: run with --trace 20."
    for entry in entries:
        if not entry.is_finished:
            yield f"The time of {entry.label}: it has not come to its end; go on with --resume."
