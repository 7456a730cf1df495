"""Agreement that accuracies do not explain, and the effective number of votes."""

import pytest

from latentmas_ray.voting.correlation import PairAgreement, effective_votes, pair_agreements
from tests.cases.votes import AGENTS, even_votes, question


def pair(excess: float) -> PairAgreement:
    return PairAgreement(
        one="a", other="b", num_questions=9, agreement=0.5, expected=0.5, excess=excess, is_notable=False
    )


def test_independent_agents_agree_as_their_accuracies_explain() -> None:
    votes, _ = even_votes(4000, 4)
    pairs = pair_agreements(votes, AGENTS)
    assert len(pairs) == 6
    assert max(abs(one.excess) for one in pairs) < 0.02
    assert not any(one.is_notable for one in pairs)
    assert effective_votes(pairs, 4) == pytest.approx(4, abs=0.1)


def test_two_agents_that_answer_alike_stand_out() -> None:
    votes, _ = even_votes(400, 4)
    copied = [question({**one.votes, "b": one.votes["a"]}, 4, one.question) for one in votes]
    first, *others = pair_agreements(copied, {**AGENTS, "b": AGENTS["a"]})
    assert (first.one, first.other, first.agreement, first.is_notable) == ("a", "b", 1.0, True)
    assert first.excess == pytest.approx(1.0)
    assert not any(one.is_notable for one in others)


def test_a_few_questions_are_no_proof() -> None:
    votes = [question("AA", name=str(index)) for index in range(2)]
    (found,) = pair_agreements(votes, {"0": 0.5, "1": 0.5})
    assert (found.excess, found.is_notable) == (pytest.approx(1.0), False)


def test_effective_votes_are_one_for_agents_that_always_agree_and_all_for_independent_ones() -> None:
    assert effective_votes([pair(1.0)] * 3, 3) == pytest.approx(1)
    assert effective_votes([pair(0.0)] * 3, 3) == pytest.approx(3)
    assert effective_votes([pair(-0.4)] * 3, 3) == pytest.approx(3)
    assert effective_votes([pair(0.5)] * 3, 3) == pytest.approx(1.5)


def test_agents_that_are_always_right_may_be_copies_or_not() -> None:
    votes = [question(labels, name=str(index)) for index, labels in enumerate(("AAA", "AAB", "AAC", "AAA"))]
    pairs = pair_agreements(votes, {"0": 1.0, "1": 1.0, "2": 0.5})
    last = pairs[-1]
    assert (last.one, last.other, last.agreement, last.expected) == ("0", "1", 1.0, 1.0)
    assert (last.excess, last.is_notable) == (None, False)
    assert effective_votes(pairs, 3) == pytest.approx(3)  # of the pairs that say something
    assert effective_votes([last], 2) is None
    assert effective_votes([], 2) is None


def test_agents_that_never_vote_together_are_no_pair() -> None:
    assert pair_agreements([question("A-", name="x"), question("-A", name="y")], {"0": 0.5, "1": 0.5}) == ()
