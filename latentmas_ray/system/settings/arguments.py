"""The arguments of `LatentMAS` that are not fields of its configuration."""

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, ModelError, TopologyError
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.topology import Topology

if TYPE_CHECKING:
    from latentmas_ray.models.given import GivenModel


def check_arguments(model: object, topology: object, observer: object) -> None:
    """Check the types of arguments that are not fields. Raises ModelError, TopologyError or ConfigError."""
    if isinstance(model, PurePath | Topology):
        raise ModelError("model", str(model), "it must be text, or a model object; give a folder as str(folder)")
    if not isinstance(topology, str | Topology | None):
        expected = "it must be a name, a file name as text, or a Topology, as Topology(name=…, agents=[…]) makes one"
        raise TopologyError("topology", topology, expected)
    if observer is not None and (isinstance(observer, type) or not isinstance(observer, Observer)):
        raise ConfigError("observer", observer, "it must be an object with a method on_event(event); see Observer")


def given_model(model: Any, tokenizer: Any) -> "GivenModel | None":
    """Return a model object and its tokenizer as one; None if `model` is a name or None. Raises ModelError."""
    if model is None or isinstance(model, str | RunConfig):
        if tokenizer is not None:
            raise ModelError("tokenizer", type(tokenizer).__name__, "it belongs to a model object; a name has its own")
        return None
    if tokenizer is None:
        raise ModelError("tokenizer", "nothing", f"a model object ({type(model).__name__}) needs its tokenizer")
    from latentmas_ray.models.given import GivenModel  # needs transformers, which the caller has imported

    return GivenModel(model, tokenizer)
