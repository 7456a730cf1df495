"""`latentmas inspect`: what every agent read, thought and wrote on one question of a finished run."""

from typing import Annotated

import typer

from latentmas_ray.cli.unused_flags import tell_unused


def inspect(
    run: Annotated[str, typer.Argument(metavar="RUN", help="output folder of a run with --trace")],
    question: Annotated[
        str | None, typer.Option("--question", metavar="ID", help="the question; without it: which ones there are")
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="only this agent")] = None,
    full: Annotated[bool, typer.Option("--full", help="prompts and texts at full length")] = False,
    width: Annotated[
        int | None, typer.Option("--width", min=40, max=1000, metavar="N", help="columns (default: the terminal's)")
    ] = None,
) -> None:
    """Show what every agent read, thought and wrote on one question."""
    from latentmas_ray.cli.render.inspect_tables import inspection_view, question_table
    from latentmas_ray.cli.render.run_tables import results_console
    from latentmas_ray.report.inspect import inspect_question, read_one_run, traced_answers

    tell_unused("inspect", {"agent": agent, "full": full, "question": question})
    finished = read_one_run(run)
    console = results_console(width)
    if question is None:
        console.print(question_table(traced_answers(finished)))
        return
    for part in inspection_view(inspect_question(finished, question, agent), is_full=full):
        console.print(part)
