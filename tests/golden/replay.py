"""Runs the recorded chain with this package and prints, as JSON, how near it comes to the recording.

Needs to be started with the environment variables `AVX2`, which have to be set before torch is imported.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest, TurnResult
from latentmas_ray.memory import Segment, join
from latentmas_ray.models import load_model
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology, load_topology, render_messages

FOLDER = Path(__file__).parent
CASES = ("realign", "identity")
# One way of rounding on every x86 CPU: AVX2 in torch's own kernels, MKL's compatible path, and one thread.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}


def read_questions() -> list[Question]:
    records = [json.loads(line) for line in (FOLDER / "questions.jsonl").read_text().splitlines()]
    return [
        Question(id=record["id"], question=record["question"], kind="text", gold=None, record=record)
        for record in records
    ]


def run_batch(
    runner: TurnRunner, topology: Topology, questions: list[Question], case: dict[str, int]
) -> tuple[dict[str, Segment], TurnResult]:
    """All agents' turns over one batch: the segments, and the report of the answering agent."""
    segments: dict[str, Segment] = {}
    for agent in topology.agents:
        prompts = tuple(
            Prompt(messages=render_messages(agent, question, context="", answer_form=""), suffix=agent.suffix)
            for question in questions
        )
        work = TurnRequest(
            agent=agent.name,
            batch=0,
            question_ids=tuple(question.id for question in questions),
            prompts=prompts,
            thinks=agent.thinks,
            sampling=Sampling(max_new_tokens=case["max_new_tokens"]),
            latent_steps=case["latent_steps"],
            reads=topology.memory_read_by(agent.name),
        )
        piece, report = runner.run(work, segments)
        segment = None if piece is None else join([piece])
        if segment is not None:
            segments[agent.name] = segment
    return segments, report


def kv_errors(segments: dict[str, Segment], row: int, question: int, recorded: dict[str, Tensor]) -> dict[str, object]:
    """max |Δ| of the first and last layer: over the planner's prompt, over each of its thoughts, over all the rest."""
    got = torch.cat([segment.kv_of(row) for segment in segments.values()], dim=3)
    last = got.shape[0] - 1
    expected = torch.stack(
        [
            torch.stack([recorded[f"q{question}.refiner.layer{layer}.{kind}"] for kind in ("key", "value")])
            for layer in (0, last)
        ]
    )
    errors_T = (got[[0, last]] - expected).abs().amax(dim=(0, 1, 2, 4))
    planner = segments["planner"].recompute_inputs.take([row])
    num_prompt = planner.lengths[0] - planner.latents_per_question()[0]
    return {
        "prompt": float(errors_T[:num_prompt].max()),
        "thoughts": errors_T[num_prompt : planner.lengths[0]].tolist(),
        "rest": float(errors_T[planner.lengths[0] :].max()),
    }


def recompute(name: str, batch_size: int) -> list[dict[str, object]]:
    """One entry a question: what was computed, what was recorded, and how far the KV is apart."""
    case = json.loads((FOLDER / "expected.json").read_text())[name]
    recorded = load_file(FOLDER / f"{name}.safetensors")
    topology = load_topology(str(FOLDER / "topology.yaml"))
    questions = read_questions()
    entries: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        lm = load_model(str(FOLDER / "model"), device="cpu")
        runner = TurnRunner(Engine(lm, thoughts=name, cache_dir=Path(folder)))
        for first in range(0, len(questions), batch_size):
            batch = questions[first : first + batch_size]
            segments, report = run_batch(runner, topology, batch, case)
            for row in range(len(batch)):
                result = case["results"][first + row]
                lengths = [segment.lengths[row] for segment in segments.values()]
                entries.append(
                    {
                        "case": name,
                        "batch_size": batch_size,
                        "question": first + row,
                        "answer": list(report.output_token_ids[row]),
                        "recorded_answer": result["answer_token_ids"],
                        "memory_lengths": [sum(lengths[: index + 1]) for index in range(len(lengths))],
                        "recorded_memory_lengths": result["memory_lengths"],
                        "kv": kv_errors(segments, row, first + row, recorded),
                    }
                )
    return entries


if __name__ == "__main__":
    json.dump([entry for name in CASES for size in (1, 3) for entry in recompute(name, size)], sys.stdout, indent=1)
