"""`latentmas demo`: the three methods and a control side by side on the built-in notes, in about a minute."""

import warnings

import typer

from latentmas_ray.cli.errors import EXIT_FAILED
from latentmas_ray.cli.launch import open_system
from latentmas_ray.cli.options import run_options
from latentmas_ray.config import RunConfig, RunSetting, warn_of_unused
from latentmas_ray.errors import ConfigError, UnusedSettingWarning

# Small enough for two cores and a start of Ray per row, large enough that accuracies mean something.
_SMALL = {
    "task": "notes",
    "topology": "hierarchical",
    "model": "tiny",
    "limit": 64,
    "batch_size": 32,
    "max_new_tokens": 64,
    "temperature": 0.0,
}

# The rows of the table: what of the configuration each has of its own.
_ROWS = (
    {"method": "single"},
    {"method": "text"},
    {"method": "latent"},
    {"method": "latent", "memory": "deranged"},
)

_AFTERWORD = """\
Three experts know different facts; the answer needs some of them, and the answering
agent sees only the question. single: one agent reads all notes. text: experts write
their notes down. latent: they hand over memory instead. deranged: the memory is that
of another question, so what is right there is luck. Try next:
  latentmas ask --example notes
  latentmas eval --task notes --output runs/a
  latentmas eval --task sample --model Qwen/Qwen3-0.6B --method latent"""


@run_options("limit", "latent_steps", "max_new_tokens", "batch_size", "seed", "runtime", "address", fixed=_SMALL)
def demo(config: RunConfig) -> None:
    """Compare single, text and latent on built-in questions, and latent with another question's memory."""
    from latentmas_ray.cli.render.cut_off import cut_off_warnings
    from latentmas_ray.cli.render.progress import listen
    from latentmas_ray.cli.render.run_tables import demo_table, results_console

    if config.limit == 1:
        raise ConfigError("limit", str(config.limit), "it must be at least 2, so that each can get another's memory")
    console = results_console()
    warn_of_unused(RunSetting(config=config), config.model_fields_set)
    summaries = []
    for row in _ROWS:
        row_config = config.model_copy(update=row)
        with listen("-".join(row.values())) as listener, warnings.catch_warnings():
            warnings.simplefilter("ignore", UnusedSettingWarning)  # a setting need not affect every row
            with open_system(row_config, listener) as system:
                summaries.append(system.evaluate())
    console.print(demo_table(summaries))
    console.print(_AFTERWORD, markup=False, soft_wrap=True)
    for summary in summaries:
        for line in cut_off_warnings([summary]):
            typer.echo(line, err=True)
    if any(summary.num_failed for summary in summaries):
        typer.echo(f"error: {sum(summary.num_failed for summary in summaries)} questions failed", err=True)
        raise typer.Exit(EXIT_FAILED)
