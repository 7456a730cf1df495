"""Every command that a document shows in a block of its own is run as it stands there, or the table below says why not.

What a document shows below a block is the output of its last command.
"""

import re
import shlex
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from tests.documents import DOCUMENTS, Block, shell_blocks

_A_CLUSTER = "it needs a cluster; tests/ray/test_jobs.py and tests/multinode run jobs and commands on some"
_MINUTES = "it takes minutes; tests/unit and tests/ray run the same command with small sizes"
_SIMULATED = "it takes minutes; tests/unit/simulation/test_simulation.py runs a small cluster"
_TRAINING = "it trains for hours; tests/ray/test_studies.py and tests/multinode/test_studies.py run it with --minute"
_HUB = "it loads a model of 8 GB and a dataset from the hub"
_REAL = "it needs the real model; tests/real/test_facts.py runs the same in Python"
_CLOUD = "it needs a cloud account, a Slurm cluster or Kubernetes; tests/unit/cluster/test_files.py checks the files"
_SERVER = "it stays until it is ended, or asks a server; tests/serve runs the examples of docs/serving.md against one"
_CURL = (
    "curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d "
    """'{"model": "latentmas/sequential", "messages": [{"role": "user", "content": """
    """"Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"}], "temperature": 0}'"""
)
_COSTS = "it takes minutes and writes the results; tests/unit/bench/test_serving_cost.py runs it with few questions"
NOT_RUN = {
    _CURL: _SERVER,
    "latentmas serve --topology sequential --model tiny": _SERVER,
    "lm_eval --model local-chat-completions --model_args model=latentmas/sequential,"
    "base_url=http://127.0.0.1:8000/v1/chat/completions,num_concurrent=8 --tasks chain --include_path examples/serving "
    "--apply_chat_template": _SERVER,
    "serve run latentmas_ray.serve.ray_app:app model=tiny topology=sequential": (
        "it stays until it is ended; tests/ray/test_serve_app.py runs the application"
    ),
    "latentmas bench serve --url http://127.0.0.1:8000/v1 --concurrency 1,16,64 --rates 2,4 --soak 30 "
    "--plot load.png": (
        "it takes half an hour; tests/unit/bench/test_serve.py runs it against a server without a model"
    ),
    "python -m benchmarks serve-overhead --document benchmarks/results/serving.md": _COSTS,
    "python -m benchmarks serve-first-token --document benchmarks/results/serving.md": _COSTS,
    "pip install .": "it installs the package that is being tested",
    "latentmas eval --task gsm8k --model Qwen/Qwen3-4B --method latent --topology sequential --output runs/gsm8k": _HUB,
    "sudo .venv/bin/python cluster/local_cluster.py --nodes 3 -- latentmas eval --task chain --model tiny --limit 64": (
        "it makes network namespaces; tests/multinode/test_local_cluster.py runs it"
    ),
    "sudo .venv/bin/python cluster/local_cluster.py --nodes 3": "it stays until it is ended",
    "latentmas plan --address HOST:PORT --model qwen3-8b --gpu-memory 80GB": _A_CLUSTER,
    "ray job submit --address http://HOST:8265 --working-dir . -- "
    "python jobs/eval.py --task chain --model tiny --output s3://BUCKET/runs/a": _A_CLUSTER,
    "ray job submit --address http://HOST:8265 --working-dir . -- "
    "python jobs/bench_transfer.py --tokens 64,1024,8192": _A_CLUSTER,
    "ray job submit --working-dir . -- python jobs/bench_transfer.py --tokens 64,1024,8192": _A_CLUSTER,
    'latentmas eval --task facts --model "$(python -m examples.real_model)" --topology hierarchical --batch-size 8 '
    "--latent-steps 5 --temperature 0 --limit 24": _REAL,
    'latentmas eval --task facts --model "$(python -m examples.real_model)" --topology hierarchical --batch-size 8 '
    "--latent-steps 5 --temperature 0 --limit 24 --memory deranged": _REAL,
    "ray get-auth-token --generate": _CLOUD,
    "ray up cluster/ray-cluster-aws.yaml": _CLOUD,
    "ray dashboard cluster/ray-cluster-aws.yaml": _CLOUD,
    "RAY_AUTH_MODE=token ray job submit --address http://127.0.0.1:8265 --working-dir . -- "
    "python jobs/eval.py …": _CLOUD,
    "ray down cluster/ray-cluster-aws.yaml": _CLOUD,
    "sbatch --nodes=8 cluster/slurm/latentmas.sbatch --task sample --model Qwen/Qwen3-14B --output runs/a": _CLOUD,
    "latentmas bench answer": _MINUTES,
    "latentmas bench answer --model FOLDER --tasks gsm8k --limit 64 --output answers": _MINUTES,
    "latentmas bench answer --model qwen3-0.6b --methods none --questions 16 --max-new-tokens 64": _MINUTES,
    "latentmas bench answer --engines none --methods single,latent --concurrency 1,8": _MINUTES,
    "python jobs/gpu_check.py": "it needs a GPU; tests/numerics/test_gpu_check.py runs its checks on the CPU",
    "latentmas eval --task chain --limit 8 --otel": "it needs a collector; tests/unit/runs/test_otel.py starts one",
    "latentmas bench transfer": _MINUTES,
    "latentmas bench transfer --model qwen3-14b --tokens 64,1024,8192 --plot transfer.png": _MINUTES,
    "latentmas bench transfer --address HOST:PORT": _A_CLUSTER,
    "latentmas bench transfer --pairs all --concurrent 4 --address HOST:PORT": _A_CLUSTER,
    "ray job submit --working-dir . -- python jobs/bench_matrix.py --concurrent 4 --json": _A_CLUSTER,
    "latentmas simulate": _SIMULATED,
    "latentmas simulate --nodes 1,16,128 --topology hierarchical --placement colocate": _SIMULATED,
    "latentmas simulate --think-seconds 0.05 --write-seconds 0.5 --batch-size 1 --plot simulated.png": _SIMULATED,
    "latentmas simulate --hardware h100 --model qwen3-8b": _SIMULATED,
    "latentmas simulate --driver free --json": _SIMULATED,
    "latentmas simulate --nodes 256 --topology wide --drivers 2": _SIMULATED,
    "python -m benchmarks keep --output runs/keep": (
        "it takes minutes; tests/numerics/test_bench_keep.py runs two points of the curve"
    ),
    "python -m examples.training.front_loading runs/front_loading": _TRAINING,
    "python -m examples.training.front_loading runs/front_loading --address HOST:PORT": _TRAINING,
    "python -m examples.training.protocol runs/protocol": (
        "it trains for hours; tests/ray/test_training_protocol.py runs it with --minute"
    ),
    "python -m examples.training.adapters maps": (
        "it trains for two CPU hours; tests/ray/test_adapters_study.py runs a minute of it"
    ),
    "latentmas eval --task notes --topology hierarchical --model tiny --models answerer=small --thoughts soft "
    "--latent-steps 40 --memory latent-only --translation maps/adapters/tiny-small-words-1.safetensors": (
        "it needs the map that the command before it trains; tests/numerics/test_adapters.py runs such maps"
    ),
    "python -m benchmarks scaling": _MINUTES,
    "python -m benchmarks scaling --replicas 1,2,4,8,16,32 --turn-seconds 2 --plot scaling.png": _MINUTES,
    "python -m benchmarks scaling --agents 4 --no-hand-overs": _MINUTES,
    "python -m benchmarks scaling --no-throughput --actors 64": _MINUTES,
    "python -m benchmarks scaling --address HOST:PORT": _A_CLUSTER,
}
# Longer than a few seconds: models are loaded and run.
_LONG = re.compile(r"latentmas (ask|demo|eval)\b")
_TIME = re.compile(r"\d+(\.\d+)? (ms|s|min)\b")

BLOCKS = {
    f"{document}-{number}": block for document in DOCUMENTS for number, block in enumerate(shell_blocks(document))
}
COMMANDS = {line for block in BLOCKS.values() for line in block.commands}


def run_of(block: Block) -> list[str]:
    return [line for line in block.commands if line not in NOT_RUN]


def test_every_command_is_run_or_has_its_reason() -> None:
    assert set(NOT_RUN) - COMMANDS == set(), "these stand in no document any more"
    assert [line for line in COMMANDS - set(NOT_RUN) if not line.startswith("latentmas ")] == []


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=name, marks=[pytest.mark.slow] * any(map(_LONG.match, run_of(block))))
        for name, block in BLOCKS.items()
        if run_of(block)
    ],
)
def test_commands_run_as_shown(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for line in run_of(block):
        capfd.readouterr()
        code = main(shlex.split(line)[1:])
        out, err = capfd.readouterr()
        assert code == 0, f"{line}\n{err}"
        # A plan for other machines is right where vLLM is missing, and says that it is.
        notes = [one for one in err.splitlines() if "note: " in one and "vLLM is not installed here" not in one]
        assert notes == []
    if block.output is not None:
        shown, printed = _plain(block.output), _plain(out)
        assert printed[: len(shown)] == shown


def _plain(text: str) -> list[str]:
    """The lines that are not empty, without times and without what aligns them."""
    lines = (" ".join(_TIME.sub("TIME", line).replace("─", "").split()) for line in text.splitlines())
    return [line for line in lines if line]
