"""The benchmark of threads measures each number in turn, and compares the answers."""

import json

import pytest
import torch

from benchmarks.__main__ import main


def test_all_numbers_are_measured_on_the_same_questions(capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        assert main(["threads", "--threads", "1,chosen", "--limit", "2", "--repeats", "1", "--json"]) == 0
    finally:
        torch.set_num_threads(before)
    one, chosen = json.loads(capfd.readouterr().out)["threads"]
    assert (one["threads"], chosen["threads"]) == ("1", "chosen")
    assert all(found["tokens_per_second"] > 0 and found["cpu_seconds"] > 0 for found in (one, chosen))
    assert one["same_answers"]


@pytest.mark.parametrize("threads", ["0", "x", "1,,2", "-1"])
def test_what_is_no_number_is_told(threads: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["threads", "--threads", threads]) == 2
    err = capfd.readouterr().err
    assert "--threads" in err
    assert err.count("\n") == 1
