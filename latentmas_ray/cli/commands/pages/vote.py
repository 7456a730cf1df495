"""`latentmas vote`: decide over the answers of finished runs."""

import json
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from latentmas_ray.cli.options import whole_number
from latentmas_ray.cli.unused_flags import tell_unused
from latentmas_ray.errors import ConfigError
from latentmas_ray.voting.exact import exact_accuracies
from latentmas_ray.voting.rules import RULES, RuleName

_MAX_WHOLE_NUMBER = 10**12
_MAX_SEED = 2**63 - 1
_OPEN = "open"
_Number = TypeVar("_Number", int, float)
_SIMULATED = {"accuracies": ".6,.7,.8,.9", "options": "2,4,6,8,10"}  # the table of arXiv 2510.01499


_Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN…|FILE.jsonl",
        help="output folders of runs of the same questions; or one file of question, agent, answer",
        show_default=False,
    ),
]
_Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibrate", metavar="N", help="rule ow learns from the golds of N questions; the others are judged"
    ),
]
_Options = Annotated[
    str | None,
    typer.Option(
        "--options",
        metavar="K|open",
        help="how many answers are possible, where questions have no options; default for runs: open, those that occur "
        "and one more",
    ),
]
_Rule = Annotated[
    str | None,
    typer.Option("--rule", metavar="|".join(RULES), help="whose decisions --output gets; default: ow or ow-l"),
]
_Output = Annotated[
    str | None, typer.Option("--output", metavar="DIR", help="write the decisions like the answers of a run")
]
_Seed = Annotated[
    str | None,
    typer.Option("--seed", metavar="S", help="of ties, and of the questions for --calibrate; default: 0"),
]
_Simulated = Annotated[bool, typer.Option("--simulate", help="show the exact accuracies of rules, without any run")]
_Accuracies = Annotated[
    str | None, typer.Option("--accuracies", metavar="X,…", help="of the agents that --simulate has")
]
_AsJson = Annotated[bool, typer.Option("--json", help="print the figures as JSON instead of tables")]


def vote(
    runs: _Runs = None,
    calibrate: _Calibrate = None,
    options: _Options = None,
    rule: _Rule = None,
    output: _Output = None,
    seed: _Seed = None,
    simulate: _Simulated = False,
    accuracies: _Accuracies = None,
    as_json: _AsJson = False,
) -> None:
    """Decide over the answers of finished runs by every rule: majority, optimal weights, inverse surprising popularity.

    Each run is one agent, each seed too. Without --calibrate no reference answer is used to decide; with golds the
    decisions are judged. docs/deciding.md explains the rules.
    """
    given = {"calibrate": calibrate, "rule": rule, "output": output, "seed": seed, "accuracies": accuracies}
    tell_unused("vote", {**given, "simulate": simulate})
    if simulate:
        if runs:
            raise ConfigError("RUN", " ".join(runs), "--simulate takes no runs; leave one of the two out")
        shown = {"accuracies": accuracies, "options": options}
        chosen = {name: _SIMULATED[name] if text is None else text for name, text in shown.items()}
        _simulate(**chosen, as_json=as_json)
        return
    if not runs:
        raise ConfigError("RUN", "nothing", "give output folders of runs, or one FILE.jsonl of votes; or --simulate")
    num_calibrated = (
        None if calibrate is None else whole_number("calibrate", calibrate, least=1, most=_MAX_WHOLE_NUMBER)
    )
    written = _checked_rule(rule, calibrated=num_calibrated is not None)
    number = _parsed_options(options)
    chance = 0 if seed is None else whole_number("seed", seed, least=0, most=_MAX_SEED)
    from latentmas_ray.cli.render.run_tables import results_console
    from latentmas_ray.cli.render.votes.rule_tables import vote_tables
    from latentmas_ray.report.voted.evaluate import vote_on
    from latentmas_ray.report.voted.run_votes import ballots_of
    from latentmas_ray.report.voted.write import check_output, write_vote

    folder = None if output is None else check_output(output)
    ballots = ballots_of(runs, number)
    outcome = vote_on(ballots, calibrate=num_calibrated, seed=chance)
    if folder is not None:
        write_vote(outcome, ballots, written, folder)
    if as_json:
        typer.echo(json.dumps(outcome.report.to_json(), indent=2, ensure_ascii=False))
        return
    results_console().print(vote_tables(outcome.report))
    if folder is not None:
        typer.echo(f"written to {folder}: {len(outcome.judged)} decisions by {written}")


def _checked_rule(rule: str | None, *, calibrated: bool) -> RuleName:
    if rule is None:
        return "ow" if calibrated else "ow-l"
    for name in RULES:
        if name == rule and (name != "ow" or calibrated):
            return name
    expected = "it needs --calibrate N" if rule == "ow" else f"it must be one of {', '.join(RULES)}"
    raise ConfigError("rule", rule, expected)


def _parsed_options(options: str | None) -> int | str | None:
    if options is None or options == _OPEN:
        return options
    try:
        return whole_number("options", options, least=2, most=_MAX_WHOLE_NUMBER)
    except ConfigError:
        expected = f"it must be a whole number of at least 2, or {_OPEN} where any answer is possible"
        raise ConfigError("options", options, expected) from None


def _simulate(accuracies: str, options: str, *, as_json: bool) -> None:
    shares, counts = _numbers("accuracies", accuracies, float), _numbers("options", options, int)
    if not all(2 <= count <= _MAX_WHOLE_NUMBER for count in counts):
        raise ConfigError("options", options, f"each must be at least 2, as in {_SIMULATED['options']}")
    rows = {count: exact_accuracies(shares, count) for count in counts}
    if as_json:
        table = [{"num_options": count, **found} for count, found in rows.items()]
        typer.echo(json.dumps({"accuracies": shares, "rows": table}, indent=2))
        return
    from latentmas_ray.cli.render.run_tables import results_console
    from latentmas_ray.cli.render.votes.simulated import simulated_table

    results_console().print(simulated_table(shares, rows))


def _numbers(field: str, text: str, kind: Callable[[str], _Number]) -> list[_Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(field, text, f"it must be numbers, as in {_SIMULATED[field]}") from None
