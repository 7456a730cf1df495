"""What the search for a layout predicts, against the scheduler of a run on timers in virtual time."""

import pytest

from benchmarks.layouts import (
    PUBLISHED,
    best_of_all,
    chosen,
    exhaustive_figures,
    figures_of,
    published_figures,
    random_figures,
    search_of,
)


def test_auto_at_published_proportions_on_eight_gpus() -> None:
    """No layout reaches more than the devices' time allows."""
    limit = 8 / sum(PUBLISHED.values())
    today, auto, apart_today, apart_auto = published_figures(8, 200)
    for before, after in ((today, auto), (apart_today, apart_auto)):
        assert after.reached >= 0.9 * limit
        assert after.reached >= 5 * before.reached
        assert after.predicted == pytest.approx(after.reached, rel=0.15)


def test_auto_is_near_the_best_of_all_layouts() -> None:
    """All 45 layouts of two agents on eight GPUs are simulated."""
    seconds = {"planner": 0.9, "judger": 20.0}
    search = search_of(seconds, 8, apart=True)
    best = best_of_all(search, seconds, 100)
    assert figures_of("auto", chosen(search), seconds, 100).reached >= 0.9 * best.reached


@pytest.mark.slow  # the test above has two agents
def test_auto_is_near_the_best_of_all_layouts_of_three_agents() -> None:
    auto, best = exhaustive_figures(6, 100)
    assert auto.reached >= 0.9 * best.reached


@pytest.mark.slow  # tests/unit/placement/test_layouts.py compares predictions with a smaller simulation
def test_predictions_are_within_15_percent_in_20_random_settings() -> None:
    found = list(random_figures(20, 30))
    assert len(found) == 20
    assert {one.name: round(one.difference, 3) for one in found if abs(one.difference) > 0.15} == {}


def test_predictions_are_within_15_percent_in_three_random_settings() -> None:
    assert all(abs(one.difference) <= 0.15 for one in random_figures(3, 20))
