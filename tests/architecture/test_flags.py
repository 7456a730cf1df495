"""The command line as scripts know it. A flag that goes or is renamed breaks them, so each one stands here."""

from collections.abc import Iterator
from typing import Any

import typer

from benchmarks.__main__ import app as benchmarks
from latentmas_ray.cli.main import app

FOR_ONE_QUESTION = """
    --model --models --revision --topology --method --latent-steps --thoughts --realign --no-realign --dtype --device
    --temperature --top-p --max-new-tokens --seed --engine --sampler --placement --tp --threads --transport --transfer
    --codec --keep --keep-by --keep-layers --overlap --no-overlap --runtime --address --start-timeout --guard --otel
    --samples --decides --decide-accuracies --json
"""
COMMANDS = {
    "": "--version --install-completion --show-completion",
    "ask": f"question --example --anyway --trace --save-memory --from-memory {FOR_ONE_QUESTION}",
    "eval": f"""
        --task --memory --controls --seeds --limit --batch-size --decode-batch --replicas --min-replicas --max-replicas
        --rebalance --drivers --turn-timeout --memory-in-flight --detach
        --output --resume --trace --save-memory --unsafe-programs --timeline --hardware --config --preset
        --abstractions --hints
        {FOR_ONE_QUESTION}
    """,
    "serve": """
        --host --port --topologies --topologies-file --drain-timeout
        --conversation-memory --max-conversations --conversation-ttl
        --api-keys --requests-per-minute --max-waiting --max-running --max-memory --max-body --max-message-chars
        --request-timeout --allow-origin --allow-host --log-prompts
        --model --models --revision --task --topology --latent-steps --thoughts --realign --no-realign --dtype --device
        --temperature --top-p --max-new-tokens --seed --samples --decides --decide-accuracies --batch-size --engine
        --decode-batch --sampler --placement --replicas --min-replicas --max-replicas --tp --threads --transport
        --transfer --codec --keep --keep-by --keep-layers --overlap --no-overlap --guard --memory-in-flight --runtime
        --address --start-timeout --turn-timeout --otel
    """,
    "compare": "folders --base --answers --json",
    "vote": "runs --calibrate --options --rule --output --seed --simulate --accuracies --json",
    "grade": "--task --results --output --overwrite --unsafe-programs --json",
    "tasks": "task --json",
    "topologies": "name --json",
    "demo": "--limit --latent-steps --max-new-tokens --batch-size --seed --runtime --address",
    "timeline": "run --output",
    "report": "runs --output --published --no-published",
    "doctor": "--address --model --dtype --revision --json",
    "memory": "file --json",
    "mcp": "--url --model --timeout",
    "presets": "name --json",
    "serve-key": "name --file",
    "results": "folders --markdown --json",
    "inspect": "run --question --agent --full --width",
    "plan": """
        --model --models --revision --topology --placement --replicas --tp --engine --batch-size --decode-batch
        --prompt-tokens --latent-steps --thoughts --realign --no-realign --keep --keep-by --max-new-tokens --samples
        --dtype --nodes --gpus-per-node --gpu-memory --cpus-per-node
        --address --same-process --same-gpu --nvlink --pcie --shared-memory --network --hardware --text-tokens
        --task --measure --save --compare --preset --json
    """,
    "simulate": """
        --nodes --gpus-per-node --topology --questions --batch-size --replicas --placement --think-seconds
        --write-seconds --spread --seed --model --prompt-tokens --latent-steps --max-new-tokens --hardware --nvlink
        --network --store --latency --driver --drivers --runtime-seconds --plot --json
    """,
    "bench": "",
    "bench transfer": """
        --model --dtype --tokens --transports --repeats --address --end-to-end --no-end-to-end --prompt-tokens
        --latent-steps --pairs --concurrent --plot --json
    """,
    "bench answer": """
        --model --dtype --device --engines --questions --batch-size --prompt-tokens --min-new-tokens --max-new-tokens
        --seed --repeats --threads --methods --answer-engine --tasks --limit --concurrency --topology --latent-steps
        --thoughts --keep --runtime --address --output --json
    """,
    "bench serve": """
        --url --model --topology --latent-steps --models --concurrency --rates --requests --task --max-tokens --seed
        --timeout --first-within --answer-within --soak --output --plot --json
    """,
    "bench thoughts": """
        --model --revision --dtype --device --task --limit --topology --latent-steps --thoughts --realign --no-realign
        --max-new-tokens --output --json
    """,
}


BENCHMARKS = {
    "": "",
    "engine": """
        --model --dtype --device --batch-size --num-agents --latent-steps --prompt-tokens --max-new-tokens --repeats
        --json
    """,
    "continuous": """
        --model --dtype --device --batch-size --num-questions --shortest --longest --prompt-tokens --repeats --json
    """,
    "threads": "--threads --model --task --limit --repeats --json",
    "mixed-models": """
        folder --models --task --topology --answerer --limit --latent-steps --batch-size --max-new-tokens --dtype
        --teams
    """,
    "mapped-words": "--models --questions --batch-size",
    "samples": """
        --model --task --topology --method --samples --limit --batch-size --latent-steps --max-new-tokens --dtype
        --temperature --repeats --json
    """,
    "latent-steps": """
        --model --task --topology --steps --settings --limit --batch-size --other-batch-size --max-new-tokens --dtype
        --output --json
    """,
    "errors": """
        folder --model --tasks --between --guards --limit --batch-size --latent-steps --max-new-tokens --document
    """,
    "keep": """
        --model --task --topology --dtype --questions --keep --codecs --by --places --layers --latent-steps
        --batch-size --max-new-tokens --seed --no-run --output
    """,
    "abstractions": """
        folder --model --dtype --tasks --sources --methods --budget --hints --controls-at --limit --batch-size
        --latent-steps --temperature --max-new-tokens --seed --document
    """,
    "links": "--tokens --repeats --json",
    "authentication": "--repeats --all-cores",
    "simulation": "--repeats --json",
    "layouts": "--gpus --questions --settings --exhaustive",
    "clusters": "--questions --nodes --document",
    "thoughts": """
        --model --task --topology --rules --steps --controls --limit --batch-size --max-new-tokens --dtype --output
        --block --no-run --document
    """,
    "vllm-memory": "--megabytes --repeats",
    "serve-first-token": """
        --document --dtype --json --latent-steps --limit --max-new-tokens --model --task --topology --warm-up
    """,
    "serve-overhead": """
        --batch-size --decode-batch --document --dtype --json --latent-steps --limit --max-new-tokens --model
        --repeats --task --topology
    """,
    "serve-equality": """
        --model --topology --method --task --limit --latent-steps --max-new-tokens --dtype --runtime --concurrency
        --json
    """,
    "serve-faults": """
        --kinds --requests --clients --after --model --topology --latent-steps --max-new-tokens --json
    """,
    "scaling": """
        --replicas --agents --turn-seconds --batches --repeats --actors --throughput --no-throughput --hand-overs
        --no-hand-overs --address --plot --json
    """,
}


def commands_of(command: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
    """(name, flags and arguments) of a command and of every command below it."""
    yield name, {flag for parameter in _shown(command) for flag in (*parameter.opts, *parameter.secondary_opts)}
    shown = {child: below for child, below in getattr(command, "commands", {}).items() if not below.hidden}
    for child, below in shown.items():
        yield from commands_of(below, f"{name} {child}".strip())


def _shown(command: Any) -> list[Any]:
    """All parameters but old names of flags, which are read for one version more."""
    return [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]


def test_commands_and_flags_are_the_promised_ones() -> None:
    for command, promised in ((app, COMMANDS), (benchmarks, BENCHMARKS)):
        assert dict(commands_of(typer.main.get_command(command))) == {
            name: set(text.split()) for name, text in promised.items()
        }
