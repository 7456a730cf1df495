"""The scripts in jobs/ as real jobs: they join the cluster that they run on, log plainly, and return an exit code."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentmas_ray.scheduler.metrics import EXPOSED_SECONDS, LOST_TURNS, METRICS
from tests.ray.command_cases import read_rows, wait_for
from tests.ray.job_cases import JobCluster, job_cluster, needs_dashboard, output_of

pytestmark = [pytest.mark.slow, needs_dashboard]

SHORT = ["--model", "tiny", "--limit", "3", "--latent-steps", "3", "--max-new-tokens", "4", "--temperature", "0"]
EVAL = ["python", "jobs/eval.py"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobCluster]:
    with job_cluster() as cluster:
        yield cluster


def test_an_evaluation_succeeds_as_a_job(cluster: JobCluster, tmp_path: Path) -> None:
    """Progress and tables are in the job's log, results in the URL, and a second job resumes from there."""
    output = ["--output", f"file://{tmp_path}/run"]
    done = cluster.submit(*EVAL, *SHORT, *output)
    log = output_of(done)
    assert done.returncode == 0, log
    assert "latent: 3 questions; 4 actors on 1 node" in log
    assert "latent: 3/3 questions" in log
    assert not any("\x1b" in line for line in log.splitlines() if line.startswith("latent: "))
    assert "accuracy" in log
    rows = read_rows(tmp_path / "run")
    assert [row["id"] for row in rows] == ["chain-0", "chain-1", "chain-2"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["num_questions"] == 3
    again = cluster.submit(*EVAL, *SHORT, *output, "--resume")
    assert again.returncode == 0, output_of(again)
    assert read_rows(tmp_path / "run") == rows


def test_a_mistake_fails_the_job_and_is_told_in_its_log(cluster: JobCluster) -> None:
    done = cluster.submit(*EVAL, "--latent-steps", "-1")
    assert done.returncode == 1
    assert "error: --latent-steps: got '-1'" in output_of(done)
    assert "exit code 2" in output_of(done)


def test_a_job_that_is_stopped_keeps_what_finished(cluster: JobCluster, tmp_path: Path) -> None:
    """`ray job stop` sends SIGTERM; what is on disk is a whole file from which a run resumes."""
    ids = [f"q{index}" for index in range(40)]
    task = tmp_path / "questions.jsonl"
    task.write_text("\n".join(json.dumps({"id": name, "question": "What is 1 + 1?"}) for name in ids))
    size = ["--latent-steps", "20", "--max-new-tokens", "40", "--batch-size", "1", "--temperature", "0"]
    flags = [*EVAL, "--model", "tiny", "--task", str(task), *size, "--output", str(tmp_path / "run")]
    name = f"stopped-{time.monotonic_ns()}"
    sent = cluster.submit(*flags, more=["--no-wait", "--submission-id", name])
    assert sent.returncode == 0, sent.stderr
    wait_for(lambda: len(read_rows(tmp_path / "run")) >= 1)
    cluster.stop(name)
    num_rows = len(read_rows(tmp_path / "run"))
    assert 1 <= num_rows < len(ids)
    done = cluster.submit(*flags, "--resume")
    assert done.returncode == 0, output_of(done)
    assert f"{num_rows} already done" in output_of(done)
    assert [row["id"] for row in read_rows(tmp_path / "run")] == ids


def test_every_metric_of_a_job_comes_out_at_its_node(cluster: JobCluster) -> None:
    """While it runs: a node forgets gauges that are not set any more. Nothing may be exposed, and nothing be lost."""
    expected = {f"ray_{metric.name}" for metric in METRICS if metric not in (EXPOSED_SECONDS, LOST_TURNS)}
    seen: set[str] = set()
    name = f"measured-{time.monotonic_ns()}"
    long = ["--model", "tiny", "--latent-steps", "200", "--max-new-tokens", "400", "--batch-size", "1"]
    sent = cluster.submit(*EVAL, *long, "--temperature", "0", more=["--no-wait", "--submission-id", name])
    assert sent.returncode == 0, sent.stderr

    def all_seen() -> bool:
        seen.update(cluster.metric_names())
        return expected <= seen

    wait_for(all_seen)
    assert cluster.run("job", "stop", name).returncode == 0


def test_transfers_are_measured_as_a_job(cluster: JobCluster) -> None:
    sizes = ["--model", "tiny", "--tokens", "64,256", "--repeats", "1", "--no-end-to-end"]
    done = cluster.submit("python", "jobs/bench_transfer.py", *sizes, "--transports", "object_store,shared_memory")
    log = output_of(done)
    assert done.returncode == 0, log
    assert "same node, shared_memory, 256 tokens" in log
    assert "hand-over" in log
