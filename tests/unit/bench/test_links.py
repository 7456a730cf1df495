"""The benchmark of both links of two nodes without a cluster: its accounts and its shares."""

import json
from pathlib import Path

import pytest

from benchmarks.links import check_accounts, describe, links_bench, read_accounts
from latentmas_ray.errors import RunError
from tests.cases.transfer import outcome

GOOD = {"same_node shared_memory": 8, "cross_node tcp": 16}


def test_a_run_whose_memory_went_another_way_is_an_error(tmp_path: Path) -> None:
    rows = [
        {"transfers": [{"link": "same_node", "transport": "shared_memory"}, {"link": "cross_node", "transport": "tcp"}]}
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    accounts = read_accounts(tmp_path / "results.jsonl")
    assert accounts == {"same_node shared_memory": 2, "cross_node tcp": 2}
    check_accounts(accounts)
    for wrong in ({"cross_node tcp": 1}, GOOD | {"same_node tcp": 1}, GOOD | {"cross_node object_store": 1}):
        with pytest.raises(RunError, match="the run's transfers went by"):
            check_accounts(wrong)


def test_shares_are_those_of_the_largest_segment() -> None:
    figures = outcome().to_json()
    near, far = figures["ways"][1], figures["ways"][2]
    near["transport"], far["transport"] = "shared_memory", "tcp"
    found = links_bench(figures, GOOD)
    assert found.same_node_share == near["sizes"][-1]["hand_over"]["share_of_limit"]
    assert found.cross_node_share == far["sizes"][-1]["move"]["share_of_limit"]
    text = describe(found)
    assert "aim 0.60" in text
    assert "16 cross_node tcp" in text
