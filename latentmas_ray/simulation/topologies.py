"""The topologies that are simulated: built-in ones, files, and a wide one."""

from latentmas_ray.errors import TopologyError
from latentmas_ray.topology import BUILTIN, Agent, Topology, load_topology
from latentmas_ray.topology.validation import did_you_mean

WIDE = "wide"
_EXPERTS = 12
_REVIEWERS = 4


def topology_of(name: str) -> Topology:
    """Return the topology of this name or file. Raises TopologyError if there is none."""
    if name == WIDE:
        return wide()
    if name not in BUILTIN and not name.lower().endswith((".yaml", ".yml")):
        known = (*BUILTIN, WIDE)
        expected = f"it must be a built-in topology ({', '.join(known)}) or the path of a FILE.yaml"
        raise TopologyError("topology", name, did_you_mean(name, known) + expected)
    return load_topology(name)


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
