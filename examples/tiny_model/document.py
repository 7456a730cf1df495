"""A training document, and the mix of documents of a training step."""

from dataclasses import dataclass

from latentmas_ray.tasks.notes import NUM_EXPERTS, WANTED, Wanted

# The kinds of targets, which have separate curves.
KINDS = ("recall", "drill", "repeat", "chain", *WANTED)


@dataclass(frozen=True)
class DocumentPart:
    """Consecutive token ids. With a `kind`, they are targets of the loss. With `soft`, soft tokens that are mixed from
    these and others are read in their place (`examples/tiny_model/soft.py`)."""

    ids: list[int]
    kind: str | None = None
    soft: bool = False


@dataclass(frozen=True)
class Document:
    """Consecutive `shared` segments, followed by `branches`. `gaps[i]` positions are left free after segment i.

    `parallel`: the shared segments do not see each other, like merged memories.
    """

    shared: list[list[DocumentPart]]
    branches: list[list[DocumentPart]]
    gaps: list[int]
    parallel: bool = False


@dataclass(frozen=True)
class Mix:
    """How often each kind of document occurs, and how hard they are. One stage of the curriculum."""

    recall: float = 0.1
    drill: float = 0.05
    chain: float = 0.25
    num_experts: tuple[int, int] = (NUM_EXPERTS, NUM_EXPERTS)
    num_facts: tuple[int, int] = (1, 5)
    wanted: tuple[Wanted, ...] = WANTED
    max_filler: int = 48
    max_recall: int = 60
    soft: float = 0.0  # how often agents add soft tokens
    blind: float = 0.0  # share of the documents about notes whose questions do not see the notes
    solo: float = 0.85  # share of the word problems without memory of other agents
    max_gap: int = 80
