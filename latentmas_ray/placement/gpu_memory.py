"""Whether the memory of a GPU suffices for the actors on it. One function decides it for every plan."""

from collections.abc import Sequence

from latentmas_ray.errors import ModelError
from latentmas_ray.placement.cache_size import DEVICE_SHARE, bytes_on_gpu
from latentmas_ray.placement.memory_estimate import ActorMemory, memory_estimates, shard_memory
from latentmas_ray.placement.plan import PlanRequest, gpu_sizes
from latentmas_ray.units import format_bytes


def written_at_once(request: PlanRequest) -> dict[str, int]:
    """Return how many questions each agent writes at the same time that writes question by question: our own engine
    divided over ranks writes whole batches."""
    return {name: count for name, count in request.written_at_once.items() if request.tp == 1 or name in request.apart}


def rows_on(request: PlanRequest, num_actors: int) -> dict[str, int]:
    """Return how many questions each agent can write at the same time with an equal part of a GPU that `num_actors`
    share; 0 if its engine has no room for one. Only the paged cache of an engine of its own (`apart`) limits it."""
    rows, sizes = written_at_once(request), gpu_sizes(request.nodes)
    if request.model is None or not sizes:
        return rows
    memory = GpuMemory(request)
    for agent in request.apart & rows.keys():
        rows[agent] = memory.rows_of(agent, num_actors, sizes[0])[0]
    return rows


class GpuMemory:
    """What actors of a request need on a GPU. The request must have a model and a topology."""

    def __init__(self, request: PlanRequest) -> None:
        self._request = request
        assert request.topology is not None, "memory is that of a topology"
        found = memory_estimates(request.topology, request.workload, written_at_once(request))
        self._estimates = {one.agent: one for one in found}

    def shortage(self, actors: Sequence[tuple[str, ...]], gpu_bytes: int) -> tuple[int, str] | None:
        """Return how many bytes a GPU of this size lacks for these actors, and what they need; None if it has enough.

        Each actor, given by its agents, has its own copy of the weights. An engine of its own (`apart`) takes its whole
        part of the GPU and writes as many questions at the same time as it then has room for, at least one; what
        arrives for it lies in the rest.
        """
        request, used, engines = self._request, list[ActorMemory](), 0
        for agents in actors:
            if request.apart.isdisjoint(agents):
                needed = [self._estimates[agent] for agent in agents]
                used.append(shard_memory(request.dims_of(agents[0]), needed, request.workload, request.tp))
                continue
            for agent in agents:
                rows, why = self.rows_of(agent, len(actors), gpu_bytes)
                if not rows:
                    return request.dims_of(agent).weights_bytes(request.tp), why
            engines += int(DEVICE_SHARE * gpu_bytes / len(actors))
        total = sum(one.total_bytes for one in used) + engines
        if total <= gpu_bytes:
            return None
        parts = [
            f"weights {format_bytes(sum(one.weights_bytes for one in used))}",
            f"KV {format_bytes(sum(one.kv_bytes for one in used))}",
            f"segments {format_bytes(sum(one.segments_bytes for one in used))}",
            f"allowance {format_bytes(sum(one.allowance_bytes for one in used))}",
            *([f"vLLM {format_bytes(engines)}"] if engines else []),
        ]
        missing = total - gpu_bytes
        what = f"a GPU needs {format_bytes(total)} ({', '.join(parts)}), {format_bytes(missing)} more than it has"
        return missing, what

    def rows_of(self, agent: str, num_actors: int, gpu_bytes: int) -> tuple[int, str]:
        """Return how many questions the engine of an agent has room for, in its part of a GPU of this size that
        `num_actors` share; and why, if for none."""
        request = self._request
        model, wanted = request.dims_of(agent), self._estimates[agent].num_rows
        per_question = self._estimates[agent].cache_tokens * model.bytes_per_token // request.tp
        try:
            cache_bytes = bytes_on_gpu(
                model,
                agent,
                gpu_bytes=gpu_bytes,
                share=1 / num_actors,
                wanted=wanted * per_question,
                max_running=wanted,
                num_ranks=request.tp,
            )
        except ModelError as error:
            return 0, f"{agent}: {error.expected}"
        needed = f"{format_bytes(per_question)} for one question, and has {format_bytes(cache_bytes)}"
        rows = min(wanted, cache_bytes // per_question)
        return rows, "" if rows else f"{agent}: the cache of its engine needs {needed}"
