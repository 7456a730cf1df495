"""Churn: how many answers change between two runs of the same questions, and whether that made them right or wrong."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from latentmas_ray.runs.results import Answer


@dataclass(frozen=True, kw_only=True)
class Churn:
    """The answers that change from a base run to another one; counts of answers that both have. An answer changes if
    its prediction does; those with a gold in both runs are in one of the four counts by grade, if they change.

    Over several seeds, a question counts once for each pair of seeds.
    """

    num_answers: int
    changed: int  # predictions that differ; no prediction is one, too
    changed_texts: int  # answers whose tokens differ
    right_to_wrong: int
    wrong_to_right: int
    right_otherwise: int  # another prediction, right in both
    wrong_otherwise: int  # another prediction, wrong in both

    @property
    def share(self) -> float:
        """Changed predictions, of all answers; 0 without answers."""
        return self.changed / self.num_answers if self.num_answers else 0.0


def churn(base: Iterable[Answer], other: Iterable[Answer]) -> Churn:
    """Return how many answers change from `base` to `other`, over the questions that are in both. The order does not
    matter. Rows without tokens differ where their texts do."""
    by_id = {answer.id: answer for answer in base}
    pairs = [(by_id[answer.id], answer) for answer in other if answer.id in by_id]
    changed = [(one, two) for one, two in pairs if one.prediction != two.prediction]
    # A code answer of other words that passes the same tests has changed, too; a grade cannot change without that.
    changed += [(a, b) for a, b in pairs if a.prediction == b.prediction and a.correct != b.correct]
    verdicts = [(a.correct, b.correct) for a, b in changed]
    return Churn(
        num_answers=len(pairs),
        changed=len(changed),
        changed_texts=sum((a.answer_token_ids, a.answer) != (b.answer_token_ids, b.answer) for a, b in pairs),
        right_to_wrong=verdicts.count((True, False)),
        wrong_to_right=verdicts.count((False, True)),
        right_otherwise=verdicts.count((True, True)),
        wrong_otherwise=verdicts.count((False, False)),
    )


def churn_over_seeds(base: Sequence[Iterable[Answer]], other: Sequence[Iterable[Answer]]) -> Churn:
    """Return the churn of the first seed of `base` with the first of `other`, the second with the second and so on,
    added up; seeds without a partner are left out."""
    each = [churn(one, two) for one, two in zip(base, other, strict=False)]
    return Churn(**{name: sum(getattr(one, name) for one in each) for name in Churn.__dataclass_fields__})
