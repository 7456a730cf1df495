"""`latentmas demo`: the three methods side by side on the built-in questions, in about a minute."""

from typing import get_args

import typer

from latentmas_ray.cli.errors import EXIT_FAILED
from latentmas_ray.cli.launch import open_system
from latentmas_ray.cli.options import run_options
from latentmas_ray.config import Method, RunConfig

# Small enough for two cores and a start of Ray per method, large enough to fill more than one batch.
_SMALL = {
    "task": "sample",
    "topology": "sequential",
    "model": "tiny",
    "limit": 8,
    "batch_size": 4,
    "latent_steps": 10,
    "max_new_tokens": 48,
}

_AFTERWORD = """\
The embedded model is random, so the accuracy means nothing yet; tokens, time and
bytes are real. Try next:
  latentmas eval --task sample --model Qwen/Qwen3-0.6B --method latent"""


@run_options("limit", "latent_steps", "max_new_tokens", "batch_size", "seed", "runtime", "address", fixed=_SMALL)
def demo(config: RunConfig) -> None:
    """Compare single, text and latent on built-in questions."""
    from latentmas_ray.cli.progress import watch
    from latentmas_ray.cli.tables import demo_table, results_console

    console = results_console()
    summaries = []
    for method in get_args(Method):
        method_config = config.model_copy(update={"method": method})
        with watch(method) as watcher, open_system(method_config, watcher) as system:
            summaries.append(system.evaluate())
    console.print(demo_table(summaries))
    console.print(_AFTERWORD, markup=False, soft_wrap=True)
    if any(summary.num_failed for summary in summaries):
        typer.echo(f"error: {sum(summary.num_failed for summary in summaries)} questions failed", err=True)
        raise typer.Exit(EXIT_FAILED)
