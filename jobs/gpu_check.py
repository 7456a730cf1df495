"""Say what works on a machine with a GPU, a line for each check: `python jobs/gpu_check.py`.

Our own engine needs torch and transformers alone. Checks with vLLM and with Ray run where these are installed; what is
left out says why. On a machine without a GPU the same checks run on the CPU, with `--device cpu`. The exit code is 1 if
a check fails.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from latentmas_ray import LatentMAS
from latentmas_ray.bench.answer.engines import measure_engines
from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.errors import LatentMASError, first_line
from latentmas_ray.models import choose_device
from latentmas_ray.runs.environment import describe_environment, versions_line
from latentmas_ray.tasks import load_questions
from latentmas_ray.units import format_bytes, format_rate, format_times
from latentmas_ray.vllm.installed import obstacle

Answers = dict[str, tuple[int, ...]]  # token ids by question


class DifferenceError(LatentMASError):
    """Two things that should be equal are not."""


@dataclass(frozen=True)
class Check:
    """One thing that should work here."""

    name: str
    run: Callable[[argparse.Namespace], str]  # returns what was found; raises LatentMASError
    obstacle: Callable[[argparse.Namespace], str | None] = lambda _: None  # why it cannot run here


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (cuda)")
    parser.add_argument("--model", default="tiny", help="tiny, or a model folder (tiny)")
    parser.add_argument("--task", default="chain", help="whose questions are answered (chain)")
    parser.add_argument("--questions", type=int, default=16, help="questions of each check (16)")
    parser.add_argument("--latent-steps", type=int, default=10, help="of each latent agent (10)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of each answer (64)")
    parser.add_argument("--only", nargs="+", choices=[check.name for check in CHECKS], help="these checks alone")
    parser.add_argument("--speed-model", default="qwen3-0.6b", help="a shape or a folder, for the speed (qwen3-0.6b)")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False  # its products are no float32
    chosen = [check for check in CHECKS if given.only is None or check.name in given.only]
    failed = [check.name for check in chosen if not told(check, given)]
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "nothing failed")
    return 1 if failed else 0


def told(check: Check, given: argparse.Namespace) -> bool:
    """Run a check and print its line. Returns whether nothing failed."""
    if (why := check.obstacle(given)) is not None:
        print(f"left out  {check.name}: {why}", flush=True)
        return True
    begin = time.perf_counter()
    try:
        found, word = check.run(given), "works"
    except Exception as error:  # noqa: BLE001  a check says what went wrong, and the others run
        found, word = f"{type(error).__name__}: {first_line(error)}", "FAILED"
    print(f"{word:8}  {check.name}: {found} ({time.perf_counter() - begin:.1f} s)", flush=True)
    return word == "works"


def machine(given: argparse.Namespace) -> str:
    """The device and the versions."""
    device = choose_device(given.device)
    versions = versions_line(describe_environment("ray", None))
    if device.type != "cuda":
        return f"{device}, {versions}"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {format_bytes(properties.total_memory)}, {versions}"


def same_as_cpu(given: argparse.Namespace) -> str:
    """Latent agents and their answers on this device and on the CPU, in float32."""
    return equal(answers(given), answers(given, device="cpu"), "the CPU's")


def same_in_batches(given: argparse.Namespace) -> str:
    """One question at a time, and all at once."""
    return equal(answers(given, batch_size=given.questions), answers(given, batch_size=1), "those of batches of one")


def same_merged(given: argparse.Namespace) -> str:
    """Memory of parallel agents, merged, in bfloat16 too."""
    rounded = answers(given, topology="hierarchical", dtype="bfloat16")
    fields = {"topology": "hierarchical"}
    found = equal(answers(given, **fields), answers(given, device="cpu", **fields), "the CPU's")
    return f"{found}; {len(rounded)} answers in bfloat16, {sum(map(bool, rounded.values()))} with text"


def same_continuous(given: argparse.Namespace) -> str:
    """Questions that join and leave a batch."""
    return engines(given, "continuous")


def same_vllm(given: argparse.Namespace) -> str:
    """vLLM on prompts without memory."""
    return engines(given, "vllm")


def same_on_ray(given: argparse.Namespace) -> str:
    """Agents in actors of their own, with the transport that is chosen here."""
    return equal(answers(given, runtime="ray"), answers(given), "those of one process")


def same_with_memory(given: argparse.Namespace) -> str:
    """Latent agents on our own engine, whose memory vLLM reads: a chain, and parallel agents."""
    fields = {"runtime": "ray", "engine": "vllm"}
    chain = equal(answers(given, **fields), answers(given), "our own engine's")
    merged = {"topology": "hierarchical"}
    return f"{chain}; merged: {equal(answers(given, **fields, **merged), answers(given, **merged), 'our own engine')}"


def speed(given: argparse.Namespace) -> str:
    """Each engine on texts of 8 to 512 tokens, in the model's own dtype."""
    settings = AnswerBenchSettings(model=given.speed_model, device=given.device, repeats=2, methods=())
    return ", ".join(
        f"{one.engine} {format_rate(one.tokens_per_second)} tokens/s ({format_times(one.speedup)}, first token "
        f"{one.first_token.p50_seconds:.2f} s, peak {format_bytes(one.peak_bytes)})"
        for one in measure_engines(settings, silent)
    )


def answers(given: argparse.Namespace, **fields: Any) -> Answers:
    """The answers of a latent team, greedy, in float32, on our own engine in this process, unless `fields` differ."""
    fixed = {"device": given.device, "dtype": "float32", "runtime": "local", "engine": "transformers", "temperature": 0}
    lengths = {"latent_steps": given.latent_steps, "max_new_tokens": given.max_new_tokens}
    with LatentMAS(given.model, **{**fixed, **lengths, **fields}) as system:
        questions = load_questions(given.task)[: given.questions]
        return {answer.id: answer.answer_token_ids for answer in system.map(questions)}


def engines(given: argparse.Namespace, name: str) -> str:
    """The share of texts of an engine that are those of static batches, in float32."""
    settings = AnswerBenchSettings(
        model=given.model,
        device=given.device,
        dtype="float32",
        engines=("static", name),
        questions=given.questions,
        min_new_tokens=1,
        max_new_tokens=given.max_new_tokens,
        repeats=1,
        methods=(),
    )
    _, figures = measure_engines(settings, silent)
    num_same = round(figures.same_texts * given.questions)
    if num_same < given.questions:
        raise DifferenceError(f"{num_same} of {given.questions} texts are those of static batches")
    return f"{num_same} of {given.questions} texts are those of static batches"


def equal(found: Answers, expected: Answers, whose: str) -> str:
    """Say how many answers are the expected ones. Raises DifferenceError unless all are."""
    num_same = sum(found[name] == ids for name, ids in expected.items())
    line = f"{num_same} of {len(expected)} answers are {whose}"
    if num_same < len(expected) or not any(expected.values()):
        raise DifferenceError(line)
    return line


def silent(line: str) -> None:
    """Drop a line of a benchmark's progress."""


def no_vllm(given: argparse.Namespace) -> str | None:
    return obstacle()


def no_ray(given: argparse.Namespace) -> str | None:
    return None if find_spec("ray") is not None else "Ray is not installed"


def no_gpu(given: argparse.Namespace) -> str | None:
    return "it takes long without a GPU" if given.device == "cpu" else None


CHECKS = (
    Check("machine", machine),
    Check("engine", same_as_cpu),
    Check("batches", same_in_batches),
    Check("merged", same_merged),
    Check("continuous", same_continuous),
    Check("ray", same_on_ray, no_ray),
    Check("vllm", same_vllm, no_vllm),
    Check("vllm-memory", same_with_memory, lambda given: no_vllm(given) or no_ray(given)),
    Check("speed", speed, no_gpu),
)

if __name__ == "__main__":
    sys.exit(main())
