"""An answering agent that writes on vLLM reads memory from agents on another node."""

from pathlib import Path

import pytest

from tests.multinode.runs import evaluation, local_rows, make_cluster, started_on, write_questions
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import read_rows

HEAD = 0


@pytest.mark.vllm
@pytest.mark.slow  # `tests/vllm/test_on_ray.py` has both agents on one node
def test_memory_crosses_to_an_agent_on_vllm(tmp_path: Path) -> None:
    command = evaluation(write_questions(tmp_path, 6), "sequential")
    with make_cluster(2, 2) as cluster:
        spread = ["--placement", "spread", "--engine", "vllm", "--address", cluster.address]
        with started_on(cluster, HEAD, [*command, *spread, "--output", str(tmp_path / "run")]) as process:
            done = process.finish()
    assert done.returncode == 0, done.stderr
    assert "on 2 nodes" in done.stderr
    assert "engine vllm for judger (asked for)" in done.stderr
    rows = [timeless(row) for row in read_rows(tmp_path / "run")]
    assert rows == local_rows(command, tmp_path / "local")
