"""Segments in the object store: shared without a copy, owned by the driver, alive without their producer."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray

from latentmas_ray.actors import RayRuntime
from latentmas_ray.driver import Ticket
from latentmas_ray.engine.turn import Prompt, Sampling, TurnWork
from latentmas_ray.errors import ActorError
from latentmas_ray.topology.spec import AgentMemory
from latentmas_ray.transport import ObjectStore
from tests.ray.actor_cases import PATIENCE_SECONDS, actors_of
from tests.ray.stand_ins import SPEC, StandIn, number_of, turns_in

pytestmark = pytest.mark.usefixtures("cluster")


def _work(agent: str, *reads: str) -> TurnWork:
    return TurnWork(
        agent=agent,
        batch=0,
        question_ids=("q0",),
        prompts=(Prompt(messages=({"role": "user", "content": "a question of some bytes"},)),),
        thinks="latent" if agent == "planner" else "text",
        sampling=Sampling(),
        reads=tuple(AgentMemory(name) for name in reads),
    )


def _finish(runtime: RayRuntime, ticket: Ticket) -> None:
    assert runtime.wait([ticket], PATIENCE_SECONDS) == [ticket]


def test_a_segment_outlives_the_actor_that_made_it(tmp_path: Path) -> None:
    with actors_of(["planner", "judger"], partial(StandIn, tmp_path)) as (runtime, _):
        made = runtime.submit(_work("planner"), {})
        _finish(runtime, made)
        assert runtime.report(made).segment_bytes[0] == len("a question of some bytes") * SPEC.bytes_per_token
        os.kill(turns_in(tmp_path)[0].pid, signal.SIGKILL)
        dead = runtime.submit(_work("planner"), {})
        _finish(runtime, dead)
        with pytest.raises(ActorError, match="the actor of agent planner died"):
            runtime.report(dead)
        read = runtime.submit(_work("judger", "planner"), {"planner": made.segment})
        _finish(runtime, read)
        (transfer,) = runtime.report(read).reads
        assert (transfer.source, transfer.transport) == ("planner", "object_store")
        assert transfer.num_bytes == runtime.report(made).segment_bytes[0]
        assert turns_in(tmp_path)[-1].read == {"planner": number_of("planner")}


def test_a_reader_on_this_machine_works_on_the_stores_own_pages(tmp_path: Path) -> None:
    with actors_of(["planner"], partial(StandIn, tmp_path)) as (runtime, _):
        made = runtime.submit(_work("planner"), {})
        _finish(runtime, made)
        (parcel,) = made.segment.parcels
        header, kv = ray.get(parcel).payload
        _, again = ray.get(parcel).payload
        assert not kv.flags.writeable
        assert kv.ctypes.data == again.ctypes.data
        segment = ObjectStore().unpack((header, kv), expected=SPEC)
        assert segment.kv_LCHTD.data_ptr() == kv.ctypes.data
        assert np.all(segment.kv_LCHTD.numpy() == number_of("planner"))
