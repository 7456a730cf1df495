"""What is trained and judged: teams of two models, kinds of maps, and sizes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from latentmas_ray.config import EMBEDDED_MODELS
from latentmas_ray.errors import ConfigError
from latentmas_ray.models.names import absolute_name, check_name

# free: the map that needs no training. words: regression to the reader's words. unseen: the same from notes without the
# names of the questions. answers: the loss of the reader's answers, from the map that needs no training. both: the same
# from words.
MapKind = Literal["free", "words", "unseen", "answers", "both"]
TRAINED: tuple[MapKind, ...] = ("words", "unseen", "answers", "both")
# alone: the reader gets thoughts alone. all: prompts and thoughts.
Setting = Literal["alone", "all"]


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """How a map is trained. Equal settings and seeds give equal maps.

    `batch_size` documents make a batch; a document is the notes of three experts, and questions about them.
    `num_batches` are those of the regression, `num_steps` those of the answers' loss. `thoughts` and `latent_steps` are
    the writer's.
    """

    writer: str
    reader: str
    kind: MapKind
    thoughts: str = "soft"
    latent_steps: int = 40
    batch_size: int = 8
    num_batches: int = 40
    num_steps: int = 240

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return the settings of a cell."""
        return cls(**{name: value for name, value in settings.items() if name in cls.__dataclass_fields__})

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a cell has them."""
        return asdict(self)


def parse_teams(text: str) -> list[tuple[str, str]]:
    """Split `tiny+small,small+tiny` into pairs of a writer's and a reader's model, folders as absolute paths.

    Raises ConfigError for another form, for one model on both sides, for a reader that was not trained to answer such
    questions, and for two teams of one name; ModelError for a model that is not there.
    """
    teams = []
    for team in text.split(","):
        writer, plus, reader = team.strip().partition("+")
        if not plus or not writer or not reader or writer == reader:
            raise ConfigError("teams", team, "it must be WRITER+READER, two models, as in tiny+small")
        if reader not in EMBEDDED_MODELS:
            expected = f"the reader must be {' or '.join(EMBEDDED_MODELS)}: no other was trained for notes"
            raise ConfigError("teams", team, expected)
        check_name(writer)
        teams.append((absolute_name(writer), reader))
    if len({team_name(*team) for team in teams}) < len(teams):
        raise ConfigError("teams", text, "it must name each team once")
    return teams


def team_name(writer: str, reader: str) -> str:
    """Return the name of a team, as in `tiny-small`."""
    return f"{Path(writer).name}-{reader}"
