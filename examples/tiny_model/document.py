"""A training document, and the mix of documents that a step is made of."""

from dataclasses import dataclass

from latentmas_ray.tasks.notes import NUM_EXPERTS, WANTED, Wanted

# What is learned, and told apart in the curves.
KINDS = ("recall", "drill", "repeat", "chain", *WANTED)


@dataclass(frozen=True)
class DocumentPart:
    """Token ids that stand together; those of a `kind` are targets of the loss. `soft` ones are only a part of what is
    read in their place (`examples/tiny_model/soft.py`)."""

    ids: list[int]
    kind: str | None = None
    soft: bool = False


@dataclass(frozen=True)
class Document:
    """`shared` segments, one after another, and `branches` behind them. `gaps[i]` positions stay free after segment i.

    `parallel`: the shared segments do not see one another, as memories that are merged.
    """

    shared: list[list[DocumentPart]]
    branches: list[list[DocumentPart]]
    gaps: list[int]
    parallel: bool = False


@dataclass(frozen=True)
class Mix:
    """What a step is made of: how often which document, and how hard they are. A stage of the curriculum."""

    recall: float = 0.1
    drill: float = 0.05
    chain: float = 0.25
    num_experts: tuple[int, int] = (NUM_EXPERTS, NUM_EXPERTS)
    num_facts: tuple[int, int] = (1, 5)
    wanted: tuple[Wanted, ...] = WANTED
    max_filler: int = 48
    max_recall: int = 60
    soft: float = 0.0  # how often agents add soft tokens
    blind: float = 0.0  # share of the documents with notes of which the questions see nothing
    solo: float = 0.85  # share of the word problems without memory of others
    max_gap: int = 80
