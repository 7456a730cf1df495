"""The benchmark of continuous writing writes the same tokens both ways, and counts the steps of each."""

import json

import pytest

from benchmarks.__main__ import main

BATCH = 2


def test_both_ways_write_the_same_tokens_in_the_steps_that_they_need(capfd: pytest.CaptureFixture[str]) -> None:
    flags = f"--model tiny --dtype float32 --batch-size {BATCH} --num-questions 8 --shortest 2 --longest 7"
    assert main(["continuous", *flags.split(), "--prompt-tokens", "6", "--repeats", "1", "--json"]) == 0
    ragged, equal = json.loads(capfd.readouterr().out)["comparisons"]
    assert (ragged["lengths"], equal["num_tokens"]) == ("2–7", 8 * (ragged["num_tokens"] // 8))
    for one in (ragged, equal):
        for way in ("static", "continuous"):
            assert one[way]["cpu_seconds"] > 0
            assert one[way]["num_forwards"] >= one["num_tokens"] / BATCH
    # Batches of the same length take the same steps; of other lengths a static batch takes those of its longest.
    assert equal["static"]["num_forwards"] == equal["continuous"]["num_forwards"] == equal["num_tokens"] / BATCH
    assert ragged["forward_ratio"] > 1
    assert ragged["continuous"]["rows_per_forward"] > ragged["static"]["rows_per_forward"]


def test_the_table_names_both_ways_and_what_a_step_costs(capfd: pytest.CaptureFixture[str]) -> None:
    flags = "--model tiny --dtype float32 --batch-size 2 --num-questions 4 --shortest 2 --longest 4 --repeats 1"
    assert main(["continuous", *flags.split(), "--prompt-tokens", "3"]) == 0
    out = capfd.readouterr().out
    for words in ("tiny in float32", "static", "continuous", "ratio", "milliseconds of a step by rows: 1: "):
        assert words in out
