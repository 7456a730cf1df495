"""Several memories as one: parallel branches, in which agents of one name get a number."""

import re
from collections.abc import Collection, Sequence

from latentmas_ray.errors import MemoryInputError, SegmentError
from latentmas_ray.memory.memory_segment import MemorySegment
from latentmas_ray.memory.working_memory import Memory
from latentmas_ray.topology.agent import AgentMemory

MAX_NAME_CHARS = 64
_Agent = tuple[MemorySegment | None, str | None, tuple[AgentMemory, ...]]  # what it handed over, wrote and read


def combine(memories: Sequence[Memory]) -> Memory:
    """See `Memory.merge`."""
    if isinstance(memories, Memory) or not all(isinstance(memory, Memory) for memory in memories):
        raise MemoryInputError("memories", memories, "it must be a list of Memory objects")
    if not memories:
        raise SegmentError("no memory to merge")
    specs = [memory.spec for memory in memories if memory.spec is not None]
    for spec in specs[1:]:
        specs[0].check_same(spec)
    if not all(memory.has_kv for memory in memories):
        memories = [memory.without_kv() for memory in memories]
    merged = _Merged({name for memory in memories for name in (*memory.tree, *memory.texts)})
    for memory in memories:
        merged.add(memory)
    return Memory(
        model=memories[0].model,
        question="\n".join(dict.fromkeys(memory.question for memory in memories)),
        reads=tuple(merged.reads),
        segments=merged.segments,
        texts=merged.texts,
    )


class _Merged:
    """What has been merged so far. No agent is given a name that another one has in some memory."""

    def __init__(self, names: set[str]) -> None:
        self.reads: dict[AgentMemory, None] = {}
        self.segments: dict[str, MemorySegment] = {}
        self.texts: dict[str, str] = {}
        self._names = names
        self._agents: dict[str, _Agent] = {}
        self._tree: dict[str, AgentMemory] = {}

    def add(self, memory: Memory) -> None:
        renamed: dict[str, str] = {}
        for name in dict.fromkeys((*memory.tree, *memory.texts)):
            node, segment, text = memory.tree.get(name), memory.segments.get(name), memory.texts.get(name)
            reads = () if node is None else tuple(self._tree[renamed[read.agent]] for read in node.reads)
            new = self._name_for(name, (segment, text, reads), set(renamed.values()))
            renamed[name] = new
            self._agents[new] = segment, text, reads
            if segment is not None:
                self.segments[new], self._tree[new] = segment, AgentMemory(new, reads)
        self.texts.update({renamed[name]: text for name, text in memory.texts.items()})
        self.reads.update(dict.fromkeys(self._tree[renamed[root.agent]] for root in memory.reads))

    def _name_for(self, name: str, agent: _Agent, own: Collection[str]) -> str:
        """The name itself, that of the same agent where another memory has it (not one of `own`), or a new one."""
        if name not in self._agents:
            return name
        numbered = re.compile(rf"{re.escape(name)}(-\d+)?")
        for other, known in self._agents.items():
            if numbered.fullmatch(other) and other not in own and known == agent:
                return other
        number = 2
        while (new := f"{name[: MAX_NAME_CHARS - len(f'-{number}')]}-{number}") in self._agents or new in self._names:
            number += 1
        return new
