"""The first sentences of a report: the gain and the costs of a run relative to others, with their uncertainty."""

from collections.abc import Collection, Iterator, Sequence
from statistics import fmean

from latentmas_ray.engine.diagnostics.convergence import describe_repeating
from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.html.figures import percent, points, rate, signed_points
from latentmas_ray.stats import PairedDifference, compare_paired

_FEW_DIFFERING = 10  # if runs differ on fewer questions, the bootstrap's interval is too narrow
_SAME = 0.05  # costs that differ by less, relatively, are called the same
_TINY = 1e-9


def make_headline(group: Group) -> tuple[str, ...]:
    """Return sentences about the group's main run: a vote if there is one, else latent, else text. One sentence for
    each run that it is compared with: the best of each simpler method, or a control if there is none. Then one for each
    run whose thoughts repeat."""
    return (*_gains(group), *_repeating(group.entries))


def _repeating(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        if told := describe_repeating(entry.summary.convergence):
            yield f"In {_name(entry)}, {told}: fewer --latent-steps, or auto, give the same thoughts once."


def _gains(group: Group) -> tuple[str, ...]:
    graded = [entry for entry in group.entries if entry.accuracy.value is not None]
    if not graded:
        num_answers = sum(len(run.answers) for entry in group.entries for run in entry.runs)
        if not num_answers:
            return ("No question has an answer yet.",)
        return ("No question has a gold answer, so no answer is graded.",)
    if len(graded) == 1:
        return (_alone(graded[0]),)
    main, rivals = _main(graded)
    bases = _bases(main, graded)
    if not bases:
        return (_range(graded),)
    sentences = [_gain(main, base) for base in bases]
    if rivals > 1:
        sentences.append(
            f"{_name(main)} is the best of {rivals} {main.config.method} runs, chosen by these questions: it is likely "
            "to be less accurate on others."
        )
    sentences += [
        f"{_name(entry)} is not finished: only its answers so far are counted."
        for entry in (main, *bases)
        if not entry.is_finished
    ]
    return tuple(_capital(sentence) for sentence in sentences)


def _alone(entry: Entry) -> str:
    correct = entry.correct().values()
    interval = entry.interval
    within = f", 95 % interval {points(interval.low)} to {points(interval.high)}" if interval else ""
    share = f"{percent(entry.accuracy.value)}{within}"
    count = sum(correct)
    counted = f"{count:.0f} of {len(correct)} questions right ({share})" if _is_whole(correct) else f"{share} right"
    return _capital(f"{_name(entry)} answers {counted}. One run alone shows no gain: add one to compare it with.")


def _range(entries: Sequence[Entry]) -> str:
    """Return the sentence for runs of one kind, none of which is a natural base."""
    worst, *_, best = sorted(entries, key=lambda entry: entry.accuracy.value or 0.0)
    return (
        f"The accuracies of these {len(entries)} runs lie between {percent(worst.accuracy.value)} for {_name(worst)} "
        f"and {percent(best.accuracy.value)} for {_name(best)}."
    )


def _main(entries: Sequence[Entry]) -> tuple[Entry, int]:
    """Return the run that the headline is about, and the number of runs that it was chosen from."""
    for method in ("vote", "latent", "text", "single"):
        rivals = [entry for entry in entries if entry.config.method == method and entry.config.memory == "matched"]
        if rivals:
            return _best(rivals), len(rivals)
    return entries[0], 1


def _bases(main: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """Return the runs to compare with: the best run of each simpler method, so that the comparison is fair."""
    simpler = {"vote": ("latent", "text", "single"), "latent": ("text", "single"), "text": ("single",)}
    methods = simpler.get(main.config.method, ())
    found = [[entry for entry in entries if entry.config.method == method] for method in methods]
    controls = [entry for entry in entries if entry.config.memory != "matched"]
    return [_best(runs) for runs in found if runs] or [control for control in controls[:1] if control is not main]


def _best(entries: Sequence[Entry]) -> Entry:
    return max(entries, key=lambda entry: entry.accuracy.value or 0.0)


def _gain(main: Entry, base: Entry) -> str:
    mine, theirs = main.correct(), base.correct()
    shared = [name for name in theirs if name in mine]
    if not shared:
        return (
            f"{_name(main)} and {_name(base)} have no graded question in common and cannot be compared: "
            f"{percent(main.accuracy.value)} and {percent(base.accuracy.value)} are right, on different questions."
        )
    paired = compare_paired([theirs[name] for name in shared], [mine[name] for name in shared])
    is_whole = _is_whole([*mine.values(), *theirs.values()])
    costs = _costs(main, base) if mine.keys() == theirs.keys() else []
    return f"{_verdict(_name(main), _name(base), paired, is_whole=is_whole)}{''.join(f', {cost}' for cost in costs)}."


def _verdict(main: str, base: str, paired: PairedDifference, *, is_whole: bool) -> str:
    """Say which run answers more questions right, and how certain that is."""
    low, high = paired.interval
    count = round(abs(paired.difference) * paired.num_questions)
    num_differing = round(paired.cells.only_base + paired.cells.only_other)
    within = f"{_signed(paired.difference)} points, 95 % interval {_signed(low)} to {_signed(high)}"
    if abs(paired.difference) < _TINY:
        return f"{main} answers as many of {paired.num_questions} questions right as {base} ({within})"
    comparative = "more" if paired.difference > 0 else "fewer"
    many = f"{count} {comparative}" if is_whole else comparative
    said = f"{main} answers {many} of {paired.num_questions} questions right than {base}"
    if low <= _TINY and high >= -_TINY:
        return f"{said}, which may be chance ({within}: 0 is in it)"
    if is_whole and num_differing < _FEW_DIFFERING:
        return f"{said} ({within}; they differ on {num_differing} questions only, so the interval is rough)"
    return f"{said} ({within})"


def _costs(main: Entry, base: Entry) -> list[str]:
    """Return phrases about time and decoded tokens for the same questions, if they are known and comparable."""
    found = []
    speeds = [entry.of_question("questions_per_second", rate, is_divided=True).value for entry in (main, base)]
    is_comparable = main.config.runtime == base.config.runtime and not (main.num_resumed or base.num_resumed)
    if speeds[0] and speeds[1] and is_comparable:
        found.append("in " + _change(speeds[1] / speeds[0], "less time", "the same time", "more time", "the time"))
    tokens = [_decoded_tokens(entry) for entry in (main, base)]
    if all(tokens):
        noun = "decoded tokens"
        words = (f"fewer {noun}", f"as many {noun}", f"more {noun}", f"as many {noun}")
        found.append("with " + _change(tokens[0] / tokens[1], *words))
    return found


def _change(ratio: float, less: str, same: str, more: str, many: str) -> str:
    """Put a ratio in words: `78 % less time`, `40 % more time`, `3.1 times the time`."""
    if abs(ratio - 1) < _SAME:
        return same
    if ratio < 1:
        return f"{100 * (1 - ratio):.0f} % {less}"
    return f"{100 * (ratio - 1):.0f} % {more}" if ratio < 2 else f"{ratio:.1f} times {many}"


def _decoded_tokens(entry: Entry) -> float:
    counts = [answer.output_tokens for run in entry.runs for answer in run.answers]
    return fmean(counts) * entry.rows_per_question if counts else 0.0


def _signed(value: float) -> str:
    """Format a difference in points; zero has no sign."""
    return signed_points(value) if round(abs(value), 3) else points(0.0)


def _is_whole(correct: Collection[float]) -> bool:
    """Whether every score is 0 or 1, and not a mean over seeds."""
    return all(value in (0, 1) for value in correct)


def _name(entry: Entry) -> str:
    """Return a run's label for a sentence: `latent (m = 40)`."""
    method, *settings = entry.label.split(" · ")
    method = "one agent alone" if method == "single" else method
    return f"{method} ({', '.join(settings)})" if settings else method


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
