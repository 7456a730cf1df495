"""The two sides of the engine's benchmark, each served by a process of its own."""

import random
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.baseline import Baseline
from benchmarks.engine.settings import EngineBenchSettings
from latentmas_ray.bench.side_process import serve_side
from latentmas_ray.bench.used_memory import reset_peak, used_bytes
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.timing.phase_timer import PhaseTimer
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.memory import Segment, merge_layout
from latentmas_ray.models import LanguageModel, choose_device, load_model
from latentmas_ray.models.presets import SHAPES, random_model
from latentmas_ray.models.thoughts import make_rule
from latentmas_ray.topology.agent import AgentMemory

Seconds = dict[str, float]


def serve(side: str, settings: EngineBenchSettings, connection: Connection) -> None:
    """Load the model, report the machine, then measure one batch per requested size."""

    def start() -> tuple[str, Callable[[int], dict[str, Any]]]:
        lm = load_shape(settings)
        resting = used_bytes(lm.device, peak=False)
        measure = SIDES[side](lm, settings)
        measure(1)  # warm-up: selects kernels and starts threads

        def answer(batch_size: int) -> dict[str, Any]:
            reset_peak(lm.device)
            seconds = measure(batch_size)
            return {"seconds": seconds, "extra_bytes": used_bytes(lm.device, peak=True) - resting}

        return describe(lm), answer

    serve_side(side, connection, start)


def load_shape(settings: EngineBenchSettings) -> LanguageModel:
    """Return the model to measure, without end tokens: both sides decode the same number of tokens."""
    if settings.model in SHAPES:
        dtype = "bfloat16" if settings.dtype == "auto" else settings.dtype
        lm = random_model(settings.model, dtype=dtype, device=str(choose_device(settings.device)))
    else:
        lm = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    lm.chat.stop_ids = frozenset()
    return lm


def make_prompts(settings: EngineBenchSettings, batch_size: int, agent: int) -> list[list[int]]:
    """Return random token ids of ragged lengths, the same on both sides."""
    draw = random.Random(f"{batch_size}/{agent}")
    shortest = max(1, settings.prompt_tokens * 3 // 4)
    lengths = [settings.prompt_tokens, *(draw.randint(shortest, settings.prompt_tokens) for _ in range(batch_size - 1))]
    return [[draw.randrange(3, 259) for _ in range(length)] for length in lengths]


def engine_side(lm: LanguageModel, settings: EngineBenchSettings) -> Callable[[int], Seconds]:
    """Segments from agent to agent through one engine."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(lm, thoughts="realign", cache_dir=Path(folder))

    def measure(batch_size: int) -> Seconds:
        watch = PhaseTimer(lm.device)
        names = [f"q{row}" for row in range(batch_size)]
        memory: tuple[AgentMemory, ...] = ()
        segments: dict[str, Segment] = {}
        for agent in range(settings.num_agents + 1):
            prompts = make_prompts(settings, batch_size, agent)
            is_latent = agent < settings.num_agents
            placement = merge_layout(memory, segments, batch_size)
            room = settings.latent_steps if is_latent else settings.max_new_tokens
            with watch.phase("absorb"):
                slots = max(placement.lengths, default=0) + settings.prompt_tokens + room
                session = engine.open(names, num_slots=slots, reads=placement)
                session.absorb(placement)
            with watch.phase("prefill"):
                session.prefill(prompts)
            if not is_latent:
                with watch.phase("decode"):
                    session.decode(Sampling(max_new_tokens=settings.max_new_tokens), "answerer", is_last=True)
                break
            with watch.phase("think"):
                session.think(settings.latent_steps)
            with watch.phase("emit"):
                segments[f"agent{agent}"] = session.emit()
            del session  # or the cache it works in outlives the one that the next agent gets
            memory = (AgentMemory(f"agent{agent}", memory),)
        return watch.seconds

    return measure


def baseline_side(lm: LanguageModel, settings: EngineBenchSettings) -> Callable[[int], Seconds]:
    """One growing cache from agent to agent."""
    # The loop is plain transformers: not with the engine's attention.
    lm.model.set_attn_implementation("sdpa")
    with tempfile.TemporaryDirectory() as folder:
        rule = make_rule(lm, "realign", cache_dir=Path(folder))

    def measure(batch_size: int) -> Seconds:
        loop = Baseline(lm, rule, PhaseTimer(lm.device).drain)
        for agent in range(settings.num_agents):
            loop.think(make_prompts(settings, batch_size, agent), settings.latent_steps)
        loop.decode(make_prompts(settings, batch_size, settings.num_agents), settings.max_new_tokens)
        return loop.seconds

    return measure


SIDES: dict[str, Callable[[LanguageModel, EngineBenchSettings], Callable[[int], Seconds]]] = {
    "engine": engine_side,
    "baseline": baseline_side,
}


def describe(lm: LanguageModel) -> str:
    """Return a description of the machine."""
    spec = lm.spec
    place_name = torch.cuda.get_device_name(lm.device) if lm.device.type == "cuda" else "cpu"
    return f"{place_name}, {torch.get_num_threads()} torch threads, {spec.dtype}, {spec.num_layers} layers"
