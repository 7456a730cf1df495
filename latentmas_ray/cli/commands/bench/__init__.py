"""`latentmas bench …`: measurements."""

from collections.abc import Callable

import typer

from latentmas_ray.cli.commands.bench.answer import answer
from latentmas_ray.cli.commands.bench.serve import serve
from latentmas_ray.cli.commands.bench.thoughts import thoughts
from latentmas_ray.cli.commands.bench.transfer import transfer
from latentmas_ray.cli.errors import CommandGroup
from latentmas_ray.errors import ConfigError

bench_app = typer.Typer(cls=CommandGroup, rich_markup_mode=None, help="Measure: each figure against a reference.")
bench_app.command("transfer")(transfer)
bench_app.command("answer")(answer)
bench_app.command("serve")(serve)
bench_app.command("thoughts")(thoughts)


@bench_app.callback()
def _bench() -> None:
    """Measure: each figure against a reference that is measured in the same run."""


def _moved(name: str) -> Callable[[], None]:
    """Make a command that says where the benchmark of this name is now."""

    def command() -> None:
        raise ConfigError("bench", name, f"it is run from a checkout of the project now: python -m benchmarks {name}")

    return command


for _name in ("engine", "scaling"):
    _any_flags = {"allow_extra_args": True, "ignore_unknown_options": True}
    bench_app.command(_name, hidden=True, context_settings=_any_flags)(_moved(_name))
