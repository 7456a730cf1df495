"""The rules of the DAG between agents, and its topological order."""

import heapq
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol, TypeVar

MAX_AGENTS = 1000
# Working memory is described by a tree of names that is walked recursively; these bounds keep every walk short.
MAX_LATENT_CHAIN = 100
MAX_MEMORY_NODES = 10_000


class Node(Protocol):
    """The attributes of an agent that the rules use."""

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> Sequence[str]: ...
    @property
    def thinks(self) -> str: ...


_N = TypeVar("_N", bound=Node)


class Refuse(Protocol):
    """Raises the error for one key of one agent."""

    def __call__(self, agent: str, key: str, value: str, expected: str) -> NoReturn: ...


def arrange(agents: Sequence[_N], refuse: Refuse, *, several_answer: bool = False) -> tuple[_N, ...]:
    """Return the agents in topological order. The sort is stable: it changes the given order only where it must.

    Calls `refuse`, which raises, if an agent reads an unknown agent, itself, or one agent twice; for a cycle; for a
    latent agent that reads a text agent; unless exactly one agent answers, or with `several_answer` any number; and for
    memory that is too deep.
    """
    by_name = {agent.name: agent for agent in agents}
    for agent in agents:
        _check_reads(agent, by_name, refuse)
    ordered = _topological_sort(agents, by_name, refuse)
    _check_answering(agents, refuse, several_answer)
    _check_memory(ordered, by_name, refuse)
    return ordered


def _check_reads(agent: Node, by_name: Mapping[str, Node], refuse: Refuse) -> None:
    seen: set[str] = set()
    for name in agent.reads:
        if name not in by_name:
            others = ", ".join(other for other in by_name if other != agent.name) or "none"
            refuse(agent.name, "reads", name, f"there is no agent of that name; the other agents are {others}")
        if name == agent.name:
            refuse(agent.name, "reads", name, "an agent cannot read itself")
        if name in seen:
            refuse(agent.name, "reads", name, "it is named twice; an agent's memory is read once")
        if agent.thinks == "latent" and by_name[name].thinks == "text":
            expected = (
                "a text agent hands over text, not memory: let the reader think in text, or the one it reads latently"
            )
            refuse(agent.name, "reads", name, expected)
        seen.add(name)


def _topological_sort(agents: Sequence[_N], by_name: Mapping[str, _N], refuse: Refuse) -> tuple[_N, ...]:
    readers: dict[str, list[int]] = {agent.name: [] for agent in agents}
    for position, agent in enumerate(agents):
        for name in agent.reads:
            readers[name].append(position)
    missing = [len(agent.reads) for agent in agents]
    ready = [position for position, count in enumerate(missing) if count == 0]
    ordered: list[_N] = []
    while ready:
        agent = agents[heapq.heappop(ready)]
        ordered.append(agent)
        for position in readers[agent.name]:
            missing[position] -= 1
            if missing[position] == 0:
                heapq.heappush(ready, position)
    if len(ordered) < len(agents):
        stuck = {agent.name for agent, count in zip(agents, missing, strict=True) if count}
        cycle = _find_cycle(next(agent.name for agent in agents if agent.name in stuck), stuck, by_name)
        refuse(cycle[0], "reads", " reads ".join(cycle), "agents must not read each other in a circle")
    return tuple(ordered)


def _find_cycle(start: str, stuck: set[str], by_name: Mapping[str, Node]) -> list[str]:
    """Return a cycle among `stuck` agents, each of which reads another. The last name repeats the first."""
    path: list[str] = []
    name = start
    while name not in path:
        path.append(name)
        name = next(read for read in by_name[name].reads if read in stuck)
    return [*path[path.index(name) :], name]


def _check_answering(agents: Sequence[Node], refuse: Refuse, several_answer: bool) -> None:
    read = {name for agent in agents for name in agent.reads}
    candidates = [agent for agent in agents if agent.name not in read]
    if len(candidates) > 1 and not several_answer:
        names = ", ".join(agent.name for agent in candidates)
        expected = (
            "no agent reads these, but exactly one agent must answer: let it read the others, remove them, or say by "
            "which rule one answer is made of several (decides)"
        )
        refuse(candidates[1].name, "", names, expected)
    for agent in candidates:
        if agent.thinks != "text":
            expected = "no agent reads this one, so it answers and must have `thinks: text`"
            refuse(agent.name, "thinks", agent.thinks, expected)


def _check_memory(ordered: Sequence[Node], by_name: Mapping[str, Node], refuse: Refuse) -> None:
    depth: dict[str, int] = {}
    num_nodes: dict[str, int] = {}
    for agent in ordered:
        latent = [name for name in agent.reads if by_name[name].thinks == "latent"]
        depth[agent.name] = max((depth[name] + 1 for name in latent), default=0)
        num_nodes[agent.name] = sum(num_nodes[name] for name in latent) + 1
        if depth[agent.name] > MAX_LATENT_CHAIN:
            expected = f"a chain of latent agents may have at most {MAX_LATENT_CHAIN} of them"
            refuse(agent.name, "reads", ", ".join(agent.reads), expected)
        if num_nodes[agent.name] > MAX_MEMORY_NODES:
            expected = f"more than {MAX_MEMORY_NODES} paths lead from it to earlier agents; let it read fewer"
            refuse(agent.name, "reads", ", ".join(agent.reads), expected)
