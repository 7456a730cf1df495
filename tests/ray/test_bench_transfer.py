"""The transfer benchmark on a real Ray of one node, as small as it gets: that it measures, not what."""

import json

import pytest
import ray

from latentmas_ray.cli.main import main
from tests.ray.command_cases import lines_unlike

pytestmark = pytest.mark.usefixtures("cluster")

SMALL = ["--model", "tiny", "--tokens", "1,40", "--repeats", "2", "--transports", "loopback", "--json"]


def test_a_transport_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Transports between two actors, on one node and on two, are measured in `tests/multinode/test_command.py`."""
    assert main(["bench", "transfer", *SMALL, "--no-end-to-end"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [(way["link"], way["transport"]) for way in figures["ways"]] == [("same_process", "loopback")]
    for way in figures["ways"]:
        assert [size["tokens"] for size in way["sizes"]] == [1, 40]
        for size in way["sizes"]:
            assert 0 < size["move"]["seconds"] <= size["hand_over"]["seconds"] < 10
            assert size["move"]["limit_bytes_per_second"] > 0
    assert ray.is_initialized()  # it was running before, and still is


@pytest.mark.slow
def test_two_agents_are_measured_with_overlap_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "transfer", *SMALL, "--prompt-tokens", "50", "--latent-steps", "3"]) == 0
    end_to_end = json.loads(capsys.readouterr().out)["end_to_end"]
    assert end_to_end["prompt_tokens"] >= 50
    assert (end_to_end["transport"], end_to_end["link"]) == ("shared_memory", "same_node")
    for side in ("overlap", "no_overlap"):
        assert 0 < end_to_end[side]["exposed_seconds"] <= end_to_end[side]["seconds"] < 10
    assert end_to_end["ratio"] == pytest.approx(end_to_end["no_overlap"]["seconds"] / end_to_end["overlap"]["seconds"])
    assert ray.is_initialized()


def test_a_segment_that_the_store_cannot_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = ["--tokens", "200000", "--transports", "object_store"]
    assert main(["bench", "transfer", "--model", "tiny", "--no-end-to-end", *tokens]) == 2
    (line,) = lines_unlike([], capsys.readouterr().err.splitlines())
    assert "--tokens: got '200000'" in line
    assert "object store" in line
