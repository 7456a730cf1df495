"""The benchmark of the runtime on a real Ray, as small as it gets: that it measures, not what."""

import json

import pytest
import ray

from benchmarks.__main__ import main

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow]


def test_replicas_and_hand_overs_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--replicas", "2,1", "--agents", "1", "--actors", "4", "--batches", "2", "--repeats", "1"]
    assert main(["scaling", *sizes, "--turn-seconds", "0.05", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [(one["replicas"], one["actors"], one["questions"]) for one in figures["throughput"]] == [
        (1, 1, 2),
        (2, 2, 4),
    ]
    assert figures["throughput"][0]["share_of_linear"] == 1.0
    for one in figures["throughput"]:
        assert one["questions_per_second"] == pytest.approx(one["questions"] / one["seconds"])
        assert 0 < one["share_of_timer"] <= 1
    assert [(one["actors"], one["load"]) for one in figures["hand_overs"]] == [
        (4, "alone"),
        (4, "busy"),
        (4, "flood"),
    ]
    for one in figures["hand_overs"]:
        driver = one["driver"]
        assert sum(driver["parts"].values()) == pytest.approx(driver["mean"])
        assert 0 < driver["mean"] <= driver["process"]
        if one["load"] == "flood":
            assert one["memory"] is one["text"] is None
            continue
        num_told = one["memory"]["count"] + one["text"]["count"]
        assert num_told == round(one["turns"] * 3 / 4 * (1 - one["busy_readers"]))
        assert 0 < one["memory"]["p50"] <= one["memory"]["p99"]
        assert 0 < one["text"]["p50"] <= one["text"]["p99"]
    assert ray.is_initialized()  # it was running before, and still is
