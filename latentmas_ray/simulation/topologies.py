"""The topologies that are simulated: built-in ones, files, and a wide one."""

from latentmas_ray.topology import Agent, Topology, load_topology

WIDE = "wide"
_EXPERTS = 12
_REVIEWERS = 4


def topology_of(name: str) -> Topology:
    """Return the topology of this name or file. Raises TopologyError if there is none."""
    return wide() if name == WIDE else load_topology(name)


def wide(num_experts: int = _EXPERTS, num_reviewers: int = _REVIEWERS) -> Topology:
    """Return a directed acyclic graph of two wide layers: experts, reviewers that each read all of them, and one agent
    that reads the reviewers and writes. `num_experts` and `num_reviewers` must be at least 1."""
    experts = [f"expert_{number}" for number in range(1, num_experts + 1)]
    reviewers = [f"reviewer_{number}" for number in range(1, num_reviewers + 1)]
    prompt = "{{ question }}"
    return Topology(
        name=WIDE,
        agents=(
            *(Agent(name=name, prompt=prompt) for name in experts),
            *(Agent(name=name, prompt=prompt, reads=tuple(experts)) for name in reviewers),
            Agent(name="summariser", prompt=prompt, thinks="text", reads=tuple(reviewers)),
        ),
    )
