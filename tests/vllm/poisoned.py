"""An actor with vLLM in which the memory of one question cannot be loaded."""

from dataclasses import replace
from typing import Any

from latentmas_ray.actors.text.vllm_runner import load_vllm_runner
from latentmas_ray.vllm.registry import REGISTRY
from latentmas_ray.writing.text_engine import TextRequest
from latentmas_ray.writing.text_runner import TextRunner


def load_poisoned_runner(question_id: str, *arguments: Any, **more: Any) -> TextRunner:
    """Like `load_vllm_runner`, but the memory of this question is damaged after it has been checked."""
    runner = load_vllm_runner(*arguments, **more)
    start = runner.engine.start

    def start_and_damage(request: TextRequest) -> None:
        start(request)
        if request.question_id == question_id:
            assert request.memory is not None
            parts = [replace(part, kv_LCHTD=part.kv_LCHTD[..., :2]) for part in request.memory.parts]
            REGISTRY.release(request.key)
            REGISTRY.add(request.key, replace(request.memory, parts=parts), runner.spec.ropes)

    runner.engine.start = start_and_damage  # type: ignore[method-assign]
    return runner
