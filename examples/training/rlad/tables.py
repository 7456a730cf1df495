"""The study's tables and plot: what is right under each condition, paired differences, and how training went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from examples.training.rlad.judge import WAYS, Condition, Way, conditions
from examples.training.studies.folder import StudyRow
from examples.training.studies.intervals import percent, percent_interval, percent_range
from examples.training.studies.table import StudyTable
from latentmas_ray.stats import accuracy_interval, compare_paired, mean_interval

_SCORES = ("average", "best hint", "best answer", "voted")
_PAIR = Condition(hinter="rlad", solver="rlad")
_BARE = {who: Condition(hinter="warm", solver=who, memory="none") for who in ("warm", "rlad", "alone")}
_RULE = Condition(hinter="warm", solver="warm", hints="oracle")


def _comparisons() -> list[tuple[str, Condition, Condition]]:
    """Return what is compared: a title, the other condition, and the base."""
    warm_pair = Condition(hinter="warm", solver="warm")
    found = [
        ("the rule as a hint, over no hint (untrained solver)", _RULE, _BARE["warm"]),
        ("trained pair, over the untrained solver without hint", _PAIR, _BARE["warm"]),
        ("trained pair, over the trained solver without hint", _PAIR, _BARE["rlad"]),
        ("trained pair, over the solver trained alone, without hint", _PAIR, _BARE["alone"]),
        ("trained pair, over the untrained pair", _PAIR, warm_pair),
        ("untrained pair, over the untrained solver without hint", warm_pair, _BARE["warm"]),
        ("trained hinter alone: its hints to the untrained solver", Condition(hinter="rlad", solver="warm"), warm_pair),
        (
            "trained solver alone: with hints of the untrained hinter",
            Condition(hinter="warm", solver="rlad"),
            warm_pair,
        ),
        (
            "trained pair, over another problem's hint",
            _PAIR,
            Condition(hinter="rlad", solver="rlad", memory="deranged"),
        ),
    ]
    latent = {one.name: one for one in conditions() if one.method == "latent"}
    for one in latent.values():
        found.append((f"latent: {one.name}, over no hint", one, _BARE[one.solver]))
    return found


def make_tables(rows: Sequence[StudyRow]) -> list[StudyTable]:
    """Return the tables of what is finished."""
    judged = {row.seed: row.figures["conditions"] for row in rows if row.settings["kind"] == "judge"}
    tables = []
    if judged:
        tables += [_accuracies(judged), _differences(judged)]
    if trained := [row for row in rows if row.settings["kind"] in ("rlad", "alone")]:
        tables.append(_training(trained))
    return tables


def scores_of(
    judged: Mapping[int, Mapping[str, Any]], condition: Condition, way: Way, score: str
) -> dict[int, list[float]]:
    """Return the score of each question by seed, of the seeds that have it."""
    name = f"{condition.name}: {way}"
    return {
        seed: own[name]["scores"][score] for seed, own in judged.items() if score in own.get(name, {}).get("scores", {})
    }


def _mean_of(seeds: Mapping[int, Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*seeds.values(), strict=True)]


def _accuracies(judged: Mapping[int, Mapping[str, Any]]) -> StudyTable:
    rows = []
    for condition in conditions():
        for way in WAYS:
            found = {score: scores_of(judged, condition, way, score) for score in _SCORES}
            if not found["average"]:
                continue
            own = [one[f"{condition.name}: {way}"] for one in judged.values() if f"{condition.name}: {way}" in one]
            num_hints = sum(one["num_hints"] for one in own)
            leaks = percent(sum(one["num_leaks"] for one in own) / num_hints) if num_hints else "–"
            average = _mean_of(found["average"])
            rows.append(
                [
                    condition.name,
                    way,
                    percent(fmean(average)),
                    percent_range(accuracy_interval(average)),
                    *(_share(found[score]) if way == "drawn" else "–" for score in _SCORES[1:]),
                    leaks,
                    f"{fmean(one['output_tokens'] for one in own):.1f}",
                ]
            )
    columns = [
        "hinter > solver",
        "way",
        "right",
        "95 %",
        "best hint",
        "best answer",
        "voted",
        "hints with the gold",
        "tokens",
    ]
    num = len(next(iter(next(iter(judged.values())).values()))["scores"]["average"])
    return StudyTable(
        title=f"Right answers in %, {num} held-out problems, mean of {len(judged)} seeds", columns=columns, rows=rows
    )


def _share(seeds: Mapping[int, Sequence[float]]) -> str:
    return percent(fmean(_mean_of(seeds))) if seeds else "–"


def _differences(judged: Mapping[int, Mapping[str, Any]]) -> StudyTable:
    rows = []
    for title, other, base in _comparisons():
        for way in WAYS:
            mine, theirs = (scores_of(judged, one, way, "average") for one in (other, base))
            common = sorted(mine.keys() & theirs.keys())
            if not common:
                continue
            paired = compare_paired(
                _mean_of({seed: theirs[seed] for seed in common}), _mean_of({seed: mine[seed] for seed in common})
            )
            by_seed = mean_interval([fmean(mine[seed]) - fmean(theirs[seed]) for seed in common])
            low, high = paired.interval
            rows.append(
                [
                    title,
                    way,
                    f"{100 * paired.difference:+.1f}",
                    f"{100 * low:+.1f} to {100 * high:+.1f}",
                    percent_interval(by_seed, signed=True),
                ]
            )
    return StudyTable(
        title="Differences in points, paired over the problems",
        columns=["what", "way", "difference", "95 % over problems", "over seeds"],
        rows=rows,
    )


def _training(rows: Sequence[StudyRow]) -> StudyTable:
    found = []
    for row in rows:
        history = row.figures["history"]
        for turn in sorted({step["round"] for step in history}):
            own = [step for step in history if step["round"] == turn]
            propose = [step for step in own if step["phase"] == "propose"]
            solve = [step for step in own if step["phase"] == "solve"]
            found.append(
                [
                    row.cell,
                    turn + 1,
                    *(_mean_step(propose, name) for name in ("success", "bare_success", "has_gold", "better", "kept")),
                    _mean_step(propose, "blind_hits_by_chance"),
                    *(
                        _mean_step(part, name)
                        for part in (solve[:10], solve[-10:])
                        for name in ("success", "bare_success")
                    ),
                    f"{fmean(step['entropy'] for step in solve[-10:]):.3f}",
                    f"{fmean(step['kl'] for step in solve[-10:]):.3f}",
                ]
            )
    columns = ["cell", "round", "with a hint", "without", "has the gold", "helps", "kept", "blind hits by chance"]
    columns += ["solver, first: with", "without", "last: with", "without ", "entropy", "KL"]
    return StudyTable(title="Training, in % of drawn answers or hints", columns=columns, rows=found)


def _mean_step(steps: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [step[name] for step in steps if name in step]
    return percent(fmean(values)) if values else "–"


def plot(rows: Sequence[StudyRow], path: Path) -> None:
    """Write the solver's success over its steps, with and without hints, for each training and seed."""
    trained = [row for row in rows if row.settings["kind"] in ("rlad", "alone")]
    if not trained:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True, squeeze=False)
    for panel, kind in zip(panels[0], ("rlad", "alone"), strict=True):
        for row in (row for row in trained if row.settings["kind"] == kind):
            steps = [step for step in row.figures["history"] if step["phase"] == "solve"]
            for name, style in (("success", "-"), ("bare_success", ":")):
                values = [(place, 100 * step[name]) for place, step in enumerate(steps) if name in step]
                if values:
                    label = f"seed {row.seed}, {'with a hint' if name == 'success' else 'without'}"
                    panel.plot(*zip(*_smooth(values), strict=True), style, label=label)
        panel.set(
            title={"rlad": "RLAD", "alone": "the solver alone"}[kind], xlabel="steps of the solver", ylim=(0, 100)
        )
        if panel.lines:
            panel.legend(fontsize=7)
    panels[0][0].set_ylabel("right, %")
    picture.savefig(path, dpi=110)
    pyplot.close(picture)


def _smooth(values: Sequence[tuple[int, float]], num: int = 10) -> list[tuple[int, float]]:
    """Return the mean of `num` steps at the last of them."""
    return [
        (values[end][0], fmean(value for _, value in values[max(0, end + 1 - num) : end + 1]))
        for end in range(len(values))
    ]
